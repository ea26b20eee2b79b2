"""The judge client: every needed call once, its reply kept, whatever happens in between.

Rows go to an append-only file, one for each call, keyed by the hash of the whole request. A run
makes only the calls that have no reply yet; a call that failed is stored with its error and made
again by the next run. Replies without a verdict are kept, counted and not asked again unless told.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wrpo_lib.errors import WRPOError
from wrpo_lib.evaluation import verdicts
from wrpo_lib.evaluation.calls import BASELINE_FIRST, Call, JudgingPlan
from wrpo_lib.io import Store

if TYPE_CHECKING:
    from wrpo_lib.server import Reply, Server

KEY = ("request", "attempt", "status")
OK, UNREADABLE, ERROR = "ok", "unreadable", "error"
CHARACTERS_A_TOKEN = 4  # a common rule of thumb for English; estimates only
# tokens of a reply, for estimates: MT-Bench the mean of published judgements (4 characters a
# token), Arena-Hard ours (the judge is asked to answer the prompt itself first)
TYPICAL = {"mt-bench": 200, "arena-hard": 700}
FIRST = 8  # as many errors, or replies without log-probabilities, at the start end the run


@dataclass(frozen=True)
class Prices:
    """Money for a million tokens, in whatever currency the user thinks in."""

    prompt: float
    completion: float

    def cost(self, prompt_tokens: float, completion_tokens: float) -> float:
        """What these tokens cost."""
        return (prompt_tokens * self.prompt + completion_tokens * self.completion) / 1e6


# of 2024: prompts as in alpaca-eval 0.6.6 (decoders/openai.py), completions as OpenAI listed them
KNOWN_PRICES = {
    "gpt-4-1106-preview": Prices(10, 30),
    "gpt-4o-mini-2024-07-18": Prices(0.15, 0.60),
}


@dataclass
class Counts:
    """What a run needs (an estimate) or has done."""

    calls: int = 0
    kept: int = 0
    identical: int = 0
    prompt_tokens: float = 0
    completion_tokens: float = 0
    cost: float | None = None
    seconds: float = 0.0
    status: Counter[str] = field(default_factory=Counter)
    problems: Counter[str] = field(default_factory=Counter)
    stopped: str | None = None


def done(store: Store, again: bool = False) -> set[str]:
    """Requests that need no call; ``again`` asks unreadable ones once more."""
    settled = (OK,) if again else (OK, UNREADABLE)
    keys = store.keys()
    return {request for request, _, status in keys if status in settled}


def estimate(
    plan: JudgingPlan, calls: Iterable[Call], finished: set[str], prices: Prices | None
) -> Counts:
    """Calls, tokens and cost that are still needed; prompts are rendered, not kept."""
    counts = Counts()
    settings = plan.settings
    reply = min(settings["max_tokens"], TYPICAL.get(plan.benchmark.name, 1))
    for call in calls:
        if call.row["request"] in finished:
            counts.kept += 1
        elif call.body is None:
            counts.identical += 1
        else:
            counts.calls += 1
            size = sum(len(m["content"]) for m in call.body["messages"])
            counts.prompt_tokens += size / CHARACTERS_A_TOKEN
            counts.completion_tokens += reply
    if prices:
        counts.cost = prices.cost(counts.prompt_tokens, counts.completion_tokens)
    return counts


class Run:
    """One run of the client over a store of judgements."""

    def __init__(
        self, plan: JudgingPlan, store: Store, server: Server,
        prices: Prices | None = None, max_cost: float | None = None, again: bool = False,
    ) -> None:  # fmt: skip
        if max_cost is not None and prices is None:
            raise WRPOError(
                f"--max-cost needs a price and none is known for {plan.judge!r}; give "
                "--price-prompt and --price-completion for a million tokens (0 for your own server)"
            )
        self.plan, self.store, self.server = plan, store, server
        self.prices, self.max_cost, self.again = prices, max_cost, again
        self.counts = Counts(cost=0.0 if prices else None)
        self._open: dict[str, dict[str, Any]] = {}
        keys = store.keys()
        self._attempts = Counter(request for request, _, _ in keys)
        self._first: list[str] = []

    def __call__(
        self, calls: Iterable[Call], progress: Callable[[], object] = lambda: None
    ) -> Counts:
        """Make every missing call; rows are in the store when this returns or raises."""
        from wrpo_lib.server import complete

        started = time.monotonic()
        try:
            for reply in complete(self.server, self._requests(calls), stop=self._stop):
                self._keep(self._open.pop(reply.key), reply)
                progress()
        finally:
            self.counts.seconds = time.monotonic() - started
        return self.counts

    def _requests(self, calls: Iterable[Call]) -> Iterator[tuple[str, dict[str, Any]]]:
        finished = done(self.store, self.again)
        for call in calls:
            if call.row["request"] in finished:
                self.counts.kept += 1
                continue
            if call.body is None:
                self.counts.identical += 1
                self._append({**call.row, "metric": "identical outputs", "preference": 1.5}, OK)
                continue
            self._open[call.row["request"]] = call.row
            yield call.row["request"], call.body

    def _keep(self, row: dict[str, Any], reply: Reply) -> None:
        self.counts.calls += 1
        if reply.error is not None or reply.body is None:
            error = reply.error or "the server sent no body"
            self._append({**row, "judgment": None, "problem": error, **missing(self.plan)}, ERROR)
            return
        self._spend(reply.body)
        found = read(self.plan, row, reply.body)
        served = {k: reply.body.get(k) for k in ("model", "system_fingerprint")}
        usage = {k: v for k, v in (reply.body.get("usage") or {}).items() if isinstance(v, int)}
        text = verdicts.text_of(reply.body)
        served["server"] = self.server.address
        full = {**row, "served": served, "usage": usage, "judgment": text, **found}
        self._append(full, OK if found["problem"] is None else UNREADABLE)

    def _append(self, row: dict[str, Any], status: str) -> None:
        request = row["request"]
        self._attempts[request] += 1
        self.counts.status[status] += 1
        problem = row.get("problem")
        if problem:
            self.counts.problems[problem] += 1
        if len(self._first) < FIRST:
            hopeless = status == ERROR or problem == verdicts.NO_LOGPROBS
            self._first.append(str(problem) if hopeless else "")
        judged = datetime.now(UTC).isoformat(timespec="seconds")
        head = {"attempt": self._attempts[request], "status": status, "judged": judged}
        self.store.append({**row, **head})

    def _spend(self, body: dict[str, Any]) -> None:
        usage = body.get("usage") or {}
        prompt, completion = usage.get("prompt_tokens") or 0, usage.get("completion_tokens") or 0
        self.counts.prompt_tokens += prompt
        self.counts.completion_tokens += completion
        if self.prices:
            self.counts.cost = (self.counts.cost or 0.0) + self.prices.cost(prompt, completion)

    def _stop(self) -> bool:
        """Whether to make no more calls: the money is spent, or the start shows it is hopeless."""
        if self.max_cost is not None and (self.counts.cost or 0.0) >= self.max_cost:
            self.counts.stopped = f"--max-cost {self.max_cost:g} is reached"
        elif len(self._first) == FIRST and len(set(self._first)) == 1 and self._first[0]:
            self.counts.stopped = f"the first {FIRST} calls all failed: {self._first[0]}"
        return self.counts.stopped is not None


def missing(plan: JudgingPlan) -> dict[str, None]:
    """The result fields of a row that has no result."""
    if plan.benchmark.name == "alpaca-eval":
        return {"preference": None}
    return {"verdict": None, "winner": None} if plan.pairwise else {"score": None}


def read(plan: JudgingPlan, row: dict[str, Any], body: dict[str, Any]) -> dict[str, Any]:
    """The result fields of a row from the server's reply, and ``problem`` (None if there is none).

    AlpacaEval-2 ``preference`` in [1, 2], 2 for the model; Arena-Hard ``verdict`` and ``winner``;
    MT-Bench ``score``, or ``verdict`` and ``winner`` in pairwise mode.
    """
    text, name = verdicts.text_of(body), plan.benchmark.name
    if name == "alpaca-eval":
        weighted = plan.metric == "logprobs"
        found = verdicts.read_logprobs(body) if weighted else verdicts.read_token(text)
        value: Any = found.value
        if isinstance(value, float) and row["order"] != BASELINE_FIRST:
            value = 3 - value
        return {"preference": value, "problem": found.problem, **(found.details or {})}
    if not plan.pairwise:
        found = verdicts.read_rating(text)
        return {"score": found.value, "problem": found.problem}
    pair = name == "mt-bench"
    found = verdicts.read_pair(text) if pair else verdicts.read_arena(text, plan.benchmark.version)
    verdict = None if found.value is None else str(found.value)
    return {"verdict": verdict, "winner": winner(verdict, row["order"]), "problem": found.problem}


def winner(verdict: str | None, order: str) -> str | None:
    """Who a verdict is for: model, baseline or tie."""
    if verdict is None or verdict in ("A=B", "C"):
        return "tie" if verdict else None
    is_a = verdict.startswith("A")
    return "baseline" if is_a == (order == BASELINE_FIRST) else "model"


def judgements(path: Path) -> list[dict[str, Any]]:
    """The rows that count: for each call its best, an answered one before a failed one.

    Failed calls stay in the list, with status ``error`` or ``unreadable`` and no result, so
    that whoever summarises them can count what is missing.
    """
    if not path.is_file():
        raise WRPOError(f"{path} does not exist; run `wrpo judge` first")
    rank = {ERROR: 0, UNREADABLE: 1, OK: 2}
    best: dict[str, dict[str, Any]] = {}
    with Store(path, KEY) as store:
        for row in store:
            known = best.get(row["request"])
            if known is None or rank[row["status"]] >= rank[known["status"]]:
                best[row["request"]] = row
    return list(best.values())
