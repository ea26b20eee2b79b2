"""Benchmark answers, made by any sampling engine.

One JSONL row per answer. The second turn of MT-Bench follows the model's own first answer. A run
makes only the answers that are missing, so it can be killed and started again.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wrpo_lib.errors import WRPOError
from wrpo_lib.evaluation.benchmarks import Benchmark, Question
from wrpo_lib.io import Row, Store

if TYPE_CHECKING:
    from wrpo_lib.generation.request import Engine, Messages, Request

KEY = ("benchmark", "version", "question_id", "turn", "model")
MAX_TOKENS = 4096  # the SimPO project's limit, whose numbers the paper reuses


@dataclass
class Answered:
    """What a run did: answers made, kept from before, cut at the limit, failed (by reason)."""

    made: int = 0
    kept: int = 0
    truncated: int = 0
    errors: Counter[str] = field(default_factory=Counter)


def answer(
    benchmark: Benchmark,
    model: str,
    engine: Engine,
    path: Path,
    max_tokens: int = MAX_TOKENS,
    seed: int = 0,
) -> Answered:
    """Make every missing answer of ``model`` (its name in the file) with ``engine``."""
    counts = Answered()
    with Store(path, KEY) as store:
        for name, version in {key[:2] for key in store.keys()}:  # noqa: SIM118 (no dictionary)
            if (name, version) != (benchmark.name, benchmark.version):
                raise WRPOError(f"{path} holds answers to {name} {version}; choose another --out")
        for turn in range(1, max(len(q.turns) for q in benchmark.questions) + 1):
            have = {(r["question_id"], r["turn"]): r["text"] for r in store if r["model"] == model}
            asked: dict[str, tuple[Request, Row]] = {}
            for question in benchmark.questions:
                earlier = [have.get((question.question_id, t)) for t in range(1, turn)]
                if turn > len(question.turns):
                    continue
                if (question.question_id, turn) in have:
                    counts.kept += 1
                elif None in earlier:
                    counts.errors["no answer to an earlier turn"] += 1
                else:
                    request = request_to(benchmark, question, earlier, max_tokens, seed)
                    names = (benchmark.name, benchmark.version, question.question_id, turn, model)
                    asked[request.key] = request, dict(zip(KEY, names, strict=True))
            _make(asked, engine, store, counts)
    return counts


def _make(
    asked: dict[str, tuple[Request, Row]], engine: Engine, store: Store, counts: Answered
) -> None:
    for response in engine(request for request, _ in asked.values()):
        if response.error is not None:
            counts.errors[response.error] += 1
            continue
        counts.made += 1
        counts.truncated += response.finish_reason == "length"
        request, row = asked[response.key]
        how = request.sampling
        sampled = {"temperature": how.temperature, "top_p": how.top_p, "max_tokens": how.max_tokens}
        store.append({**row, **response.row(), **sampled})


def request_to(
    benchmark: Benchmark,
    question: Question,
    earlier: list[Any],
    max_tokens: int = MAX_TOKENS,
    seed: int = 0,
) -> Request:
    """One answer to the turn that follows the model's own ``earlier`` answers.

    With the benchmark's temperature (:meth:`Benchmark.temperature`) and top-p 1.
    """
    from wrpo_lib.generation.request import Request, Sampling

    messages: Messages = [{"role": "user", "content": question.turns[0]}]
    for text, user in zip(earlier, question.turns[1:], strict=False):
        messages += [{"role": "assistant", "content": text}, {"role": "user", "content": user}]
    how = Sampling(1, benchmark.temperature(question), 1.0, max_tokens, seed)
    return Request(f"{question.question_id}/{len(earlier) + 1}", messages, how)
