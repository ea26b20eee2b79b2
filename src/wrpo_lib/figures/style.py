"""One style for every figure: colours, markers and names that hold in greyscale too."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from IPython.display import Markdown
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from pandas.io.formats.style import Styler

from wrpo_lib.errors import WRPOError
from wrpo_lib.recipes import read_yaml

WIDTH = 4.8
"""Inches of a column of panels."""

GREY = "#888888"


class Drawn(NamedTuple):
    """A figure and the numbers that are drawn in it."""

    figure: Figure
    rows: pd.DataFrame


class Look(NamedTuple):
    """How a series is drawn and named."""

    name: str
    color: str = "#777777"
    marker: str = "o"
    dash: str = "-"


LOOKS = {
    name: Look(*values)
    for name, values in read_yaml(Path(__file__).with_name("looks.yaml")).items()
}


def look(arm: str) -> Look:
    """The look of a series; arms that are only listed share a grey one."""
    if arm in LOOKS:
        return LOOKS[arm]
    kind, _, label = arm.rpartition("_")
    number = label[1:].rstrip("0")
    if kind == "wrpo_const":
        return Look(f"WRPO, α = 0.{number}" + ("/2" if label[0] == "m" else ""))
    if kind == "wrpo" and label[0] == "a":
        return LOOKS["wrpo"]._replace(name=f"WRPO, α → 0.{number}")
    if kind == "wrpo" and label[0] == "k":
        return LOOKS["wrpo"]._replace(name=f"WRPO, sources: {number}")
    return Look(arm.removeprefix("source-").replace("source_", "Source "))


def table(rows: pd.DataFrame, digits: int = 2, index: bool = False, escape: bool = True) -> Styler:
    """A table for a page, numbers to ``digits`` decimals, integers as they are.

    What models said is text, never markup; ``escape=False`` is for cells that a page made itself.
    It carries the class that notebook themes colour for light and dark mode.
    """
    shown = rows.style.format(precision=digits, na_rep="", escape="html" if escape else None)
    shown = shown.format_index(escape="html", axis=1).set_table_attributes('class="dataframe"')
    return shown.format_index(escape="html") if index else shown.hide(axis="index")


def show(make: Callable[..., Any], *args: Any, **options: Any) -> Any:
    """For a page: what ``make`` draws, tabulates, says in Markdown or shows, or why it cannot."""
    try:
        made = make(*args, **options)
    except WRPOError as error:
        made = f":::{{warning}}\n{error}.\n:::"
    if isinstance(made, str):
        return Markdown(made)
    if isinstance(made, Drawn):
        return None
    return table(made) if isinstance(made, pd.DataFrame) else made


@contextmanager
def drawing(rows: int = 1, height: float = 3.0, **options: Any) -> Iterator[tuple[Figure, Any]]:
    """A figure ``height`` inches high with one column of ``rows`` panels.

    ``options`` are those of matplotlib's ``subplots``.
    """
    with plt.style.context(Path(__file__).with_name("wrpo.mplstyle")):
        yield plt.subplots(rows, 1, **{"figsize": (WIDTH, height), **options})
        interactive = mpl.is_interactive()
    # Jupyter's backend starts with the first figure and asks for interactive mode, without which
    # it shows no second one; leaving the context would take that back
    mpl.interactive(interactive)


def draw_interval(axis: Axes, at: float, found: Any, how: Look, **kwargs: Any) -> None:
    """A mark at (value, ``at``) with its interval; ``found`` has ``value``, ``low``, ``high``."""
    error = [[found.value - found.low], [found.high - found.value]]
    drawn = {"color": how.color, "marker": how.marker, "capsize": 3, **kwargs}
    axis.errorbar(found.value, at, xerr=error, **drawn)


def draw_rows(axis: Axes, rows: pd.DataFrame, names: Sequence[str] | None = None) -> None:
    """A row of the axis for each of ``rows`` (arm, value, low, high), named from the top."""
    for k, row in enumerate(rows.itertuples()):
        draw_interval(axis, k, row, look(row.arm), markersize=7)
    name_rows(axis, names or [look(arm).name for arm in rows["arm"]])


def draw_line(axis: Axes, x: Sequence[float], rows: pd.DataFrame, how: Look) -> None:
    """Values against ``x`` with their intervals, joined by a line."""
    value, low, high = rows[["value", "low", "high"]].to_numpy().T
    drawn: Any = {"color": how.color, "marker": how.marker, "linestyle": how.dash, "capsize": 3}
    axis.errorbar(x, value, yerr=[value - low, high - value], label=how.name, **drawn)


def draw_cells(
    axis: Axes, values: pd.DataFrame, texts: pd.DataFrame, low: float = 0, high: float = 100
) -> None:
    """A heat map of ``values`` between ``low`` and ``high``, pale enough to read its ``texts``."""
    axis.imshow(values, cmap="Greys", vmin=low, vmax=high + 0.6 * (high - low), aspect="auto")
    for (y, x), text in np.ndenumerate(texts.to_numpy()):
        axis.text(x, y, text, ha="center", va="center", fontsize=10)
    axis.set_xticks(range(values.shape[1]), values.columns)
    name_rows(axis, values.index)
    axis.grid(visible=False)


def name_rows(axis: Axes, names: Sequence[str]) -> None:
    """The names of rows, from the top, instead of a grid."""
    axis.set_yticks(range(len(names)), names)
    axis.set_ylim(len(names) - 0.5, -0.5)
    axis.grid(axis="y", visible=False)
