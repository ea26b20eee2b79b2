"""The forms in which answers and judgements are written: ours and upstream's, in one table each.

A form is recognised by the fields that a row has; its function gives the row in our form.
"""

from __future__ import annotations

import csv
import hashlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from wrpo_lib.errors import WRPOError
from wrpo_lib.evaluation.arena_hard import BASELINES
from wrpo_lib.evaluation.verdicts import BASELINE_FIRST, MIRRORED, MODEL_FIRST, VERDICTS
from wrpo_lib.io import Row, iter_rows

ANNOTATORS = {"weighted_alpaca_eval_gpt4_turbo": ("gpt-4-1106-preview", "alpaca_eval_clf")}
"""alpaca-eval's annotator -> judge and template, as our own rows name them."""

SETTING = ("model", "baseline", "judge", "version", "template", "metric")


@dataclass(frozen=True)
class Form:
    """``fields`` tell the form apart; ``convert`` gives a row of it as rows of ours."""

    fields: tuple[str, ...]
    convert: Callable[[Row], list[Row]]


def read_rows(path: Path) -> Iterator[tuple[str, Row]]:
    """(where, row) of a CSV or of what :func:`wrpo_lib.io.iter_rows` reads."""
    rows: Iterator[Row] = iter_rows(path)
    if path.name.endswith((".csv", ".csv.gz")) and path.is_file():
        import pandas as pd

        try:
            rows = iter(pd.read_csv(path).to_dict("records"))
        except (ValueError, OSError, EOFError) as error:
            raise WRPOError(f"{path} is no whole CSV ({error}); copy it again") from error
    unit = "line" if ".jsonl" in path.name else "row"
    for number, row in enumerate(rows, 1):
        yield f"{path}, {unit} {number}", row


def convert(row: Row, forms: tuple[Form, ...], where: str) -> list[Row]:
    """A row of any of ``forms``, the last of which is ours, as rows of ours."""
    form = next((f for f in forms if row.keys() >= set(f.fields)), None)
    if form is None:
        absent = next(name for name in forms[-1].fields if name not in row)
        raise WRPOError(
            f"{where} has no field {absent!r} and is of no other form that is known here "
            f"(its fields: {', '.join(list(row)[:8])}); is this the right file?"
        )
    try:
        return form.convert(row)
    except ValueError as error:
        raise WRPOError(f"{where}, {error}") from error
    except (KeyError, IndexError, TypeError) as error:
        raise WRPOError(f"{where} is malformed ({error!r}); correct the row") from error


# --- answers ------------------------------------------------------------------------------------


def _output(row: Row) -> list[Row]:
    """AlpacaEval's outputs have no ids; the instruction stands for one."""
    return [{"instruction": row["instruction"], "model": row["generator"], "text": row["output"]}]


def _choices(row: Row) -> list[Row]:
    turns = row["choices"][0]["turns"]
    texts = [turn["content"] if isinstance(turn, dict) else turn for turn in turns]
    common = {"question_id": row["question_id"], "model": row["model_id"]}
    return [{**common, "turn": turn, "text": text} for turn, text in enumerate(texts, 1)]


def _messages(row: Row) -> list[Row]:
    content = row["messages"][-1]["content"]
    text = content["answer"] if isinstance(content, dict) else content
    return [{"question_id": row["uid"], "turn": 1, "model": row["model"], "text": text}]


ANSWERS = (
    Form(("instruction", "output", "generator"), _output),  # alpaca-eval
    Form(("choices", "model_id", "question_id"), _choices),  # FastChat, Arena-Hard v0.1
    Form(("messages", "uid", "model"), _messages),  # Arena-Hard v2.0
    Form(("question_id", "turn", "model", "text"), lambda row: [row]),  # ours
)


# --- judgements ---------------------------------------------------------------------------------


@cache
def instructions() -> dict[str, tuple[int, bool]]:
    """Hash of each AlpacaEval-2 instruction -> official index, and whether upstream's seeded choice
    shows the model first (406 of 805)."""
    path = Path(__file__).with_name("alpaca_eval_instructions.csv")
    with open(path, encoding="utf-8", newline="") as file:
        return {
            row["sha256"]: (int(row["index"]), row["model_first"] == "1")
            for row in csv.DictReader(file)
        }


def instruction_key(text: str) -> str:
    """First 12 digits of an instruction's sha256: enough to find it among 805."""
    return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()[:12]


@cache
def _seeded_orders() -> dict[int, str]:
    """Official index -> which answer upstream's seeded choice shows first."""
    return {i: MODEL_FIRST if first else BASELINE_FIRST for i, first in instructions().values()}


def _setting(row: Row, **defaults: Any) -> Row:
    """What every judgement names: model, baseline, judge, version, template, metric, question."""
    found = {name: row.get(name, defaults.get(name, "")) for name in SETTING}
    return {**found, "question_id": row.get("question_id", defaults.get("question_id"))}


def _number(row: Row, field: str) -> float:
    """A number, NaN where the row has none."""
    value = row.get(field)
    try:
        return math.nan if value is None else float(value)
    except (TypeError, ValueError):
        raise ValueError(f"field {field!r}: is {value!r}, not a number; repair it") from None


def _preference(row: Row) -> float:
    """In [1, 2]; upstream's older 0 is a tie."""
    number = _number(row, "preference") or 1.5
    if not (math.isnan(number) or 1 <= number <= 2):
        raise ValueError(f"field 'preference': {number} is outside [1, 2]; repair it")
    return number


def _alpaca(row: Row) -> list[Row]:
    official = row.get("version") == "2"
    return [
        {
            **_setting(row, metric="weighted"),
            "index": int(row["question_id"]) if official else -1,
            "order": row.get("order", ""),
            "sample": row.get("sample", 0),
            "preference": _preference(row),
            "length_model": _number(row, "length_model"),
            "length_baseline": _number(row, "length_baseline"),
        }
    ]


def _alpaca_numbers(row: Row) -> list[Row]:
    """Published annotations without their texts."""
    index = int(row["index"])
    judge, template = ANNOTATORS["weighted_alpaca_eval_gpt4_turbo"]
    official = {"version": "2", "judge": judge, "template": template, "question_id": index}
    lengths = {f"length_{side}": row[f"len_{side}"] for side in ("model", "baseline")}
    order = _seeded_orders().get(index, "")
    return _alpaca({"baseline": "gpt4_1106_preview", **official, "order": order, **lengths, **row})


def _annotation(row: Row) -> list[Row]:
    """A row of annotations.json; ``index`` is -1 for an instruction that is not AlpacaEval-2's."""
    annotator = str(row.get("annotator") or "")
    judge, template = ANNOTATORS.get(annotator, (annotator, annotator))
    key = instruction_key(str(row["instruction"]))
    index = instructions().get(key, (-1, False))[0]
    return _alpaca(
        {
            "model": row["generator_2"],
            "baseline": row["generator_1"],
            "judge": judge,
            "version": "2" if index >= 0 else "",
            "template": template,
            "metric": "weighted" if annotator.startswith("weighted") else "verdict",
            "question_id": index if index >= 0 else key,
            "order": _seeded_orders().get(index, ""),
            "preference": row["preference"],
            "length_model": len(row["output_2"]),
            "length_baseline": len(row["output_1"]),
        }
    )


def _mt_bench(row: Row) -> Row:
    """What all of MT-Bench's forms share; FastChat's ``judge`` is a judge and a template."""
    judge = row.get("judge") or ""
    judge, template = judge if isinstance(judge, list) else (judge, row.get("template", ""))
    found = _setting({**row, "judge": judge, "template": template}, metric="score")
    category = {"category": row["category"]} if row.get("category") else {}
    return {**found, **category, "turn": row.get("turn", 1)}


def _score(row: Row) -> list[Row]:
    found = _mt_bench(row)
    named = found["template"]
    reference = "math" in named or "reference" in named if named else None
    return [{**found, "score": _number(row, "score"), "with_reference": reference}]


def _game(row: Row) -> list[Row]:
    return [{**_mt_bench(row), "game": row["game"], "winner": row["winner"]}]


def _games(row: Row) -> list[Row]:
    names = ("model_1", "model_2", "g1_winner", "g2_winner")
    return [{**_mt_bench(row), "model": row["model_1"], **{name: row[name] for name in names}}]


def _vote(row: Row) -> list[Row]:
    """A person's vote on two models as a comparison whose two games agree."""
    winner = str(row["winner"])
    names = {"model_a": "model_1", "model_b": "model_2"}
    verdict = "tie" if winner.startswith("tie") else names.get(winner, "error")
    models = {"model_1": row["model_a"], "model_2": row["model_b"]}
    found = {**row, **models, "g1_winner": verdict, "g2_winner": verdict}
    return [{**_games(found)[0], "baseline": row["model_b"], "metric": "votes"}]


def _arena(row: Row, games: list[tuple[int, Any]]) -> list[Row]:
    """Games as (number, label); in the first the baseline is A, in the second the model."""
    category = row.get("category") or "arena-hard-v0.1"
    baseline = BASELINES.get(category, "")
    common = _setting(row, baseline=baseline, version="v0.1", metric="verdict")
    common |= {k: row[k] for k in ("length_model", "length_baseline") if k in row}
    found: list[Row] = []
    for game, label in games:
        won, weight = VERDICTS.get(MIRRORED.get(str(label), str(label)), (math.nan, 0))
        won = 1 - won if game == 1 else won
        found.append({**common, "category": category, "game": game, "won": won, "weight": weight})
    return found


def _arena_games(row: Row) -> list[Row]:
    games = [(n, (game or {}).get("score")) for n, game in enumerate(row["games"], 1)]
    if "uid" in row:
        row = {"version": "v2.0", "question_id": row["uid"], **row}
    return _arena(row, games)


def _battle(row: Row) -> list[Row]:
    """One of upstream's battles; the model is whichever side is no baseline."""
    first_is_model = row["model_b"] in BASELINES.values() and row["model_a"] != row["model_b"]
    own, other = ("model_a", "model_b") if first_is_model else ("model_b", "model_a")
    winner = str(row["winner"])
    outcomes = {own: 1.0, other: 0.0}
    won = 0.5 if winner.startswith("tie") else outcomes.get(winner, math.nan)
    names = {"model": row[own], "baseline": row[other], "judge": row.get("judge") or ""}
    return [
        {
            **_setting({**names, "question_id": row["question_id"]}, version="v0.1"),
            "metric": "battles",
            "category": "arena-hard-v0.1",
            "game": math.nan,  # both games name the baseline model_a
            "won": won,
            "weight": 1,
        }
    ]


JUDGEMENTS = {
    "alpaca-eval": (
        Form(("instruction", "generator_1", "generator_2", "preference"), _annotation),
        Form(("index", "model", "preference", "len_model", "len_baseline"), _alpaca_numbers),
        Form(("preference", "question_id", "model"), _alpaca),
    ),
    "mt-bench": (
        Form(("g1_winner", "g2_winner", "model_1", "model_2", "question_id"), _games),  # FastChat
        Form(("model_a", "model_b", "winner", "question_id"), _vote),  # people's, FastChat's form
        Form(("game", "winner", "model", "question_id"), _game),
        Form(("score", "model", "question_id"), _score),  # FastChat's and ours
    ),
    "arena-hard": (
        Form(("model_a", "model_b", "winner", "question_id"), _battle),
        Form(("games", "model"), _arena_games),  # both versions
        Form(
            ("game", "verdict", "model", "question_id"),
            lambda row: _arena(row, [(row["game"], row["verdict"])]),
        ),
    ),
}
