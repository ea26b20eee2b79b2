"""Benchmark answers: made by any sampling engine, read in our form or upstream's, exported.

Ours is JSONL, one row per answer: benchmark, version, question_id, turn, model, text, and how it
was sampled. The second turn of MT-Bench follows the model's own first answer. A run makes only the
answers that are missing, so it can be killed and started again.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from wrpo_lib.errors import WRPOError
from wrpo_lib.evaluation.benchmarks import MAX_TOKENS, Benchmark, Question
from wrpo_lib.evaluation.formats import ANSWERS, convert, read_rows
from wrpo_lib.io import Row, Store, write_json, write_rows

if TYPE_CHECKING:
    from wrpo_lib.generation.request import Engine, Messages, Request, Sampling

KEY = ("benchmark", "version", "question_id", "turn", "model")

# --- making -------------------------------------------------------------------------------------


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
            asked = _requests(benchmark, model, store, turn, counts, max_tokens, seed)
            for response in engine(request for request, _ in asked.values()):
                if response.error is not None:
                    counts.errors[response.error] += 1
                    continue
                counts.made += 1
                counts.truncated += response.finish_reason == "length"
                request, row = asked[response.key]
                sampled = {"temperature": request.sampling.temperature, "top_p": 1.0}
                store.append({**row, **response.row(), **sampled, "max_tokens": max_tokens})
    return counts


def _requests(
    benchmark: Benchmark,
    model: str,
    store: Store,
    turn: int,
    counts: Answered,
    max_tokens: int,
    seed: int,
) -> dict[str, tuple[Request, Row]]:
    """Key -> request and start of the row, for the missing answers of one turn."""
    from wrpo_lib.generation.request import Request

    have = {(r["question_id"], r["turn"]): r["text"] for r in store if r["model"] == model}
    found = {}
    for question in benchmark.questions:
        earlier = [have.get((question.question_id, t)) for t in range(1, turn)]
        if turn > len(question.turns):
            continue
        if (question.question_id, turn) in have:
            counts.kept += 1
        elif None in earlier:
            counts.errors["no answer to an earlier turn"] += 1
        else:
            key = f"{question.question_id}/{turn}"
            how = sampling(benchmark, question, max_tokens, seed)
            names = (benchmark.name, benchmark.version, question.question_id, turn, model)
            request = Request(key, _conversation(question, [str(text) for text in earlier]), how)
            found[key] = request, dict(zip(KEY, names, strict=True))
    return found


def _conversation(question: Question, earlier: list[str]) -> Messages:
    """The conversation up to the turn that follows the model's own ``earlier`` answers."""
    found: Messages = [{"role": "user", "content": question.turns[0]}]
    for text, user in zip(earlier, question.turns[1:], strict=False):
        found += [{"role": "assistant", "content": text}, {"role": "user", "content": user}]
    return found


# --- reading ------------------------------------------------------------------------------------


class Answers:
    """The answers of one file, checked against a benchmark.

    An unknown question, another benchmark or version, or a second answer to the same question and
    turn is a :class:`WRPOError` that names file and row; missing answers are in :meth:`missing`.
    """

    def __init__(self, path: Path, benchmark: Benchmark) -> None:
        self.path, self.benchmark = path, benchmark
        self._texts: dict[tuple[str, int | str, int], str] = {}
        self._turns = {q.question_id: len(q.turns) for q in benchmark.questions}
        by_instruction = {q.turns[0]: q.question_id for q in benchmark.questions}
        for where, row in read_rows(path):
            for found in convert(row, ANSWERS, where):
                if "instruction" in found:  # joined by instruction, never by position
                    asked = found["instruction"]
                    found |= {"question_id": by_instruction.get(asked, asked), "turn": 1}
                self._add(found, where)
        if not self._texts:
            raise WRPOError(f"{path} holds no answers; run `wrpo answer` first")

    def _add(self, row: Row, where: str) -> None:
        name, version = self.benchmark.name, self.benchmark.version
        question, turn, model = row["question_id"], row["turn"], row["model"]
        if row.get("benchmark", name) != name or row.get("version", version) != version:
            raise WRPOError(
                f"{where} answers {row.get('benchmark')} {row.get('version')}, not {name} "
                f"{version}; give --version, or answer this version"
            )
        kinds = {"question_id": str | int, "turn": int, "model": str, "text": str}
        for field_name, kind in kinds.items():
            if not isinstance(row[field_name], kind):
                raise WRPOError(
                    f"{where}, field {field_name!r}: is {row[field_name]!r}; correct it"
                )
        if not 1 <= turn <= self._turns.get(question, 0):
            raise WRPOError(
                f"{where}: {name} {version} has no question {str(question)[:40]!r} with a turn "
                f"{turn}; is the file from another version?"
            )
        if (model, question, turn) in self._texts:
            raise WRPOError(
                f"{where}: {model!r} answers question {question!r}, turn {turn}, a second time; "
                "remove one of the rows"
            )
        self._texts[model, question, turn] = row["text"]

    def models(self) -> list[str]:
        """Names of the models, in the order of their first answers."""
        return list(dict.fromkeys(model for model, _, _ in self._texts))

    def text(self, model: str, question: Question, turn: int = 1) -> str | None:
        """One answer, None where it is missing."""
        return self._texts.get((model, question.question_id, turn))

    def texts(self, model: str, question: Question, turns: int) -> list[str] | None:
        """The answers of the first ``turns`` turns; None where one is missing."""
        found = [self.text(model, question, turn) for turn in range(1, turns + 1)]
        return None if None in found else [str(text) for text in found]

    def missing(self, model: str) -> list[tuple[int | str, int]]:
        """(question, turn) pairs that ``model`` has not answered."""
        wanted = [(i, turn) for i, turns in self._turns.items() for turn in range(1, turns + 1)]
        return [(i, turn) for i, turn in wanted if (model, i, turn) not in self._texts]


# --- exporting ----------------------------------------------------------------------------------


def export(answers: Answers, model: str, path: Path) -> Path:
    """Write one model's whole answers in the form of its benchmark's own tools.

    AlpacaEval: a JSON list of outputs. MT-Bench and Arena-Hard v0.1: ``model_answer`` JSONL.
    Arena-Hard v2.0: its JSONL, without the token counts that its style control would need.
    """
    benchmark = answers.benchmark
    form = {"alpaca-eval": _as_output, "mt-bench": _as_choices, "arena-hard": _as_choices}[
        benchmark.name
    ]
    form = _as_messages if benchmark.version == "v2.0" else form
    rows = [
        form(model, question, texts)
        for question in benchmark.questions
        if (texts := answers.texts(model, question, len(question.turns)))
    ]
    if benchmark.name != "alpaca-eval":
        write_rows(rows, path)
    elif path.suffix == ".json":
        write_json(path, rows)
    else:
        raise WRPOError(f"{path}: AlpacaEval's outputs are a JSON list; name a .json file")
    return path


def _as_output(model: str, question: Question, texts: list[str]) -> Row:
    asked = {"dataset": question.dataset, "instruction": question.turns[0]}
    return {**asked, "output": texts[0], "generator": model}


def _as_choices(model: str, question: Question, texts: list[str]) -> Row:
    arena = len(question.turns) == 1
    turns = [{"content": text} if arena else text for text in texts]
    return {
        "question_id": question.question_id,
        "answer_id": f"{model}-{question.question_id}",
        "model_id": model,
        "choices": [{"index": 0, "turns": turns}],
        "tstamp": 0.0,
    }


def _as_messages(model: str, question: Question, texts: list[str]) -> Row:
    messages = [
        {"role": "user", "content": question.turns[0]},
        {"role": "assistant", "content": {"answer": texts[0]}},
    ]
    return {
        "uid": question.question_id,
        "ans_id": f"{model}-{question.question_id}",
        "model": model,
        "messages": messages,
        "tstamp": 0.0,
        "metadata": {},
    }
