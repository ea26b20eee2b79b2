"""The paper's own numbers (arXiv 2412.03187, version 1 tables), as data."""

from __future__ import annotations

from importlib import resources
from typing import TYPE_CHECKING

from wrpo_lib.errors import WRPOError

if TYPE_CHECKING:
    import pandas as pd

TYPICAL_SE = {
    "alpaca_eval2_lc_winrate": 0.8,
    "alpaca_eval2_winrate": 1.45,
    "arena_hard_winrate": 1.2,
    "mt_bench_overall": 0.33,
}
"""Typical standard errors of rows like the paper's, which prints none: measured on published
judgements of other models (LC 0.7 to 0.9; Arena-Hard 95 % about 2 to 2.8 points; MT-Bench clustered
by question)."""


def tables() -> list[str]:
    """Names of the tables that are carried."""
    files = resources.files(__name__).iterdir()
    return sorted(f.name.removesuffix(".csv") for f in files if f.name.endswith(".csv"))


def table(name: str) -> pd.DataFrame:
    """One table of the paper, for example ``table02_main_results``."""
    import pandas as pd

    if name not in tables():
        raise WRPOError(f"the paper has no table {name!r} here; it has {', '.join(tables())}")
    with resources.as_file(resources.files(__name__) / f"{name}.csv") as path:
        return pd.read_csv(path)
