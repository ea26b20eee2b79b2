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
from typing import TYPE_CHECKING, Any

from wrpo_lib.errors import WRPOError
from wrpo_lib.evaluation import verdicts
from wrpo_lib.evaluation.calls import Call, JudgingPlan
from wrpo_lib.evaluation.judgements import ERROR, OK, UNREADABLE
from wrpo_lib.io import Row, Store

if TYPE_CHECKING:
    from wrpo_lib.server import Reply, Server

KEY = ("request", "attempt", "status")
CHARACTERS_PER_TOKEN = 4  # a common rule of thumb for English; estimates only
# tokens of a reply, for estimates: MT-Bench the mean of published judgements (4 characters per
# token), Arena-Hard ours (the judge is asked to answer the prompt itself first)
TYPICAL_REPLY = {"mt-bench": 200, "arena-hard": 700}
FIRST = 8  # as many errors, or replies without log-probabilities, at the start end the run


@dataclass(frozen=True)
class Prices:
    """Money for a million tokens, in whatever currency the user thinks in."""

    prompt: float
    completion: float


# of 2024: prompts as in alpaca-eval 0.6.6 (decoders/openai.py), completions as OpenAI listed them
KNOWN_PRICES = {
    "gpt-4-1106-preview": Prices(10, 30),
    "gpt-4o-mini-2024-07-18": Prices(0.15, 0.60),
}


@dataclass
class Counts:
    """What a run needs (an estimate) or has done; ``cost`` is None without prices."""

    prices: Prices | None = None
    calls: int = 0
    kept: int = 0
    identical: int = 0
    prompt_tokens: float = 0
    completion_tokens: float = 0
    seconds: float = 0.0
    status: Counter[str] = field(default_factory=Counter)
    problems: Counter[str] = field(default_factory=Counter)
    stopped: str | None = None

    @property
    def cost(self) -> float | None:
        """What the tokens cost."""
        if self.prices is None:
            return None
        prompt = self.prompt_tokens * self.prices.prompt
        return (prompt + self.completion_tokens * self.prices.completion) / 1e6


def done(store: Store, again: bool = False) -> set[str]:
    """Requests that need no call; ``again`` asks unreadable ones once more."""
    settled = (OK,) if again else (OK, UNREADABLE)
    return {request for request, _, status in store.keys() if status in settled}  # noqa: SIM118


def _pending(calls: Iterable[Call], finished: set[str], counts: Counts) -> Iterator[Call]:
    """The calls without a row; ``counts`` learns how many have one or need no judge."""
    for call in calls:
        if call.row["request"] in finished:
            counts.kept += 1
            continue
        counts.identical += call.body is None
        yield call


def estimate(
    plan: JudgingPlan, calls: Iterable[Call], finished: set[str], prices: Prices | None
) -> Counts:
    """Calls, tokens and cost that are still needed; prompts are rendered, not kept."""
    counts = Counts(prices)
    reply = min(plan.settings["max_tokens"], TYPICAL_REPLY.get(plan.benchmark.name, 1))
    for call in _pending(calls, finished, counts):
        if call.body is not None:
            counts.calls += 1
            size = sum(len(message["content"]) for message in call.body["messages"])
            counts.prompt_tokens += size / CHARACTERS_PER_TOKEN
            counts.completion_tokens += reply
    return counts


class Run:
    """One run of the client over a store of judgements.

    ``max_cost`` ends it when the tokens that the server reported have cost that much; ``again``
    asks once more where a reply had no verdict.
    """

    def __init__(
        self,
        plan: JudgingPlan,
        store: Store,
        server: Server,
        prices: Prices | None = None,
        max_cost: float | None = None,
        again: bool = False,
    ) -> None:
        if max_cost is not None and prices is None:
            raise WRPOError(
                f"--max-cost needs a price and none is known for {plan.judge!r}; give "
                "--price-prompt and --price-completion for a million tokens (0 for your own server)"
            )
        self.store, self.server, self.max_cost = store, server, max_cost
        self.finished = done(store, again)
        self.counts = Counts(prices)
        self._open: dict[str, Row] = {}
        self._attempts = Counter(request for request, _, _ in store.keys())  # noqa: SIM118
        self._first: list[str | None] = []  # why the first calls are hopeless; None if they are not

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
        for call in _pending(calls, self.finished, self.counts):
            if call.body is None:
                self._append({**call.row, "metric": "identical outputs", "preference": 1.5}, OK)
                continue
            self._open[call.row["request"]] = call.row
            yield call.row["request"], call.body

    def _keep(self, row: Row, reply: Reply) -> None:
        self.counts.calls += 1
        body = reply.body or {}
        found = verdicts.result(row, body)
        if reply.body is None:
            self._append({**row, "judgment": None, **found, "problem": reply.error}, ERROR)
            return
        usage = {k: v for k, v in (body.get("usage") or {}).items() if isinstance(v, int)}
        self.counts.prompt_tokens += usage.get("prompt_tokens", 0)
        self.counts.completion_tokens += usage.get("completion_tokens", 0)
        served = {k: body.get(k) for k in ("model", "system_fingerprint")}
        served["server"] = self.server.address
        text = verdicts.text_of(body)
        full = {**row, "served": served, "usage": usage, "judgment": text, **found}
        self._append(full, OK if found["problem"] is None else UNREADABLE)

    def _append(self, row: Row, status: str) -> None:
        request, problem = row["request"], row.get("problem")
        self._attempts[request] += 1
        self.counts.status[status] += 1
        if problem:
            self.counts.problems[problem] += 1
        if len(self._first) < FIRST:
            hopeless = status == ERROR or problem == verdicts.NO_LOGPROBS
            self._first.append(problem if hopeless else None)
        judged = datetime.now(UTC).isoformat(timespec="seconds")
        head = {"attempt": self._attempts[request], "status": status, "judged": judged}
        self.store.append({**row, **head})

    def _stop(self) -> bool:
        """Whether to make no more calls: the money is spent, or the start shows it is hopeless."""
        if self.max_cost is not None and (self.counts.cost or 0.0) >= self.max_cost:
            self.counts.stopped = f"--max-cost {self.max_cost:g} is reached"
        elif len(self._first) == FIRST and len(set(self._first)) == 1 and self._first[0]:
            self.counts.stopped = f"the first {FIRST} calls all failed: {self._first[0]}"
        return self.counts.stopped is not None
