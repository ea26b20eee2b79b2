"""MT-Bench: single-answer scores of two turns, as FastChat grades them."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
import pandas as pd

from wrpo_lib.analysis.statistics import Estimate, mean_interval
from wrpo_lib.errors import WRPOError

REFERENCED = ("reasoning", "math", "coding")
"""Categories that are judged beside a reference answer."""

CATEGORIES = ("writing", "roleplay", *REFERENCED, "extraction", "stem", "humanities")
"""Categories in the order of the questions: ten each, 81 to 160."""


def parse_score(reply: str) -> float | None:
    """The first ``[[x]]``, else the first ``[x]``, else None (FastChat's rule)."""
    number = r"(\d+\.?\d*)"
    found = re.search(rf"\[\[{number}\]\]", reply) or re.search(rf"\[{number}\]", reply)
    return float(found.group(1)) if found else None


def category(question_id: object) -> str | None:
    """Category of one of MT-Bench's 80 questions; None for any other question."""
    text = str(question_id)
    number = int(text) if text.isdecimal() else 0
    return CATEGORIES[(number - 81) // 10] if 81 <= number <= 160 else None


@dataclass(frozen=True)
class MTBench:
    """Mean scores over all rows, as upstream; intervals cluster both turns of a question.

    ``categories``: mean score with interval, in the order of the questions (the radar figure).
    ``n_duplicates`` rows repeat a (question, turn); they are kept, as upstream keeps them.
    """

    first_turn: float
    second_turn: float
    overall: float
    n_total: int
    n_missing: int
    n_duplicates: int
    n_questions: int
    interval: Estimate
    categories: dict[str, Estimate]


def scored(judgements: pd.DataFrame) -> pd.DataFrame:
    """The rows with a score from 0 to 10, read from the reply (``judgment``) if need be.

    A score of −1 is upstream's mark for an unreadable reply.
    """
    if "score" not in judgements:
        scores = np.array([parse_score(reply) for reply in judgements["judgment"]], dtype=float)
        judgements = judgements.assign(score=scores)
    known = judgements[judgements["score"].between(0, 10)]
    if len(known) < 2:
        raise WRPOError(
            f"{len(known)} of {len(judgements)} judgements have a score; judge the rest first"
        )
    return known


def summarise(judgements: pd.DataFrame) -> MTBench:
    """Scores of one model from rows with ``question_id``, ``turn`` and ``score`` or ``judgment``.

    Rows without a score count as missing and are left out.
    """
    known = scored(judgements)
    turns = known.groupby("turn")["score"].mean()
    categories = known["question_id"].map(category)
    by_category = {name: known[categories == name] for name in CATEGORIES}
    return MTBench(
        first_turn=float(turns.get(1, float("nan"))),
        second_turn=float(turns.get(2, float("nan"))),
        overall=float(known["score"].mean()),
        n_total=len(known),
        n_missing=len(judgements) - len(known),
        n_duplicates=int(judgements.duplicated(["question_id", "turn"]).sum()),
        n_questions=known["question_id"].nunique(),
        interval=mean_interval(known["score"], known["question_id"]),
        categories={
            name: mean_interval(rows["score"], rows["question_id"])
            for name, rows in by_category.items()
            if rows["question_id"].nunique() > 1
        },
    )
