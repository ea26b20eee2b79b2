"""The judge client: every needed call once, its reply kept, whatever happens in between.

Rows have the hash of the whole request. A call that failed is stored and made again by the next
run. A reply without a verdict, or with two different ones, is kept with the ``problem``, counted
and not asked again.
"""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

import numpy as np
from scipy.special import expit

from wrpo_lib.errors import WRPOError
from wrpo_lib.evaluation import forms
from wrpo_lib.evaluation.benchmarks import Benchmark, Question
from wrpo_lib.evaluation.forms import BASELINE_FIRST, ERROR, MODEL_FIRST, Texts
from wrpo_lib.evaluation.scores import FOR_A
from wrpo_lib.io import Row, Store
from wrpo_lib.replies import read_reply
from wrpo_lib.server import Server, complete, without_secrets

KEY = ("request", "attempt", "status")
NOTHING = dict.fromkeys(("calls", "kept", "identical", "prompt_tokens", "completion_tokens"), 0)
# the field of a judgement that holds the verdict
FIELDS = {"alpaca-eval": "preference", "mt-bench": "score", "arena-hard": "verdict"}
MAX_FAILURES = 8  # calls, if all calls so far failed, after which judging stops
LIMITS = ("max_completion_tokens", "max_tokens")  # of a reply
NO_LOGPROBS = "log-probabilities missing"
THOUGHT_FIRST = "a thought before the answer, so its log-probabilities are not the first token's"

Call = tuple[Row, Row | None]  # of what; the request, None where both answers are the same text
Reading = tuple[float | str | None, str | None]  # the verdict, or None; why there is none


@dataclass(frozen=True)
class Plan:
    """How to judge.

    ``order``: ``both`` judges each pair twice with the answers swapped; ``upstream`` as the
    benchmark's own tool does (AlpacaEval-2: one seeded random order; Arena-Hard swaps anyway).
    ``metric`` (AlpacaEval-2): ``logprobs`` weighs the first token's probabilities, ``text`` takes
    the verdict that was written. ``extra_body`` is merged into requests; None removes a field.
    """

    benchmark: Benchmark
    judge: str
    order: Literal["both", "upstream"] = "both"
    metric: Literal["logprobs", "text"] = "logprobs"
    extra_body: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        limits = [self.extra_body.get(name) for name in LIMITS]
        whole = all(n is None or (type(n) is int and n > 0) for n in limits)
        if not whole or {"model", "messages"} & self.extra_body.keys():
            remedy = f"{' and '.join(LIMITS)} are whole numbers, model and messages are fixed"
            raise WRPOError(f"--extra-body {self.extra_body} cannot be sent; {remedy}")

    def calls(
        self, model: str, answers: Texts, baseline: tuple[str, Texts] | None = None
    ) -> Iterator[Call]:
        """Every call for a model's answers, question by question; unanswered turns are skipped.

        ``baseline``: name and answers of the model to compare with; MT-Bench needs none.
        """
        alpaca = self.benchmark.name == "alpaca-eval"
        for question in self.benchmark.questions:
            own: list[str] = []
            for turn in range(1, len(question.turns) + 1):
                if (ours := answers.get((question.question_id, turn))) is None:
                    break
                own.append(ours)
                row = {"turn": turn, "model": model, "length_model": len(ours)}
                if baseline is None:
                    values = {f"answer_{t}": text for t, text in enumerate(own, 1)}
                    yield self._call(question, row, {"answer": own[0], **values})
                    continue
                name, texts = baseline
                if (theirs := texts.get((question.question_id, 1))) is None:
                    what = f"{name!r} has no answer to question {question.question_id!r}"
                    raise WRPOError(f"{what}; complete its file")
                row |= {"baseline": name, "length_baseline": len(theirs)}
                orders = [(BASELINE_FIRST, theirs, ours), (MODEL_FIRST, ours, theirs)]
                if alpaca and self.order == "upstream":
                    orders = [orders[forms.instruction(question.turns[0])[1] == MODEL_FIRST]]
                for order, a, b in orders:
                    game = {"order": order, "game": 1 if order == BASELINE_FIRST else 2}
                    values = {"output_1": a, "answer_1": a, "output_2": b, "answer_2": b}
                    judged, body = self._call(question, row | game, values)
                    yield judged, None if alpaca and ours == theirs else body

    def _call(self, question: Question, row: Row, values: dict[str, str]) -> Call:
        of, template = self.benchmark, self.benchmark.template(question, row["turn"])
        weighted = of.name == "alpaca-eval" and self.metric == "logprobs"
        metric = "weighted" if weighted else "score" if of.name == "mt-bench" else "verdict"
        without = {} if weighted else {"logprobs": None, "top_logprobs": None}
        settings = of.judge_settings | self.extra_body | without
        settings = {name: value for name, value in settings.items() if value is not None}
        values |= {"instruction": question.turns[0], "question": question.turns[0]}
        values |= {f"question_{i}": text for i, text in enumerate(question.turns, 1)}
        values |= {f"ref_answer_{i}": text for i, text in enumerate(question.references, 1)}
        body = {"model": self.judge, "messages": template.fill(values), **settings}
        row |= {"benchmark": of.name, "version": of.version, "judge": self.judge, "metric": metric}
        row |= {"question_id": question.question_id, "settings": without_secrets(settings)}
        parts = [("system", template.system), ("user", template.user)]
        row |= {"template": template.name, "template_sha256": _hash(parts)}
        request = _hash([body, row["model"], question.question_id, row.get("game", 0)])
        return {**row, "request": request}, body


class Run:
    """One run of the client over a store of judgements.

    ``prices`` are of a million prompt and completion tokens; ``max_cost`` ends the run when the
    tokens that the server reported have cost that much, and ``stopped`` then says so.
    """

    def __init__(
        self,
        store: Store,
        server: Server,
        prices: tuple[float, float] | None = None,
        max_cost: float | None = None,
    ) -> None:
        if max_cost is not None and not (prices and all(n >= 0 for n in (max_cost, *prices))):
            raise WRPOError("--max-cost needs --prices, of a million tokens; give both from 0 on")
        self.store, self.server, self.max_cost = store, server, max_cost
        self.prices = prices or (0.0, 0.0)
        self._attempts = Counter(row["request"] for row in store)
        rows = ((str(store.path), row) for row in store)
        self._made = {forms.place(row): row for _, row in forms.best_attempts(rows)}
        self.counts, self.status, self.problems = Counter(NOTHING), Counter[str](), Counter[str]()
        self.stopped = ""

    def cost(self, counts: Counter[str]) -> float:
        """What the tokens cost; 0 without prices."""
        prompt, completion = self.prices
        return (counts["prompt_tokens"] * prompt + counts["completion_tokens"] * completion) / 1e6

    def estimate(self, calls: Iterable[Call]) -> Counter[str]:
        """``calls`` and tokens (of the replies at most) that are still needed; ``kept`` calls and
        ``identical`` pairs need none."""
        counts = Counter(NOTHING)
        for _, body in self._needed(calls, counts, append=False):
            size = sum(len(message["content"]) for message in body["messages"])
            most = next((body[name] for name in LIMITS if name in body), 0)
            # four characters a token: a rule of thumb for English
            counts.update(calls=1, prompt_tokens=size // 4, completion_tokens=most)
        return counts

    def __call__(self, calls: Iterable[Call]) -> Counter[str]:
        """Make every missing call; rows are in the store when this returns or raises."""
        requests = self._needed(calls, self.counts)
        for row, reply, error in complete(self.server, requests, stop=self._stop):
            body = reply or {}
            used = body["usage"] if isinstance(body.get("usage"), dict) else {}
            counts = {name: used.get(name) for name in ("prompt_tokens", "completion_tokens")}
            # what is no count is 0
            usage = {k: n if type(n) is int and 0 <= n < 2**53 else 0 for k, n in counts.items()}
            self.counts.update(usage, calls=1)  # what a failed one used is paid for all the same
            try:
                if error:
                    raise WRPOError(error)
                found = read_judgement(row, body)
                status = "unreadable" if found["problem"] else "ok"
            except WRPOError as failure:
                found = {FIELDS[row["benchmark"]]: None, "judgment": None, "problem": str(failure)}
                status = ERROR
            served = {"model": str(body.get("model")), "server": self.server.address}
            self._append({**row, **found, "served": served, "usage": usage}, status)
        return self.counts

    def _needed(
        self, calls: Iterable[Call], counts: Counter[str], append: bool = True
    ) -> Iterator[tuple[Row, Row]]:
        """The calls to make; the others are counted, and identical pairs get their rows."""
        for row, body in calls:
            before = self._made.get(forms.place(row))
            if before is not None and before["status"] != ERROR:
                forms.check_same(before, row, str(self.store.path))
                counts["kept"] += 1
            elif body is not None:
                yield row, body
            else:
                counts["identical"] += 1
                if append:
                    self._append({**row, "preference": 1.5, "problem": None}, "ok")

    def _append(self, row: Row, status: str) -> None:
        self._attempts[row["request"]] += 1
        self.status[status] += 1
        self.problems.update([row["problem"]] if row["problem"] else [])
        judged = datetime.now(UTC).isoformat(timespec="seconds")
        head = {"attempt": self._attempts[row["request"]], "status": status, "judged": judged}
        self.store.append(row | head)

    def _stop(self) -> bool:
        """Whether to make no more calls: the money is spent, or all calls so far failed."""
        failed = self.status[ERROR] + self.problems[NO_LOGPROBS] + self.problems[THOUGHT_FIRST]
        if self.max_cost is not None and self.cost(self.counts) >= self.max_cost:
            self.stopped = f"--max-cost {self.max_cost:g} is reached"
        elif failed == self.counts["calls"] >= MAX_FAILURES:
            ((problem, _),) = self.problems.most_common(1)
            self.stopped = f"the first {MAX_FAILURES} calls all failed: {problem}"
        return bool(self.stopped)


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def read_judgement(row: Row, body: Row) -> Row:
    """The verdict in a server's reply by the name in ``FIELDS``, ``problem`` and ``judgment``;
    ``row`` has ``benchmark``, ``metric``, ``order``. Errors: :func:`wrpo_lib.replies.read_reply`.
    """
    said = read_reply(body)
    if row["metric"] == "weighted":
        value, problem = (None, THOUGHT_FIRST) if said.thought else read_logprobs(body)
    else:
        value, problem = read_text(row["benchmark"], said.text)
    if isinstance(value, float) and row.get("order") == MODEL_FIRST:
        value = 3 - value
    found = {FIELDS[row["benchmark"]]: value, "problem": problem, "judgment": said.text}
    return found | ({"thought": said.thought} if said.thought else {})


def read_logprobs(body: Row) -> Reading:
    """AlpacaEval-2: 2 − p(m)/(p(m) + p(M)) from the first token's log-probabilities, in [1, 2].

    2 means that the output shown as M certainly wins. A token that is not listed has probability
    0; with neither there, the preference is missing (upstream's rule).
    """
    try:
        first = body["choices"][0]["logprobs"]["content"][0]["top_logprobs"]
        listed = [(t["token"], float(t["logprob"])) for t in first if t["token"] in ("m", "M")]
    except (LookupError, TypeError, ValueError, OverflowError):
        return None, NO_LOGPROBS
    values = dict(listed)
    if not first or len(values) < len(listed) or not np.isfinite(list(values.values())).all():
        return None, NO_LOGPROBS
    if not values:
        return None, "neither m nor M among the log-probabilities"
    return 1 + float(expit(values.get("M", -np.inf) - values.get("m", -np.inf))), None


def read_text(benchmark: str, text: str) -> Reading:
    """The verdict as written; of several different ones, none counts.

    AlpacaEval-2: the reply itself is m (1) or M (2). Arena-Hard: ``[[label]]`` (v0.1's rule).
    MT-Bench: ``[[x]]``, else ``[x]``, from 1 to 10 (FastChat takes the first).
    """
    found: set[Any]
    if benchmark == "alpaca-eval":
        word = text.strip(" \t\r\n\"'`*.()[]")
        found = {1.0 + (word == "M")} if word in ("m", "M") else set()
    elif benchmark == "arena-hard":
        found = set(re.findall(r"\[\[([AB<>=]+)\]\]", text))
        found = set() if len(found) == 1 and not found <= FOR_A.keys() else found
    else:
        number = r"\[(\d+\.?\d*)\]"
        numbers = re.findall(rf"\[{number}\]", text) or re.findall(number, text)
        found = {float(number) for number in numbers}
    if len(found) != 1:
        return None, "two verdicts" if found else "no verdict"
    (value,) = found
    if isinstance(value, float) and not 1 <= value <= 10:
        return None, f"score {value:g} is outside 1 to 10"
    return value, None
