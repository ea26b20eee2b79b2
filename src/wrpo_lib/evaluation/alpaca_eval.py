"""AlpacaEval-2: win rate over a baseline, and its length-controlled form.

A judgement is a preference in [1, 2]; 2 means the model certainly wins, 1.5 is a tie.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from wrpo_lib.analysis.statistics import Estimate, mean_interval
from wrpo_lib.errors import WRPOError

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class WinRate:
    """Fields named as upstream names them; ``win_rate`` and errors in percent."""

    win_rate: float
    standard_error: float
    n_total: int
    n_missing: int
    n_draws: int
    interval: Estimate


def win_rate(judgements: pd.DataFrame) -> WinRate:
    """Win rate of one model from rows with ``question_id`` and ``preference``.

    ``standard_error`` is upstream's, over rows; ``interval`` clusters by question, which matters
    where both orders are judged. Missing preferences are counted and left out.
    """
    if judgements.empty:
        raise WRPOError("there are no judgements to summarise; judge the answers first")
    missing = judgements["preference"].isna()
    kept = judgements[~missing]
    preferences = kept["preference"].to_numpy(float)
    if ((preferences < 1) | (preferences > 2)).any():
        row = int(np.flatnonzero((preferences < 1) | (preferences > 2))[0]) + 1
        raise WRPOError(
            f"judgement {row}: preference {preferences[row - 1]} is outside [1, 2]; repair it"
        )
    percent = 100 * (preferences - 1)
    return WinRate(
        win_rate=float(percent.mean()),
        standard_error=float(percent.std(ddof=1) / np.sqrt(len(percent))),
        n_total=len(percent),
        n_missing=int(missing.sum()),
        n_draws=int((preferences == 1.5).sum()),
        interval=mean_interval(percent, kept["question_id"].tolist()),
    )


def length_controlled_win_rate(judgements: pd.DataFrame) -> float:
    """Win rate in percent at equal length, for one model.

    A logistic regression of the preference on a constant and tanh of the standardised length
    difference, read off with the length term at 0. Upstream adds an instruction-difficulty term
    that needs a file of its own data set; without it this is not the leaderboard's number.
    """
    from sklearn.linear_model import LogisticRegression

    kept = judgements.dropna(subset=["preference"])
    gap = (kept["length_baseline"] - kept["length_model"]).to_numpy(float)
    spread = gap.std()
    if spread == 0:
        return win_rate(judgements).win_rate
    x = np.tanh(gap / spread)[:, None]
    share = kept["preference"].to_numpy(float) - 1  # soft labels: one row for each side
    model = LogisticRegression(C=100.0).fit(
        np.vstack([x, x]),
        np.repeat([1, 0], len(x)),
        sample_weight=np.concatenate([share, 1 - share]),
    )
    return float(100 * model.predict_proba(np.zeros((1, 1)))[0, 1])
