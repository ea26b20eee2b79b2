"""Answers and judgements as files hold them: ours and the forms that upstream writes.

Read are JSONL, JSON and CSV, ``.gz`` behind any of them. A row of upstream's is first brought into
our form; texts of judgements are dropped as they are read, only lengths are kept.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from math import nan
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import pandas as pd
from pydantic import AliasChoices, BaseModel, BeforeValidator, Field, ValidationError

from wrpo_lib.errors import WRPOError
from wrpo_lib.evaluation.verdicts import BASELINE, BASELINE_FIRST, MODEL_FIRST
from wrpo_lib.io import Row, iter_rows
from wrpo_lib.replies import join_parts, split_thought

if TYPE_CHECKING:
    from wrpo_lib.evaluation.benchmarks import Benchmark

OK, UNREADABLE, ERROR = "ok", "unreadable", "error"  # what came of a call of ours
RANKS = {ERROR: 1, UNREADABLE: 2, OK: 3}
FAILED = "$ERROR$"  # FastChat's and Arena-Hard's mark of an answer that failed
OFFICIAL = "weighted_alpaca_eval_gpt4_turbo"
"""AlpacaEval-2's annotator: judge gpt-4-1106-preview, template alpaca_eval_clf."""

Number = Annotated[float, BeforeValidator(lambda value: nan if value is None else value)]


def _preference(value: float | None) -> float | None:
    """None for NaN; upstream's older 0 is a tie."""
    if value != value:
        return None
    return 1.5 if value == 0 else value


class Answer(BaseModel):
    """An answer; AlpacaEval has no ids, so that the instruction stands for one."""

    question_id: int | str = Field(validation_alias=AliasChoices("question_id", "instruction"))
    turn: int = 1
    model: str = Field(validation_alias=AliasChoices("model", "generator"))
    text: str = Field(validation_alias=AliasChoices("text", "output"))
    version: str | None = None


class Judgement(BaseModel):
    """What every judgement names, empty where a tool does not say; lengths in characters."""

    model: str
    question_id: int | str
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
    turn: int = 1
    metric: str = "score"


class Game(Judgement):
    """Arena-Hard: in game 1 the baseline is A, in game 2 the model."""

    game: int
    verdict: str | None
    metric: str = "verdict"


def _answers(row: Row) -> list[Row]:
    """FastChat's and Arena-Hard's answers have a list of turns, or of messages."""
    if "choices" in row:
        names = {"question_id": row["question_id"], "model": row["model_id"]}
        texts = [t["content"] if isinstance(t, dict) else t for t in row["choices"][0]["turns"]]
        return [{**names, "turn": turn, "text": text} for turn, text in enumerate(texts, 1)]
    if "messages" in row:
        last = row["messages"][-1]
        if last["role"] != "assistant":
            raise ValueError("its last message is not the assistant's")
        said = last["content"]
        text = said["answer"] if isinstance(said, dict) else join_parts(said)
        return [{"question_id": row["uid"], "model": row["model"], "text": text}]
    return [row]


@cache
def instructions() -> dict[str | int, tuple[int, str]]:
    """AlpacaEval-2: key of an instruction, or its index -> its index, and who upstream's seeded
    choice shows first (the model for 406 of 805)."""
    path = Path(__file__).with_name("alpaca_eval_instructions.csv")
    rows = pd.read_csv(path, dtype={"sha256": str})
    order = rows["model_first"].map({1: MODEL_FIRST, 0: BASELINE_FIRST})
    places = list(zip(rows["index"].tolist(), order, strict=True))
    return dict(zip(rows["sha256"], places, strict=True)) | {place[0]: place for place in places}


def instruction_key(text: str) -> str:
    """First 12 digits of an instruction's sha256: enough to find it among 805."""
    return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()[:12]


def _alpaca(row: Row) -> list[Row]:
    """alpaca-eval's annotations, or a table of their numbers; no version: other instructions."""
    if "generator_2" in row:
        key, annotator = instruction_key(row["instruction"]), row.get("annotator") or ""
        sides = {"model": row["generator_2"], "baseline": row["generator_1"]}
        lengths = len(row["output_2"]), len(row["output_1"])
    elif "len_model" in row:
        key, annotator = row["index"], OFFICIAL
        sides = {"model": row["model"], "baseline": "gpt4_1106_preview"}
        lengths = row["len_model"], row["len_baseline"]
    else:
        return [row]
    index, order = instructions().get(key, (key, ""))
    found = {**sides, "question_id": index, "order": order, "version": "2" if order else ""}
    found |= {"judge": annotator, "template": annotator, "preference": row["preference"]}
    if annotator == OFFICIAL:
        found |= {"judge": "gpt-4-1106-preview", "template": "alpaca_eval_clf"}
    found["metric"] = "weighted" if annotator.startswith("weighted") else "verdict"
    return [found | {"length_model": lengths[0], "length_baseline": lengths[1]}]


def _mt_bench(row: Row) -> list[Row]:
    """FastChat's ``judge`` is a judge and a template."""
    if not isinstance(row.get("judge"), list):
        return [row]
    judge, template = row["judge"]
    return [{**row, "judge": judge, "template": template}]


def _arena(row: Row) -> list[Row]:
    """Arena-Hard's judgements of two games, or its battles.

    Battles are a row for each unit of weight. Both games name the baseline model_a, so that which
    game it was is lost: all are written as games that show the baseline first.
    """
    if "games" in row:
        names = {k: row[k] for k in ("model", "question_id", "judge") if k in row}
        labels = [(game or {}).get("score") for game in row["games"]]
        games = [{**names, "game": n, "verdict": label} for n, label in enumerate(labels, 1)]
        return [{**game, "version": "v0.1"} for game in games]
    if "model_a" not in row:
        return [row]
    a, b = row["model_a"], row["model_b"]
    own, model, other = ("model_a", a, b) if b == BASELINE != a else ("model_b", b, a)
    won = {"model_a": "A>B", "model_b": "A>B", "tie": "A=B", "tie (bothbad)": "A=B", own: "B>A"}
    found = {"model": model, "baseline": other, "judge": row.get("judge", ""), "version": "v0.1"}
    found |= {"game": 1, "verdict": won.get(row["winner"]), "question_id": row["question_id"]}
    return [found | {"metric": "battles"}]


JUDGEMENTS: dict[str, tuple[Callable[[Row], list[Row]], type[BaseModel]]] = {
    "alpaca-eval": (_alpaca, Preference),
    "mt-bench": (_mt_bench, Score),
    "arena-hard": (_arena, Game),
}


def _read(
    path: Path, ours: Callable[[Row], list[Row]], form: type[BaseModel], benchmark: str
) -> Iterator[tuple[str, Row]]:
    """(where, row in our form) of a file; of repeated requests the one that counts."""
    rows: Iterable[Row] = iter_rows(path)
    if path.name.endswith((".csv", ".csv.gz")) and path.is_file():
        try:
            rows = pd.read_csv(path).to_dict("records")
        except (ValueError, OSError, EOFError) as error:
            raise WRPOError(f"{path} is no whole CSV ({error}); copy it again") from error
    for where, row in best_attempts((f"{path}, row {n}", row) for n, row in enumerate(rows, 1)):
        if row.get("benchmark", benchmark) != benchmark:
            raise WRPOError(f"{where} is of {row['benchmark']}, not {benchmark}; give another file")
        try:
            for one in ours(row):
                yield where, form.model_validate(one).model_dump()
        except ValidationError as error:
            first = error.errors()[0]
            raise WRPOError(
                f"{where}, field {(first['loc'] or ('content',))[0]!r}: {first['msg']}; correct "
                "the row, or is this another kind of file?"
            ) from error
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            raise WRPOError(f"{where} is malformed ({error!r}); correct the row") from error


def best_attempts(rows: Iterable[tuple[str, Row]]) -> list[tuple[str, Row]]:
    """The rows that count among (where, row): for each request its best attempt.

    An answered call counts before one without a verdict, that before a failed one, and of equals
    the last. A call that never succeeded stays, with no result, so that it is counted as missing.
    Rows of other tools have no ``request`` and all count.
    """
    best: dict[str, tuple[int, str, Row]] = {}
    for where, row in rows:
        request, rank = str(row.get("request", where)), RANKS.get(str(row.get("status")), 0)
        if request not in best or rank >= best[request][0]:
            best[request] = rank, where, row
    return [(where, row) for _, where, row in best.values()]


def read_judgements(benchmark: str, path: Path) -> pd.DataFrame:
    """All judgements of a file, one per row; one without a verdict has NaN or None.

    The columns are the fields of :class:`Preference`, :class:`Score` or :class:`Game`. Raises
    :class:`WRPOError` with file, row and field for what is no judgement of ``benchmark``.
    """
    if benchmark not in JUDGEMENTS:
        raise WRPOError(f"unknown benchmark {benchmark!r}; choose one of {', '.join(JUDGEMENTS)}")
    rows = [row for _, row in _read(path, *JUDGEMENTS[benchmark], benchmark)]
    if not rows:
        raise WRPOError(f"{path} holds no judgements; judge the answers first")
    return pd.DataFrame(rows)


class Texts(dict[tuple[int | str, int], str]):
    """A model's answers by (question, turn); how many were ``failed`` and are left out (marked as
    errors, or empty), and from how many a thought was split off."""

    failed = 0
    thoughts = 0


def read_answers(path: Path, benchmark: Benchmark) -> dict[str, Texts]:
    """The answers of each model in a file, joined by id or instruction.

    An unknown question, another version, or a second answer to the same question and turn is a
    :class:`WRPOError` that names file and row.
    """
    name, version = benchmark.name, benchmark.version
    known = {q.turns[0]: q for q in benchmark.questions}
    known |= {str(q.question_id): q for q in benchmark.questions}
    found: dict[str, Texts] = {}
    seen = set()
    for where, row in _read(path, _answers, Answer, name):
        question, turn = known.get(str(row["question_id"])), row["turn"]
        asked = f"question {str(row['question_id'])[:40]!r}, turn {turn}"
        if row["version"] not in (None, version):
            raise WRPOError(f"{where} answers version {row['version']}, not {version} of {name}")
        if question is None or not 1 <= turn <= len(question.turns):
            raise WRPOError(f"{where}: {name} {version} has no {asked}; is it another version's?")
        if (row["model"], question.question_id, turn) in seen:
            raise WRPOError(f"{where}: {row['model']!r} answers {asked} a second time; remove one")
        seen.add((row["model"], question.question_id, turn))
        texts = found.setdefault(row["model"], Texts())
        thought, text = split_thought(row["text"])
        texts.thoughts += bool(thought)
        if text.strip() in ("", FAILED):
            texts.failed += 1
        else:
            texts[question.question_id, turn] = text
    if not found:
        raise WRPOError(f"{path} holds no answers; run `wrpo answer` first")
    return found
