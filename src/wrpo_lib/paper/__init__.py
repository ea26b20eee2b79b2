"""The paper's own numbers (arXiv 2412.03187, version 1 tables), as data."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

TYPICAL_LC_SE = 0.8
"""Typical standard error of a length-controlled win rate like the paper's, which prints none:
measured on published judgements of other models (0.7 to 0.9)."""


def table(name: str, as_printed: bool = False) -> pd.DataFrame:
    """One table of the paper, for example ``table02_main_results``.

    ``as_printed`` keeps every cell as text with the decimals of the paper.
    """
    path = Path(__file__).with_name(f"{name}.csv")
    return pd.read_csv(path, dtype=str, na_filter=False) if as_printed else pd.read_csv(path)
