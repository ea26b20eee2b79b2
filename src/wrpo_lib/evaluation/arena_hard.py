"""Arena-Hard v0.1: two games a question against one baseline, five verdicts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from wrpo_lib.analysis.statistics import Estimate, mean_interval
from wrpo_lib.errors import WRPOError

if TYPE_CHECKING:
    import pandas as pd

STRONG = 3  # a strong verdict counts as three battles
FOR_A = {
    "A>>B": (1.0, STRONG),
    "A>B": (1.0, 1),
    "A=B": (0.5, 1),
    "B>A": (0.0, 1),
    "B>>A": (0.0, STRONG),
}


@dataclass(frozen=True)
class ArenaHard:
    """``score``: percent of weighted battles won, ties half.

    ``interval_rows`` treats every weighted battle as independent, as the leaderboard's bootstrap
    does, and is too narrow; ``interval`` clusters by question.
    """

    score: float
    n_battles: int
    n_questions: int
    n_missing: int
    interval: Estimate
    interval_rows: Estimate


def score_battles(
    won: np.ndarray, weight: np.ndarray, questions: list[str], missing: int
) -> ArenaHard:
    """Score of weighted battles: ``won`` in {0, ½, 1}, ``weight`` whole numbers, (N,) each.

    With a single baseline the Bradley–Terry win rate equals this weighted mean.
    """
    if len(won) == 0:
        raise WRPOError("there are no readable verdicts to score; judge the answers first")
    rows = np.repeat(100 * won, weight)
    labels = np.repeat(np.asarray(questions), weight)
    return ArenaHard(
        score=float(rows.mean()),
        n_battles=len(rows),
        n_questions=len(set(questions)),
        n_missing=missing,
        interval=mean_interval(rows, labels.tolist()),
        interval_rows=mean_interval(rows),
    )


def summarise(judgements: pd.DataFrame) -> ArenaHard:
    """Score of one model from rows with ``question_id``, ``game`` and ``verdict``.

    In game 1 the baseline is A, in game 2 the model is. Unreadable verdicts are counted.
    """
    known = judgements["verdict"].isin(list(FOR_A))
    kept = judgements[known]
    for_a = np.array([FOR_A[v][0] for v in kept["verdict"]])
    weight = np.array([FOR_A[v][1] for v in kept["verdict"]], dtype=int)
    won = np.where(kept["game"] == 1, 1 - for_a, for_a)
    return score_battles(won, weight, kept["question_id"].tolist(), int((~known).sum()))


def summarise_battles(battles: pd.DataFrame, model: str) -> ArenaHard:
    """Score of ``model`` from upstream's battle rows (``model_a``, ``model_b``, ``winner``).

    Upstream repeats a row per weight, so each counts once here.
    """
    is_a = (battles["model_a"] == model).to_numpy()
    winner = battles["winner"].to_numpy()
    tie = np.array([str(w).startswith("tie") for w in winner])
    won = np.where(tie, 0.5, ((winner == "model_a") == is_a).astype(float))
    return score_battles(won, np.ones(len(won), dtype=int), battles["question_id"].tolist(), 0)
