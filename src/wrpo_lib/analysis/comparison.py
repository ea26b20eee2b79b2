"""Comparing methods over seeds: levels, and paired differences within each seed.

A seed is a whole replication, so an interval over seeds holds all variation there is; with three
seeds it is honest and wide (t = 4.3).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from wrpo_lib.analysis.statistics import Estimate, mean_interval, paired_difference
from wrpo_lib.errors import WRPOError

if TYPE_CHECKING:
    import pandas as pd


def level(scores: pd.DataFrame, model: str, column: str = "quality") -> Estimate:
    """Mean of a model over seeds; ``scores`` has one row per (seed, model)."""
    return mean_interval(_by_seed(scores, model, column))


def difference(
    scores: pd.DataFrame, model: str, baseline: str, column: str = "quality"
) -> Estimate:
    """Mean of model - baseline over seeds, paired within the seed."""
    a, b = _by_seed(scores, model, column), _by_seed(scores, baseline, column)
    if list(a.index) != list(b.index):
        raise WRPOError(f"{model!r} and {baseline!r} have other seeds; run both on the same")
    return paired_difference(a, b)


def _by_seed(scores: pd.DataFrame, model: str, column: str) -> pd.Series:
    values = scores[scores["model"] == model].set_index("seed")[column].sort_index()
    if values.empty:
        raise WRPOError(f"there are no scores of {model!r}; it has {sorted(set(scores['model']))}")
    return values
