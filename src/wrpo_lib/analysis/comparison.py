"""Comparing methods over seeds: levels, and paired differences within each seed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from wrpo_lib.analysis.statistics import Estimate, paired_difference, seed_interval
from wrpo_lib.errors import WRPOError

if TYPE_CHECKING:
    import pandas as pd


def _by_seed(scores: pd.DataFrame, model: str, column: str) -> pd.Series:
    values = scores[scores["model"] == model].set_index("seed")[column].sort_index()
    if values.empty:
        raise WRPOError(f"there are no scores of {model!r}; it has {sorted(set(scores['model']))}")
    return values


def level(scores: pd.DataFrame, model: str, column: str = "quality") -> Estimate:
    """Mean of a model over seeds; ``scores`` has one row a (seed, model)."""
    return seed_interval(_by_seed(scores, model, column).tolist())


def difference(
    scores: pd.DataFrame, model: str, baseline: str, column: str = "quality"
) -> Estimate:
    """Mean of model − baseline over seeds, paired within the seed."""
    a, b = _by_seed(scores, model, column), _by_seed(scores, baseline, column)
    if list(a.index) != list(b.index):
        raise WRPOError(f"{model!r} and {baseline!r} have other seeds; run both on the same")
    return paired_difference(a.tolist(), b.tolist())


def levels(scores: pd.DataFrame, models: list[str], column: str = "quality") -> pd.DataFrame:
    """:func:`level` of several models as a table, in the order given."""
    import pandas as pd

    return pd.DataFrame([{"model": m, **level(scores, m, column).as_dict()} for m in models])


def differences(
    scores: pd.DataFrame, models: list[str], baseline: str, column: str = "quality"
) -> pd.DataFrame:
    """:func:`difference` of several models against one baseline as a table."""
    import pandas as pd

    return pd.DataFrame(
        [{"model": m, **difference(scores, m, baseline, column).as_dict()} for m in models]
    )
