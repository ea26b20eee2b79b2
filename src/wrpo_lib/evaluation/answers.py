"""Benchmark answers: the sampling stage, one response to each turn of each question.

The second turn of MT-Bench follows the model's own first answer, without the thought before it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from wrpo_lib.chat import Messages
from wrpo_lib.evaluation.benchmarks import Benchmark
from wrpo_lib.evaluation.forms import Texts, read_answers
from wrpo_lib.generation.stage import Engine, Request, Response, Sampling, sample_responses

MAX_TOKENS = 4096  # the SimPO project's limit, whose numbers the paper reuses


def answer(
    benchmark: Benchmark,
    model: str,
    engine: Engine,
    path: Path,
    max_tokens: int = MAX_TOKENS,
    seed: int = 0,
    settings: dict[str, Any] | None = None,
) -> Counter[str]:
    """Make every missing answer of ``model`` (its name in the file) with ``engine``.

    Counts, settings and errors are those of
    :func:`~wrpo_lib.generation.stage.sample_responses`; the temperature is the benchmark's
    (:meth:`Benchmark.temperature`), top-p 1.
    """
    counts, of = Counter[str](), f"{benchmark.name} {benchmark.version}"
    temperature = {str(q.question_id): benchmark.temperature(q) for q in benchmark.questions}

    def decoded(requests: Iterable[Request]) -> Iterator[Response]:
        for_each = ((r, temperature[r.key.split("/")[1]]) for r in requests)
        return engine(replace(r, sampling=replace(r.sampling, temperature=t)) for r, t in for_each)

    how = Sampling(1, 1.0, 1.0, max_tokens, seed)
    known = {"benchmark": of, "temperature": "the benchmark's", **(settings or {})}
    for turn in range(1, max(len(q.turns) for q in benchmark.questions) + 1):
        own = read_answers(path, benchmark)[model] if turn > 1 else Texts()
        asked = prompts(benchmark, own, turn)
        counts += sample_responses(asked, decoded, model, how, path, settings=known)
    return counts


def prompts(benchmark: Benchmark, own: Texts, turn: int) -> Iterator[tuple[str, Messages]]:
    """(id, messages) of each question's ``turn`` that follows a model's ``own`` earlier answers."""
    for question in benchmark.questions:
        messages: Messages = []
        for number, user in enumerate(question.turns[:turn], 1):
            messages.append({"role": "user", "content": user})
            text = own.get((question.question_id, number))
            if number < turn and text is not None:
                messages.append({"role": "assistant", "content": text})
        if len(messages) == 2 * turn - 1:  # it has the turn, and answers to all before
            name = f"{benchmark.name} {benchmark.version}/{question.question_id}/{turn}"
            yield name, messages
