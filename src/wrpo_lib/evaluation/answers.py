"""Benchmark answers on disk: read in our form or upstream's, checked, and written in upstream's.

Ours is JSONL, one row an answer: benchmark, version, question_id, turn, model, text. Upstream's
forms are AlpacaEval's JSON of outputs and the ``model_answer`` JSONL of FastChat and of both
Arena-Hard versions; ``.gz`` behind any of them is fine.
"""

from __future__ import annotations

import json
import os
import tempfile
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from wrpo_lib.errors import WRPOError
from wrpo_lib.evaluation.assets import open_plain
from wrpo_lib.evaluation.benchmarks import Benchmark, Question

Row = dict[str, Any]


class Answers:
    """The answers of one file, checked against a benchmark; texts stay on disk.

    Only each answer's place is held in memory, so it does not matter how long answers are. An
    unknown question, another benchmark or version, or a second answer to the same question and
    turn is a :class:`WRPOError` that names file and row; missing answers are in :meth:`missing`.
    """

    def __init__(self, path: Path, benchmark: Benchmark) -> None:
        self.path, self.benchmark = path, benchmark
        self._places: dict[tuple[str, int | str, int], tuple[int, int]] = {}
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 (lives as long as the object)
        weakref.finalize(self, self._file.close)
        turns = {q.question_id: len(q.turns) for q in benchmark.questions}
        for number, row in enumerate(_rows(path, benchmark), 1):
            self._check(row, f"{path}, row {number}", turns)
            text = row["text"].encode("utf-8", "replace")
            key = (row["model"], row["question_id"], row["turn"])
            self._places[key] = (self._file.tell(), len(text))
            self._file.write(text)
        if not self._places:
            raise WRPOError(f"{path} holds no answers; run `wrpo answer` first")

    def _check(self, row: Row, where: str, turns: dict[int | str, int]) -> None:
        name, version = self.benchmark.name, self.benchmark.version
        for field in ("question_id", "turn", "model", "text"):
            if not isinstance(row.get(field), str | int):
                raise WRPOError(f"{where}, field {field!r}: missing or null; complete the row")
        if row.get("benchmark", name) != name or row.get("version", version) != version:
            raise WRPOError(
                f"{where} answers {row.get('benchmark')} {row.get('version')}, not {name} "
                f"{version}; give --version, or answer this version"
            )
        if not 1 <= row["turn"] <= turns.get(row["question_id"], 0):
            raise WRPOError(
                f"{where}: {name} {version} has no question {row['question_id']!r} with a turn "
                f"{row['turn']}; is the file from another version?"
            )
        if (row["model"], row["question_id"], row["turn"]) in self._places:
            raise WRPOError(
                f"{where}: {row['model']!r} answers question {row['question_id']!r}, turn "
                f"{row['turn']}, a second time; remove one of the rows"
            )

    def models(self) -> list[str]:
        """Names of the models, in the order of their first answers."""
        return list(dict.fromkeys(model for model, _, _ in self._places))

    def text(self, model: str, question: Question, turn: int = 1) -> str | None:
        """One answer, None where it is missing."""
        place = self._places.get((model, question.question_id, turn))
        if place is None:
            return None
        self._file.seek(place[0])
        return self._file.read(place[1]).decode()

    def missing(self, model: str) -> list[tuple[int | str, int]]:
        """(question, turn) pairs that ``model`` has not answered."""
        wanted = [
            (q.question_id, t + 1) for q in self.benchmark.questions for t in range(len(q.turns))
        ]
        return [(i, t) for i, t in wanted if (model, i, t) not in self._places]


def _rows(path: Path, benchmark: Benchmark) -> Iterator[Row]:
    """Rows in our form from any known form."""
    if not path.is_file():
        raise WRPOError(f"{path} does not exist; run `wrpo answer` first or correct the path")
    with open_plain(path) as file:
        first = file.read(64).lstrip()[:1]
    try:
        if first == b"[":
            yield from _alpaca_rows(path, benchmark)
            return
        with open_plain(path) as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield from _line_rows(json.loads(line), benchmark, f"{path}, line {number}")
    except (json.JSONDecodeError, UnicodeDecodeError, EOFError) as error:
        raise WRPOError(f"{path} is not JSON or JSONL ({error}); correct the file") from error


def _alpaca_rows(path: Path, benchmark: Benchmark) -> Iterator[Row]:
    """AlpacaEval's outputs: joined by instruction, never by position."""
    with open_plain(path) as file:
        outputs = json.load(file)
    ids = {q.turns[0]: q.question_id for q in benchmark.questions}
    for number, row in enumerate(outputs, 1):
        where = f"{path}, row {number}"
        if not isinstance(row, dict) or not {"instruction", "output"} <= set(row):
            raise WRPOError(f"{where}: needs instruction and output; is this a file of outputs?")
        if row["instruction"] not in ids:
            raise WRPOError(
                f"{where}: its instruction is none of {benchmark.name} {benchmark.version}; "
                "is the file from another version?"
            )
        model = row.get("generator") or path.name.split(".json")[0]
        found = ids[row["instruction"]]
        yield {"question_id": found, "turn": 1, "model": model, "text": row["output"]}


def _line_rows(row: Any, benchmark: Benchmark, where: str) -> Iterator[Row]:
    """One JSONL row: ours, FastChat's and Arena-Hard v0.1's, or Arena-Hard v2.0's."""
    if not isinstance(row, dict):
        raise WRPOError(f"{where}: not a JSON object; write one row a line")
    if "choices" in row:
        for turn, content in enumerate(row["choices"][0]["turns"], 1):
            text = content["content"] if isinstance(content, dict) else content
            yield {"question_id": row["question_id"], "turn": turn, "model": row["model_id"],
                   "text": text}  # fmt: skip
    elif "messages" in row and "uid" in row:
        content = row["messages"][-1]["content"]
        text = content["answer"] if isinstance(content, dict) else content
        yield {"question_id": row["uid"], "turn": 1, "model": row["model"], "text": text}
    else:
        yield row


def export(answers: Answers, model: str, path: Path) -> Path:
    """Write one model's answers in the form of its benchmark's own tools.

    AlpacaEval: a JSON list of outputs. MT-Bench and Arena-Hard v0.1: ``model_answer`` JSONL.
    Arena-Hard v2.0: its JSONL, without the token counts that its style control would need.
    """
    name, version = answers.benchmark.name, answers.benchmark.version
    form: Callable[[str, Question, list[str]], Row] = _exported_choices
    if name == "alpaca-eval":
        form = _exported_output
    elif version == "v2.0":
        form = _exported_messages
    temporary = path.with_name(f".{path.name}.part")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with open(temporary, "w", encoding="utf-8") as file:
            separator = "[\n" if name == "alpaca-eval" else ""
            for question in answers.benchmark.questions:
                texts = [answers.text(model, question, t + 1) for t in range(len(question.turns))]
                if None not in texts:
                    row = form(model, question, [str(t) for t in texts])
                    file.write(separator + json.dumps(row, ensure_ascii=False))
                    separator = ",\n" if name == "alpaca-eval" else "\n"
            file.write("\n]\n" if name == "alpaca-eval" else "\n")
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return path


def _exported_output(model: str, question: Question, texts: list[str]) -> Row:
    return {"dataset": question.dataset, "instruction": question.turns[0], "output": texts[0],
            "generator": model}  # fmt: skip


def _exported_choices(model: str, question: Question, texts: list[str]) -> Row:
    arena = len(question.turns) == 1
    turns = [{"content": t} if arena else t for t in texts]
    choices = [{"index": 0, "turns": turns}]
    return {"question_id": question.question_id, "answer_id": f"{model}-{question.question_id}",
            "model_id": model, "choices": choices, "tstamp": 0.0}  # fmt: skip


def _exported_messages(model: str, question: Question, texts: list[str]) -> Row:
    messages = [
        {"role": "user", "content": question.turns[0]},
        {"role": "assistant", "content": {"answer": texts[0]}},
    ]
    return {"uid": question.question_id, "ans_id": f"{model}-{question.question_id}",
            "model": model, "messages": messages, "tstamp": 0.0, "metadata": {}}  # fmt: skip
