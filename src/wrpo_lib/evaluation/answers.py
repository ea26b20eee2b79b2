"""Benchmark answers: the sampling stage, one response to each turn of each question."""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from wrpo_lib.chat import Messages
from wrpo_lib.evaluation.benchmarks import Benchmark
from wrpo_lib.evaluation.forms import Texts, read_answers
from wrpo_lib.generation.stage import Engine, Request, Response, Sampling, sample_responses


def answer(
    benchmark: Benchmark,
    model: str,
    engine: Engine,
    path: Path,
    max_tokens: int = 4096,  # the SimPO project's limit, whose numbers the paper reuses
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

    def prompts(own: Texts, turn: int) -> Iterator[tuple[str, Messages]]:
        for q in benchmark.questions:
            before = [text for n in range(1, turn) if (text := own.get((q.question_id, n)))]
            if turn > len(q.turns) or len(before) < turn - 1:
                continue
            messages: Messages = []
            for asked, said in zip(q.turns, before, strict=False):
                messages += [{"role": "user", "content": asked}]
                messages += [{"role": "assistant", "content": said}]
            messages += [{"role": "user", "content": q.turns[turn - 1]}]
            yield f"{of}/{q.question_id}/{turn}", messages

    how = Sampling(1, 1.0, 1.0, max_tokens, seed)
    known = {"benchmark": of, "temperature": "the benchmark's", **(settings or {})}
    for turn in range(1, max(len(q.turns) for q in benchmark.questions) + 1):
        own = read_answers(path, benchmark)[model] if turn > 1 else Texts()
        counts += sample_responses(prompts(own, turn), decoded, model, how, path, settings=known)
    return counts
