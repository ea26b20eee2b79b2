"""One row of judgements of each known format, as one or more rows of ours.

A missing field is a KeyError, which :func:`wrpo_lib.evaluation.judgements.read_judgements` turns
into a sentence with file and row.
"""

from __future__ import annotations

import csv
import hashlib
import math
from functools import cache
from pathlib import Path
from typing import Any

from wrpo_lib.errors import WRPOError
from wrpo_lib.evaluation.arena_hard import BASELINES, FOR_A

Row = dict[str, Any]

ANNOTATORS = {"weighted_alpaca_eval_gpt4_turbo": ("gpt-4-1106-preview", "alpaca_eval_clf")}
"""alpaca-eval's annotator -> judge and template, as our own rows name them."""

# Arena-Hard v2.0 also writes the mirrored labels
LABELS = {"A<<B": "B>>A", "A<B": "B>A", "B=A": "A=B", "B<A": "A>B", "B<<A": "A>>B"}


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


@cache
def _model_first() -> dict[int, bool]:
    return dict(instructions().values())


def instruction_key(text: str) -> str:
    """First 12 digits of an instruction's sha256: enough to find it among 805."""
    return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()[:12]


def _number(value: Any, where: str, field: str) -> float:
    """A number, NaN where the row has none."""
    if value is None or value == "":
        return math.nan
    try:
        return float(value)
    except (TypeError, ValueError):
        raise WRPOError(f"{where}, field {field!r}: is {value!r}, not a number") from None


def alpaca_row(row: Row, where: str) -> list[Row]:
    """AlpacaEval-2: our row, a row of numbers without texts, or one of annotations.json."""
    if "generator_2" in row:
        return [_annotation(row, where)]
    official = "index" in row  # a table of numbers without texts
    index = int(row["index"]) if official else row["question_id"]
    official = official or row.get("version") == "2"
    found = {
        "model": row["model"],
        "baseline": row.get("baseline", "gpt4_1106_preview" if official else ""),
        "judge": row.get("judge", "gpt-4-1106-preview" if "len_model" in row else ""),
        "version": row.get("version", "2" if official else ""),
        "template": row.get("template", "alpaca_eval_clf" if "len_model" in row else ""),
        "metric": row.get("metric", "weighted"),
        "question_id": index,
        "index": int(index) if official else -1,
        "order": row.get("order", _seeded_order(int(index)) if official else ""),
        "sample": row.get("sample", 0),
        "preference": _preference(row["preference"], where),
    }
    for name in ("model", "baseline"):
        value = row.get(f"length_{name}", row.get(f"len_{name}"))
        found[f"length_{name}"] = _number(value, where, f"length_{name}")
    return [found]


def _annotation(row: Row, where: str) -> Row:
    """A row of alpaca-eval's annotations.json; ``index`` is -1 for an instruction not its own."""
    annotator = str(row.get("annotator") or "")
    judge, template = ANNOTATORS.get(annotator, (annotator, annotator))
    key = instruction_key(str(row["instruction"]))
    index = instructions()[key][0] if key in instructions() else -1
    return {
        "model": row["generator_2"],
        "baseline": row["generator_1"],
        "judge": judge,
        "version": "2" if index >= 0 else "",
        "template": template,
        "metric": "weighted" if annotator.startswith("weighted") else "verdict",
        "question_id": index if index >= 0 else key,
        "index": index,
        "order": _seeded_order(index) if index >= 0 else "",
        "sample": 0,
        "preference": _preference(row["preference"], where),
        "length_model": len(row["output_2"]),
        "length_baseline": len(row["output_1"]),
    }


def _seeded_order(index: int) -> str:
    """Which answer upstream's seeded choice shows first."""
    return "model first" if _model_first().get(index) else "baseline first"


def _preference(value: Any, where: str) -> float:
    """In [1, 2]; upstream's older 0 is a tie."""
    number = _number(value, where, "preference")
    if number == 0:
        return 1.5
    if not (math.isnan(number) or 1 <= number <= 2):
        raise WRPOError(f"{where}, field 'preference': {number} is outside [1, 2]; repair it")
    return number


def mt_bench_row(row: Row, where: str) -> list[Row]:
    """MT-Bench: our row or FastChat's, single-answer or pairwise, or a person's vote."""
    judge = row.get("judge") or ""
    judge, template = judge if isinstance(judge, list) else (judge, row.get("template", ""))
    if "model_a" in row:  # people's votes in FastChat's form: one vote a row
        return [_vote(row, judge)]
    common = {
        "baseline": row.get("baseline", ""),
        "judge": judge,
        "version": row.get("version", ""),
        "template": template,
        "metric": row.get("metric", "score"),
        "question_id": row["question_id"],
        "turn": row.get("turn", 1),
    }
    if row.get("category"):
        common["category"] = row["category"]
    if "g1_winner" in row:
        names = ("model_1", "model_2", "g1_winner", "g2_winner")
        return [{**common, "model": row["model_1"], **{n: row[n] for n in names}}]
    common["model"] = row["model"]
    if "winner" in row:
        return [{**common, "game": row["game"], "winner": row["winner"]}]
    score = _number(row["score"], where, "score")
    reference = "math" in template or "reference" in template if template else None
    return [{**common, "score": score, "with_reference": reference}]


def _vote(row: Row, judge: str) -> Row:
    """A vote on two models as a comparison whose two games agree."""
    names = {"model_a": "model_1", "model_b": "model_2"}
    winner = str(row["winner"])
    verdict = "tie" if winner.startswith("tie") else names.get(winner, "error")
    return {
        "model": row["model_a"],
        "baseline": row["model_b"],
        "judge": judge,
        "version": "",
        "template": "",
        "metric": "votes",
        "question_id": row["question_id"],
        "turn": row.get("turn", 1),
        "model_1": row["model_a"],
        "model_2": row["model_b"],
        "g1_winner": verdict,
        "g2_winner": verdict,
    }


def arena_rows(row: Row, where: str) -> list[Row]:
    """Arena-Hard: our row, both games of an upstream row, or a battle."""
    if "model_a" in row:
        return [_battle(row)]
    question = row["uid"] if "uid" in row else row["question_id"]
    category = row.get("category") or "arena-hard-v0.1"
    common = {
        "model": row["model"],
        "baseline": row.get("baseline", BASELINES.get(category, "")),
        "judge": row.get("judge") or "",
        "version": row.get("version", "v2.0" if "uid" in row else "v0.1"),
        "template": row.get("template", ""),
        "metric": row.get("metric", "verdict"),
        "question_id": question,
        "category": category,
    }
    if "games" in row:
        games = [(g, (game or {}).get("score")) for g, game in enumerate(row["games"], 1)]
    else:
        games = [(row["game"], row["verdict"])]
    lengths: Row = {k: row[k] for k in ("length_model", "length_baseline") if k in row}
    found: list[Row] = []
    for game, label in games:
        won, weight = FOR_A.get(LABELS.get(str(label), str(label)), (math.nan, 0))
        if game == 1:  # the baseline is A
            won = 1 - won
        found.append({**common, **lengths, "game": game, "won": won, "weight": weight})
    return found


def _battle(row: Row) -> Row:
    """One of upstream's battles; the model is whichever side is no baseline."""
    pair = (row["model_a"], row["model_b"])
    baseline = next((m for m in pair if m in BASELINES.values()), row["model_a"])
    model = pair[1] if pair[0] == baseline else pair[0]
    winner = str(row["winner"])
    won = math.nan
    if winner.startswith("tie"):
        won = 0.5
    elif winner in ("model_a", "model_b"):
        won = float(row[winner] == model)
    return {
        "model": model,
        "baseline": baseline,
        "judge": row.get("judge") or "",
        "version": "v0.1",
        "template": "",
        "metric": "battles",
        "question_id": row["question_id"],
        "category": "arena-hard-v0.1",
        "game": math.nan,  # both games name the baseline model_a
        "won": won,
        "weight": 1,
    }
