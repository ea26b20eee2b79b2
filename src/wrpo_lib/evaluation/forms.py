"""Answers and judgements as files hold them: ours and the forms that upstream writes.

Texts of judgements are dropped as they are read, only lengths are kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from math import nan
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import pandas as pd
from pydantic import (
    AliasChoices,
    BaseModel,
    BeforeValidator,
    Field,
    ValidationError,
)

from wrpo_lib.errors import WRPOError
from wrpo_lib.evaluation import upstream
from wrpo_lib.io import Row, iter_rows
from wrpo_lib.replies import split_thought

if TYPE_CHECKING:
    from wrpo_lib.evaluation.benchmarks import Benchmark

ERROR = "error"  # status of a call of ours that failed
SETTING = ("benchmark", "version", "judge", "metric", "model", "baseline")
FAILED = "$ERROR$"  # FastChat's and Arena-Hard's mark of an answer that failed

Whole = Annotated[int, Field(gt=-(2**53), lt=2**53)]  # as tables hold it
Number = Annotated[float, BeforeValidator(lambda value: nan if value is None else value)]


def _preference(value: float | None) -> float | None:
    """None for NaN; upstream's older 0 is a tie."""
    if value != value:
        return None
    return 1.5 if value == 0 else value


class Answer(BaseModel):
    """An answer; AlpacaEval has no ids, so that the instruction stands for one."""

    question_id: Whole | str = Field(
        validation_alias=AliasChoices("question_id", "uid", "instruction")
    )
    turn: Whole = 1
    model: str = Field(validation_alias=AliasChoices("model", "model_id", "generator"))
    text: str = Field(validation_alias=AliasChoices("text", "output"))
    version: str | None = None


class Judgement(BaseModel):
    """What every judgement names, empty where a tool does not say; lengths in characters."""

    model: str
    question_id: Whole | str
    baseline: str = ""
    judge: str = ""
    version: str = ""
    template: str = ""
    length_model: Number = nan
    length_baseline: Number = nan


class Preference(Judgement):
    """AlpacaEval-2: ``preference`` in [1, 2], 2 for the model."""

    preference: Annotated[float | None, Field(ge=1, le=2), BeforeValidator(_preference)]
    metric: str = "weighted"
    order: str = ""


class Score(Judgement):
    """MT-Bench."""

    score: Number
    turn: Whole = 1
    metric: str = "score"


class Game(Judgement):
    """Arena-Hard: in game 1 the baseline is A, in game 2 the model."""

    game: Whole
    verdict: str | None
    metric: str = "verdict"


JUDGEMENTS: dict[str, tuple[Callable[[Row], list[Row]], type[BaseModel]]] = {
    "alpaca-eval": (upstream.alpaca, Preference),
    "mt-bench": (upstream.mt_bench, Score),
    "arena-hard": (upstream.arena, Game),
}


def _field(row: Row, where: tuple[int | str, ...]) -> str:
    """Of a place that pydantic names the part that the row has: not which type of several."""
    value: Any = row
    for k, part in enumerate(where):
        try:
            value = value[part]
        except (LookupError, TypeError):
            return ".".join(map(str, where[: max(k, 1)]))
    return ".".join(map(str, where))


def _read(
    path: Path, ours: Callable[[Row], list[Row]], form: type[BaseModel], benchmark: str
) -> Iterator[tuple[str, Row]]:
    """(where, row in our form) of a file; of repeated requests the one that counts."""
    rows = enumerate(iter_rows(path), 1)
    for where, row in best_attempts((f"{path}, row {n}", row) for n, row in rows):
        remedy = "correct the row, or is this another kind of file?"
        try:
            upstream.UPSTREAM.validate_python(row)
            for one in ours(row):
                if (of := one.get("benchmark", benchmark)) != benchmark:
                    raise WRPOError(f"{where} is of {of}, not {benchmark}; give another file")
                yield where, form.model_validate(one).model_dump()
        except ValidationError as error:
            first = error.errors()[0]
            field = _field(row, first["loc"])
            raise WRPOError(f"{where}, field {field!r}: {first['msg']}; {remedy}") from error
        except KeyError as error:
            raise WRPOError(f"{where}, field {error}: is missing; {remedy}") from error


def place(row: Row) -> tuple[str, ...]:
    """What a judgement of ours is of; its ``request`` also tells texts and settings apart."""
    return tuple(str(row.get(name)) for name in (*SETTING, "question_id", "turn", "order"))


def best_attempts(rows: Iterable[tuple[str, Row]]) -> list[tuple[str, Row]]:
    """The rows that count among (where, row): of each judgement of ours the last good attempt.

    A call that never succeeded stays and counts as missing. Other tools' rows have no ``request``.
    """
    best: dict[Any, tuple[str, Row]] = {}
    for where, row in rows:
        key: Any = place(row) if "request" in row else where
        _, before = best.get(key, (where, row))
        if ERROR not in (before.get("status"), row.get("status")):
            check_same(before, row, where)
        if row.get("status") != ERROR or before.get("status") == ERROR:
            best[key] = where, row
    return list(best.values())


def check_same(before: Row, row: Row, where: str) -> None:
    """Refuse a second judgement of the same thing, of other texts or made in another way."""
    if before.get("request") != row.get("request"):
        ways = ("settings", "template_sha256")
        changed = next((way for way in ways if before.get(way) != row.get(way)), "an answer")
        what = f"question {row.get('question_id')!r} was judged before, but {changed} differs"
        raise WRPOError(f"{where}: {what}; choose another --out")


def read_judgements(benchmark: str, path: Path) -> pd.DataFrame:
    """All judgements of a file, one per row; one without a verdict has NaN or None.

    The columns are the fields of :class:`Preference`, :class:`Score` or :class:`Game`.

    :raises WRPOError: with file, row and field, for what is no judgement of ``benchmark``.
    """
    if benchmark not in JUDGEMENTS:
        raise WRPOError(f"unknown benchmark {benchmark!r}; choose one of {', '.join(JUDGEMENTS)}")
    rows = [row for _, row in _read(path, *JUDGEMENTS[benchmark], benchmark)]
    if not rows:
        raise WRPOError(f"{path} holds no judgements; judge the answers first")
    return pd.DataFrame(rows)


class Texts(dict[tuple[int | str, int], str | None]):
    """A model's answers by (question, turn), None for one that failed (empty, or marked as an
    error); from how many a thought was split off."""

    thoughts = 0


def read_answers(path: Path, benchmark: Benchmark) -> dict[str, Texts]:
    """The answers of each model in a file, joined by id or instruction.

    :raises WRPOError: with file and row, for an unknown question or version, or a second answer.
    """
    name, version = benchmark.name, benchmark.version
    known = {q.turns[0]: q for q in benchmark.questions}
    known |= {str(q.question_id): q for q in benchmark.questions}
    found: dict[str, Texts] = {}
    for where, row in _read(path, upstream.answers, Answer, name):
        question, turn = known.get(str(row["question_id"])), row["turn"]
        asked = f"question {str(row['question_id'])[:40]!r}, turn {turn}"
        if row["version"] not in (None, version):
            raise WRPOError(f"{where} answers version {row['version']}, not {version} of {name}")
        if question is None or not 1 <= turn <= len(question.turns):
            raise WRPOError(f"{where}: {name} {version} has no {asked}; is it another version's?")
        texts = found.setdefault(row["model"], Texts())
        if (question.question_id, turn) in texts:
            raise WRPOError(f"{where}: {row['model']!r} answers {asked} a second time; remove one")
        thought, text = split_thought(row["text"])
        texts.thoughts += bool(thought)
        texts[question.question_id, turn] = None if text.strip() in ("", FAILED) else text
    if not found:
        raise WRPOError(f"{path} holds no answers; run `wrpo answer` first")
    return found
