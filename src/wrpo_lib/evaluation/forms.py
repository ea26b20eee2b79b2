"""Answers and judgements as files hold them: our rows, and those of upstream's tools made ours.

Texts of judgements are dropped as they are read, only lengths are kept.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from math import nan
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
from pydantic import AliasChoices, BaseModel, BeforeValidator, Field, TypeAdapter, ValidationError
from typing_extensions import TypedDict

from wrpo_lib.errors import WRPOError
from wrpo_lib.io import Row, iter_rows

ERROR = "error"  # status of a call of ours that failed
FAILED = "$ERROR$"  # FastChat's and Arena-Hard's mark of an answer that failed
REMEDY = "correct the row, or is this another kind of file?"
BASELINE_FIRST, MODEL_FIRST = "baseline first", "model first"

# a model's answers by (question, turn), None for one that failed (empty, or marked so)
Texts = dict[tuple[int | str, int], str | None]
Whole = Annotated[int, Field(gt=-(2**53), lt=2**53)]  # as tables hold it
ID = Whole | str
Number = Annotated[float, BeforeValidator(lambda value: nan if value is None else value)]
# Arena-Hard wraps a text into an object
Text = Annotated[str, BeforeValidator(lambda x: x.get("content") if isinstance(x, dict) else x)]


class _Choice(TypedDict):
    turns: list[Text]


class Upstream(TypedDict, total=False):
    """What other tools' fields, and our ``prompt_id``, hold where a row has them."""

    prompt_id: Annotated[str, Field(pattern=r"^[^/ ]+ [^/ ]+/[^/]+/[0-9]+$")]
    choices: Annotated[list[_Choice], Field(min_length=1)]
    instruction: str
    output_1: str
    output_2: str
    annotator: str | None
    judge: str | tuple[str, str]
    games: list[dict[str, Any] | None]
    winner: str


class Answer(BaseModel):
    """An answer; AlpacaEval has no ids, so that the instruction stands for one."""

    question_id: ID = Field(validation_alias=AliasChoices("question_id", "instruction"))
    turn: Whole = 1
    model: str = Field(validation_alias=AliasChoices("model", "model_id", "generator"))
    text: str = Field(validation_alias=AliasChoices("text", "output"))
    version: str | None = None


class Judgement(BaseModel):
    """What every judgement names, empty where a tool does not say; lengths in characters."""

    model: str
    question_id: ID
    baseline: str = ""
    judge: str = ""
    version: str = ""
    template: str = ""
    length_model: Number = nan
    length_baseline: Number = nan


class Preference(Judgement):
    """AlpacaEval-2: ``preference`` in [1, 2], 2 for the model."""

    preference: Annotated[
        float | None, Field(ge=1, le=2), BeforeValidator(lambda x: None if x != x else x)
    ]
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


def as_answers(row: Row) -> list[Row]:
    """FastChat's and Arena-Hard's have a list of turns; ours a ``prompt_id``."""
    if "prompt_id" in row:
        of, question, turn = row["prompt_id"].split("/")
        row["benchmark"], row["version"] = of.split(" ")
        return [{**row, "question_id": question, "turn": turn}]
    if "choices" not in row:
        return [row]
    texts = row["choices"][0]["turns"]
    return [{**row, "turn": turn, "text": text} for turn, text in enumerate(texts, 1)]


@cache
def instructions() -> dict[str, tuple[int, str]]:
    """Of AlpacaEval-2 by key: what :func:`instruction` returns."""
    rows = pd.read_csv(Path(__file__).with_name("alpaca_eval_instructions.csv"), dtype=str)
    order = rows["model_first"].map({"1": MODEL_FIRST, "0": BASELINE_FIRST})
    return dict(zip(rows["sha256"], zip(map(int, rows["index"]), order, strict=True), strict=True))


def instruction(text: str) -> tuple[int | str, str]:
    """The index of one of AlpacaEval-2's instructions, and the order that upstream's seeded choice
    gave it (the model first in 406 of 805); of others a key, and no order."""
    key = hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()[:12]
    return instructions().get(key, (key, ""))


def _preferences(row: Row) -> list[Row]:
    """alpaca-eval's annotations; they name no version, which the instruction tells."""
    if "generator_2" not in row:
        return [row]
    index, order = instruction(row["instruction"])
    judge = template = annotator = row.get("annotator") or ""
    if annotator == "weighted_alpaca_eval_gpt4_turbo":
        judge, template = "gpt-4-1106-preview", "alpaca_eval_clf"
    found = {"model": row["generator_2"], "baseline": row["generator_1"], "question_id": index}
    found |= {"judge": judge, "template": template, "version": "2" if order else ""}
    found |= {"metric": "weighted" if annotator.startswith("weighted") else "verdict"}
    found |= {"length_model": len(row["output_2"]), "length_baseline": len(row["output_1"])}
    preference = 1.5 if row["preference"] == 0 else row["preference"]  # older ties
    return [found | {"order": order, "preference": preference}]


def _scores(row: Row) -> list[Row]:
    """FastChat's ``judge`` is a judge and a template."""
    if isinstance(judge := row.get("judge"), tuple):
        return [{**row, "judge": judge[0], "template": judge[1]}]
    return [row]


def _games(row: Row) -> list[Row]:
    """Arena-Hard's judgements of two games; or its battles, a row for each unit of weight. Both
    games of those name the baseline model_a: all are written as games that show it first. v0.1 has
    one template and one baseline, which neither names."""
    known = {"version": "v0.1", "template": "arena-hard-v0.1", "baseline": "gpt-4-0314"}
    if "games" in row:
        labels = enumerate([(game or {}).get("score") for game in row["games"]], 1)
        return [{**known, **row, "game": n, "verdict": label} for n, label in labels]
    if "model_a" not in row:
        return [row]
    won = {"model_a": "A>B", "model_b": "B>A", "tie": "A=B", "tie (bothbad)": "A=B"}
    found = {"model": row["model_b"], "baseline": row["model_a"], "judge": row.get("judge", "")}
    found |= {"metric": "battles", "question_id": row["question_id"], "game": 1}
    return [known | found | {"verdict": won.get(row["winner"])}]


UPSTREAM = TypeAdapter(Upstream)
JUDGEMENTS: dict[str, tuple[Callable[[Row], list[Row]], type[BaseModel]]] = {
    "alpaca-eval": (_preferences, Preference),
    "mt-bench": (_scores, Score),
    "arena-hard": (_games, Game),
}


def read(
    path: Path, ours: Callable[[Row], list[Row]], form: type[BaseModel], benchmark: str
) -> Iterator[tuple[str, Row]]:
    """(where, row in our form) of a file; of repeated requests the one that counts."""
    rows = enumerate(iter_rows(path), 1)
    for where, row in best_attempts((f"{path}, row {n}", row) for n, row in rows):
        try:
            for one in ours({**row, **UPSTREAM.validate_python(row)}):
                if (of := one.get("benchmark", benchmark)) != benchmark:
                    raise WRPOError(f"{where} is of {of}, not {benchmark}; give another file")
                yield where, form.model_validate(one).model_dump()
        except ValidationError as error:
            first = error.errors()[0]
            what = f"{where}, field {str(first['loc'][0])!r}: {first['msg']}"
            raise WRPOError(f"{what}; {REMEDY}") from error
        except KeyError as error:
            raise WRPOError(f"{where}, field {error}: is missing; {REMEDY}") from error


def place(row: Row) -> tuple[str, ...]:
    """What a judgement of ours is of; its ``request`` also tells texts and settings apart."""
    setting = ("benchmark", "version", "judge", "metric", "model", "baseline")
    return tuple(str(row.get(name)) for name in (*setting, "question_id", "turn", "order"))


def best_attempts(rows: Iterable[tuple[str, Row]]) -> list[tuple[str, Row]]:
    """The rows that count among (where, row): of each judgement of ours the last good attempt, or
    a failed one, which counts as missing. Other tools' rows have no ``request``."""
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
    """Refuse a second judgement of the same thing, of other texts or with other settings."""
    if before.get("request") != row.get("request"):
        fields = ("settings", "template_sha256")
        changed = next((k for k in fields if before.get(k) != row.get(k)), "an answer")
        what = f"question {row.get('question_id')!r} was judged before, but {changed} differs"
        raise WRPOError(f"{where}: {what}; choose another --out")


def read_judgements(benchmark: str, path: Path) -> pd.DataFrame:
    """All judgements of a file, one per row, with the fields of :class:`Preference`, :class:`Score`
    or :class:`Game` (NaN or None without a verdict); an error names file, row and field."""
    if benchmark not in JUDGEMENTS:
        raise WRPOError(f"unknown benchmark {benchmark!r}; choose one of {', '.join(JUDGEMENTS)}")
    rows = [row for _, row in read(path, *JUDGEMENTS[benchmark], benchmark)]
    if not rows:
        raise WRPOError(f"{path} holds no judgements; judge the answers first")
    return pd.DataFrame(rows)
