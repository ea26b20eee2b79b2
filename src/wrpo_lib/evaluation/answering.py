"""Answering a benchmark with a model: its decoding settings, its turns, on any sampling engine.

The second turn of MT-Bench follows the model's own first answer. Answers go to an append-only
file; a run makes only those that are missing, so it can be killed and started again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wrpo_lib.errors import WRPOError
from wrpo_lib.evaluation.benchmarks import MAX_TOKENS, Benchmark, Question
from wrpo_lib.io import Store

if TYPE_CHECKING:
    from wrpo_lib.generation.request import Engine, Messages, Request, Sampling

KEY = ("benchmark", "version", "question_id", "turn", "model")


@dataclass
class Answered:
    """What a run did: answers made, kept from before, cut at the limit, failed (by reason)."""

    made: int = 0
    kept: int = 0
    truncated: int = 0
    errors: Counter[str] = field(default_factory=Counter)


def sampling(
    benchmark: Benchmark, question: Question, max_tokens: int = MAX_TOKENS, seed: int = 0
) -> Sampling:
    """One answer with the benchmark's temperature and top-p 1 (:meth:`Benchmark.temperature`)."""
    from wrpo_lib.generation.request import Sampling

    return Sampling(1, benchmark.temperature(question), 1.0, max_tokens, seed)


def messages(question: Question, turn: int, earlier: list[str]) -> Messages:
    """The conversation up to a turn, with the model's own ``earlier`` answers."""
    found: Messages = [{"role": "user", "content": question.turns[0]}]
    for answer, user in zip(earlier, question.turns[1:turn], strict=True):
        found += [{"role": "assistant", "content": answer}, {"role": "user", "content": user}]
    return found


def answer(
    benchmark: Benchmark, model: str, engine: Engine, path: Path,
    max_tokens: int = MAX_TOKENS, seed: int = 0,
) -> Answered:  # fmt: skip
    """Make every missing answer of ``model`` (its name in the file) with ``engine``."""
    counts = Answered()
    with Store(path, KEY) as store:
        _refuse_others(store, benchmark, path)
        for turn in range(1, max(len(q.turns) for q in benchmark.questions) + 1):
            _answer_turn(benchmark, model, engine, store, turn, max_tokens, seed, counts)
    return counts


def _refuse_others(store: Store, benchmark: Benchmark, path: Path) -> None:
    keys = store.keys()
    other = {key[:2] for key in keys} - {(benchmark.name, benchmark.version)}
    if other:
        name, version = sorted(other)[0]
        raise WRPOError(f"{path} holds answers to {name} {version}; choose another --out")


def _answer_turn(
    benchmark: Benchmark, model: str, engine: Engine, store: Store, turn: int,
    max_tokens: int, seed: int, counts: Answered,
) -> None:  # fmt: skip
    """All missing answers of one turn; later turns of a question wait for its earlier ones."""
    asked: dict[str, Question] = {}
    earlier = _own_answers(store, model) if turn > 1 else {}

    def requests() -> Iterator[Request]:
        from wrpo_lib.generation.request import Request

        for question in benchmark.questions:
            if turn > len(question.turns):
                continue
            if (benchmark.name, benchmark.version, question.question_id, turn, model) in have:
                counts.kept += 1
                continue
            before = [earlier.get((question.question_id, t)) for t in range(1, turn)]
            if None in before:
                counts.errors["no answer to an earlier turn"] += 1
                continue
            key = f"{question.question_id}/{turn}"
            asked[key] = question
            said = messages(question, turn, [str(b) for b in before])
            yield Request(key, said, sampling(benchmark, question, max_tokens, seed))

    have = set(store.keys())
    for response in engine(requests()):
        question = asked.pop(response.key)
        if response.error is not None:
            counts.errors[response.error] += 1
            continue
        counts.made += 1
        counts.truncated += response.finish_reason == "length"
        row: dict[str, Any] = {
            "benchmark": benchmark.name, "version": benchmark.version,
            "question_id": question.question_id, "turn": turn, "model": model,
            **response.row(), "temperature": benchmark.temperature(question), "top_p": 1.0,
            "max_tokens": max_tokens,
        }  # fmt: skip
        store.append(row)


def _own_answers(store: Store, model: str) -> dict[tuple[int | str, int], str]:
    return {(r["question_id"], r["turn"]): r["text"] for r in store if r["model"] == model}
