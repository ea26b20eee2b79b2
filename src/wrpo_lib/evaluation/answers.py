"""Benchmark answers, made by any sampling engine.

One JSONL row per answer. The second turn of MT-Bench follows the model's own first answer, without
the thought before it. A run makes only the answers that are missing, so it can be killed and
started again.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from wrpo_lib.chat import Messages
from wrpo_lib.errors import WRPOError
from wrpo_lib.evaluation.benchmarks import Benchmark, Question
from wrpo_lib.generation.request import Engine, Request, Response, Sampling
from wrpo_lib.io import Row, Store
from wrpo_lib.replies import split_thought

KEY = ("benchmark", "version", "question_id", "turn", "model")
MAX_TOKENS = 4096  # the SimPO project's limit, whose numbers the paper reuses


def answer(
    benchmark: Benchmark,
    model: str,
    engine: Engine,
    path: Path,
    max_tokens: int = MAX_TOKENS,
    seed: int = 0,
    settings: dict[str, Any] | None = None,
) -> tuple[Counter[str], Counter[str]]:
    """Make every missing answer of ``model`` (its name in the file) with ``engine``.

    ``settings`` (server, precision and the like) stand in each row and must be those of the model's
    earlier rows. Returns counts (``made``, ``kept``, ``truncated``, ``thoughts``) and failures by
    reason.
    """
    counts, errors = Counter[str](), Counter[str]()
    settings = {"max_tokens": max_tokens, "seed": seed, **(settings or {})}
    with Store(path, KEY) as store:
        have = _finished(store, benchmark, model, settings)
        counts["kept"] = len(have)
        for turn in range(1, max(len(q.turns) for q in benchmark.questions) + 1):
            asked: dict[str, tuple[Question, Request]] = {}
            for question in benchmark.questions:
                name = question.question_id
                earlier = [have[name, t] for t in range(1, turn) if (name, t) in have]
                if turn > len(question.turns) or (name, turn) in have:
                    continue
                if len(earlier) < turn - 1:
                    errors["no answer to an earlier turn"] += 1
                    continue
                request = request_to(benchmark, question, earlier, max_tokens, seed)
                asked[request.key] = question, request
            for response in engine(request for _, request in asked.values()):
                row, (question, request) = _row(response), asked[response.key]
                if "error" in row:
                    errors[row["error"]] += 1
                    continue
                have[question.question_id, turn] = row["text"]
                counts["made"] += 1
                counts["truncated"] += response.finish_reason == "length"
                counts["thoughts"] += bool(row["thought"])
                names = (benchmark.name, benchmark.version, question.question_id, turn, model)
                how = {"temperature": request.sampling.temperature, "settings": settings}
                store.append({**dict(zip(KEY, names, strict=True)), **row, **how})
    return counts, errors


def _finished(
    store: Store, benchmark: Benchmark, model: str, settings: Row
) -> dict[tuple[int | str, int], str]:
    """The answers of the model that are there; made in another way they are an error."""
    found = {}
    for row in store:
        name, version = row["benchmark"], row["version"]
        if (name, version) != (benchmark.name, benchmark.version):
            raise WRPOError(f"{store.path} holds answers to {name} {version}; choose another --out")
        if row["model"] != model:
            continue
        before = row.get("settings") or {}
        for key, value in settings.items():
            if before.get(key) != value:
                raise WRPOError(
                    f"{store.path}: the answers of {model!r} were made with {key} "
                    f"{before.get(key)!r}, not {value!r}; choose another --name or --out"
                )
        found[row["question_id"], row["turn"]] = row["text"]
    return found


def _row(response: Response) -> Row:
    """The row's own fields, a thought beside the text; or ``error``, why there is no answer."""
    thought, text = split_thought(response.text)
    if response.error or not text.strip():
        empty = "nothing but a thought" if thought else "an empty text"
        return {"error": response.error or empty}
    return {**response.row(), "text": text, "thought": response.thought or thought}


def request_to(
    benchmark: Benchmark,
    question: Question,
    earlier: list[str],
    max_tokens: int = MAX_TOKENS,
    seed: int = 0,
) -> Request:
    """One answer to the turn that follows the model's own ``earlier`` answers.

    With the benchmark's temperature (:meth:`Benchmark.temperature`) and top-p 1.
    """
    messages: Messages = [{"role": "user", "content": question.turns[0]}]
    for text, user in zip(earlier, question.turns[1:], strict=False):
        messages += [{"role": "assistant", "content": text}, {"role": "user", "content": user}]
    how = Sampling(1, benchmark.temperature(question), 1.0, max_tokens, seed)
    return Request(f"{question.question_id}/{len(earlier) + 1}", messages, how)
