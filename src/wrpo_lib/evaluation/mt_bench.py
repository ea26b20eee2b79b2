"""MT-Bench: single-answer scores of two turns, and the pairwise mode (both as FastChat's)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from wrpo_lib.analysis.statistics import Estimate, mean_interval
from wrpo_lib.errors import WRPOError

if TYPE_CHECKING:
    import pandas as pd

CATEGORIES = (
    "writing",
    "roleplay",
    "reasoning",
    "math",
    "coding",
    "extraction",
    "stem",
    "humanities",
)
"""Categories in the order of the questions: ten each, 81 to 160."""

REFERENCED = ("math", "reasoning", "coding")
"""Categories that are judged beside a reference answer."""

TIE_DELTA = 0.1  # FastChat: scores this close tie
READABLE = ("model_1", "model_2", "tie")  # FastChat's verdicts; another is an error


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
    ``n_without_reference`` rows of math, reasoning and coding were judged without a reference
    answer, where the rows say so; such scores are those of another protocol.
    """

    first_turn: float
    second_turn: float
    overall: float
    n_total: int
    n_missing: int
    n_duplicates: int
    n_questions: int
    n_without_reference: int
    interval: Estimate
    categories: dict[str, Estimate]


def _scored(judgements: pd.DataFrame) -> pd.DataFrame:
    """The rows with a number or NaN in ``score``, read from the reply where there is none."""
    if "score" in judgements:
        return judgements
    scores = np.array([parse_score(reply) for reply in judgements["judgment"]], dtype=float)
    return judgements.assign(score=scores)


def summarise(judgements: pd.DataFrame) -> MTBench:
    """Scores of one model from rows with ``question_id``, ``turn`` and ``score`` or ``judgment``.

    A score of −1 (upstream's mark for an unreadable reply) or none counts as missing and is left
    out. ``category`` and ``with_reference`` are used where they are there.
    """
    rows = _scored(judgements)
    if "category" not in rows:
        rows = rows.assign(category=[category(q) for q in rows["question_id"]])
    known = rows[rows["score"] >= 0]
    if len(known) < 2:
        raise WRPOError(
            f"{len(known)} of {len(rows)} judgements have a score; judge the rest first"
        )
    bare = rows["with_reference"].eq(False) if "with_reference" in rows else False
    turns = known.groupby("turn")["score"].mean()
    by_category = dict(list(known.groupby("category")))
    return MTBench(
        first_turn=float(turns.get(1, float("nan"))),
        second_turn=float(turns.get(2, float("nan"))),
        overall=float(known["score"].mean()),
        n_total=len(known),
        n_missing=len(rows) - len(known),
        n_duplicates=int(rows.duplicated(["question_id", "turn"]).sum()),
        n_questions=known["question_id"].nunique(),
        n_without_reference=int((rows["category"].isin(REFERENCED) & bare).sum()),
        interval=mean_interval(known["score"], known["question_id"]),
        categories={
            name: mean_interval(by_category[name]["score"], by_category[name]["question_id"])
            for name in dict.fromkeys([*CATEGORIES, *by_category])
            if name in by_category and by_category[name]["question_id"].nunique() > 1
        },
    )


@dataclass(frozen=True)
class Pairwise:
    """One model against another; counts and shares named as FastChat names them.

    A comparison is won if both orders say so, otherwise it is a tie. ``win_rate_adjusted`` counts
    a tie as half a win; ``interval`` is of that, clustered by question. ``n_missing`` comparisons
    have no readable verdict in one of the orders and are left out.
    """

    win: int
    loss: int
    tie: int
    win_rate: float
    loss_rate: float
    win_rate_adjusted: float
    n_total: int
    n_missing: int
    n_questions: int
    interval: Estimate


def agreed_winner(judgements: pd.DataFrame) -> pd.Series:
    """``model_1``, ``model_2`` or ``tie`` for each comparison; NaN where a game has no verdict.

    The games of a comparison (``g1_winner``, ``g2_winner``) that disagree make a tie.
    """
    first, second = judgements["g1_winner"], judgements["g2_winner"]
    known = first.isin(READABLE) & second.isin(READABLE)
    return first.where(first == second, "tie").where(known)


def pairwise(judgements: pd.DataFrame, model: str) -> Pairwise:
    """Of ``model``, from rows with ``question_id``, two models and the winners of both games.

    Fields are FastChat's: ``model_1``, ``model_2``, ``g1_winner``, ``g2_winner``.
    Winners are ``model_1``, ``model_2``, ``tie`` or ``error`` (missing).
    """
    own = judgements[(judgements["model_1"] == model) | (judgements["model_2"] == model)]
    if own.empty:
        raise WRPOError(f"no pairwise judgement is of {model!r}; check the name")
    winner = agreed_winner(own).dropna()
    known = own.loc[winner.index]
    side = np.where(known["model_1"] == model, "model_1", "model_2")
    won = np.where(winner == "tie", 0.5, (winner == side).astype(float))
    return _pairwise(won, known["question_id"].tolist(), len(own) - len(known))


def compare(a: pd.DataFrame, b: pd.DataFrame) -> Pairwise:
    """Model ``a`` against ``b`` by their single-answer scores of the same (question, turn).

    Repeated rows are averaged first; scores within 0.1 of each other tie.
    """
    key = ["question_id", "turn"]
    scores = (_scored(rows).query("score >= 0").groupby(key)["score"].mean() for rows in (a, b))
    gap = next(scores) - next(scores)  # NaN where one of them has no score
    known = gap.dropna()
    won = np.where(known.abs() <= TIE_DELTA + 1e-9, 0.5, (known > 0).astype(float))
    questions = known.index.get_level_values("question_id").tolist()
    return _pairwise(won, questions, len(gap) - len(known))


def _pairwise(won: np.ndarray, questions: Sequence[Any], missing: int) -> Pairwise:
    if len(won) < 2:
        raise WRPOError(f"{len(won)} comparisons have a verdict; give the same questions of both")
    win, loss = int((won == 1).sum()), int((won == 0).sum())
    return Pairwise(
        win=win,
        loss=loss,
        tie=len(won) - win - loss,
        win_rate=win / len(won),
        loss_rate=loss / len(won),
        win_rate_adjusted=float(won.mean()),
        n_total=len(won),
        n_missing=missing,
        n_questions=len(set(questions)),
        interval=mean_interval(won, questions),
    )
