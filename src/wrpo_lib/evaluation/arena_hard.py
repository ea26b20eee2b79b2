"""Arena-Hard v0.1: two games a question against a baseline, five verdicts."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from wrpo_lib.analysis.statistics import Estimate, mean_interval
from wrpo_lib.errors import WRPOError

STRONG = 3  # a strong verdict counts as three battles
FOR_A = {
    "A>>B": (1.0, STRONG),
    "A>B": (1.0, 1),
    "A=B": (0.5, 1),
    "B>A": (0.0, 1),
    "B>>A": (0.0, STRONG),
}
"""Verdict -> what A won of a battle, and how many battles it stands for."""

BASELINE = "gpt-4-0314"
REPLICATES = 10_000


@dataclass(frozen=True)
class ArenaHard:
    """``score``: percent of weighted battles won, ties half.

    ``interval_rows`` resamples weighted battles as if each were independent, as upstream does, and
    is too narrow; ``interval`` clusters by question. ``n_ties`` counts weighted battles,
    ``n_missing`` games without a readable verdict, which are left out.
    """

    score: float
    n_battles: int
    n_ties: int
    n_questions: int
    n_missing: int
    interval: Estimate
    interval_rows: Estimate


def battles(judgements: pd.DataFrame) -> pd.DataFrame:
    """One row for each unit of weight of a readable game, with ``won`` in percent (0, 50, 100).

    Rows have ``game`` and ``verdict``: in game 1 the baseline is A, in game 2 the model is.
    """
    known = judgements[judgements["verdict"].isin(FOR_A)]
    if known.empty:
        raise WRPOError("there are no readable verdicts to score; judge the answers first")
    for_a = np.array([FOR_A[v][0] for v in known["verdict"]])
    weight = [FOR_A[v][1] for v in known["verdict"]]
    known = known.assign(won=100 * np.where(known["game"] == 1, 1 - for_a, for_a))
    return known.iloc[np.repeat(np.arange(len(known)), weight)]


def summarise(judgements: pd.DataFrame) -> ArenaHard:
    """Score of one model from rows, one per game, with ``question_id``, ``game`` and ``verdict``.

    With a single baseline the Bradley–Terry win rate equals this weighted mean. Unreadable verdicts
    are counted and left out.
    """
    known = battles(judgements)
    percent = known["won"].to_numpy(float)
    return ArenaHard(
        score=float(percent.mean()),
        n_battles=len(percent),
        n_ties=int((percent == 50).sum()),
        n_questions=known["question_id"].nunique(),
        n_missing=int((~judgements["verdict"].isin(FOR_A)).sum()),
        interval=mean_interval(percent, known["question_id"]),
        interval_rows=_row_bootstrap(percent),
    )


def _row_bootstrap(rows: np.ndarray) -> Estimate:
    """Upstream's interval of a mean: resampled rows, clusters ignored; ``rows`` (N,)."""
    values, counts = np.unique(rows, return_counts=True)
    n, rng = len(rows), np.random.default_rng(0)
    drawn = rng.multinomial(n, counts / n, REPLICATES) @ values / n
    low, high = np.quantile(drawn, [0.025, 0.975])
    how = f"row bootstrap, {REPLICATES} replicates, seed 0"
    return Estimate(float(rows.mean()), float(low), float(high), n, n, how)
