"""One style for every figure: colours, markers and names that hold in greyscale too."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib as mpl
import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from pandas.io.formats.style import Styler


class Look(NamedTuple):
    """How a series is drawn and named."""

    name: str
    color: str
    marker: str
    dash: str


# Okabe and Ito's palette: told apart with every common colour vision, and by lightness in print
LOOKS = {
    "target": Look("Target", "#555555", "o", "-"),
    "target_sft": Look("Target-SFT", "#000000", "s", "-"),
    "dpo_off": Look("DPO-off", "#D55E00", "v", ":"),
    "dpo_on_target": Look("DPO-on (raw target)", "#56B4E9", "^", "--"),
    "dpo_on": Look("DPO-on", "#0072B2", "^", "--"),
    "dpo_hybrid": Look("DPO-hybrid", "#E69F00", "D", "-."),
    "wrpo": Look("WRPO (α → 0.1)", "#009E73", "P", "-"),
    "wrpo_alpha05": Look("WRPO (α → 0.5)", "#CC79A7", "X", "-"),
    "source": Look("source responses", "#D55E00", "D", "-"),
    "own": Look("own responses", "#0072B2", "o", "--"),
    "source_chosen": Look("y_ws (source)", "#D55E00", "D", "-."),
    "target_chosen": Look("y_wt (target)", "#0072B2", "^", "--"),
    "rejected": Look("y_l (rejected)", "#555555", "v", ":"),
    "margins": Look("margin", "#009E73", "P", "-"),
}
GREY = "#888888"


def look(name: str) -> Look:
    """The look of a series; sources share one, named as they are."""
    short = name.removeprefix("source-")
    return LOOKS.get(name, Look(f"Source ({short})", "#999999", "o", "-"))


def table(rows: pd.DataFrame, digits: int = 2, index: bool = False, escape: bool = True) -> Styler:
    """A table for a page, numbers to ``digits`` decimals, integers as they are.

    What models said is text, never markup; ``escape=False`` is for cells that a page made itself.
    It carries the class that notebook themes colour for light and dark mode.
    """
    shown = rows.style.format(precision=digits, na_rep="", escape="html" if escape else None)
    shown = shown.format_index(escape="html", axis=1).set_table_attributes('class="dataframe"')
    return shown.format_index(escape="html") if index else shown.hide(axis="index")


@contextmanager
def drawing(
    rows: int = 1, columns: int = 1, size: tuple[float, float] = (5.6, 3.0), **options: Any
) -> Iterator[tuple[Figure, Any]]:
    """A figure and its axes in the style; ``options`` are those of matplotlib's ``subplots``."""
    with plt.style.context(Path(__file__).with_name("wrpo.mplstyle")):
        yield plt.subplots(rows, columns, figsize=size, **options)
        interactive = mpl.is_interactive()
    # Jupyter's backend starts with the first figure and asks for interactive mode, without which
    # it shows no second one; leaving the context would take that back
    mpl.interactive(interactive)


def draw_interval(axis: Axes, at: float, found: Any, how: Look, **kwargs: Any) -> None:
    """A mark at (value, ``at``) with its interval; ``found`` has ``value``, ``low``, ``high``."""
    error = [[found.value - found.low], [found.high - found.value]]
    drawn = {"color": how.color, "marker": how.marker, "capsize": 3, **kwargs}
    axis.errorbar(found.value, at, xerr=error, **drawn)


def name_rows(axis: Axes, names: Sequence[str]) -> None:
    """The names of rows, from the top, instead of a grid."""
    axis.set_yticks(range(len(names)), names)
    axis.set_ylim(len(names) - 0.5, -0.5)
    axis.grid(axis="y", visible=False)
