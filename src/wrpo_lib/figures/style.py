"""One style for every figure: colours, markers and names that hold in greyscale too."""

import json
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from IPython.display import Markdown
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Text
from pandas.io.formats.style import Styler

from wrpo_lib.analysis.report import maths
from wrpo_lib.errors import WRPOError
from wrpo_lib.recipes import read_yaml


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


STYLE = Path(__file__).with_name("wrpo.mplstyle")
SUBSCRIPT = re.compile(r"\b(y|α|WRPO)_(ws|wt|l|max|DPO|IPO|SimPO)\b")
LOOKS = {k: Look(*v) for k, v in read_yaml(Path(__file__).with_name("looks.yaml")).items()}


def look(arm: str) -> Look:
    """The look of a series; sources, and what only tables name, share a grey one."""
    return LOOKS.get(arm) or Look(arm.removeprefix("source-").replace("source_", "Source "))


def table(rows: pd.DataFrame, digits: int = 2) -> Styler:
    """A table for a page, numbers to ``digits`` decimals, integers as they are.

    What models said is text, never markup. Notebook themes colour the class for light and dark.
    """

    def subscripts(value: Any) -> Any:
        is_text = isinstance(value, str)
        return SUBSCRIPT.sub(r"\1<sub>\2</sub>", escape(value)) if is_text else value

    texts = list(rows.select_dtypes(["object", "category"]))
    shown = rows.style.format(precision=digits, na_rep="").format(subscripts, texts, na_rep="")
    shown = shown.hide(axis="index").format_index(subscripts, axis=1)
    return shown.set_table_attributes('class="dataframe"')


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


def widget(name: str, data: dict[str, Any]) -> str:
    """The place of a widget with its data as JSON, which no text in it can end."""
    text = json.dumps(data).replace("<", "\\u003c")
    return f'<div data-widget="{name}"><script type="application/json">{text}</script></div>'


@contextmanager
def drawing(rows: int = 1, height: float = 3.0, **options: Any) -> Iterator[tuple[Figure, Any]]:
    """A column of ``rows`` panels, ``height`` inches high; ``options`` of matplotlib's subplots."""
    with plt.style.context(STYLE):
        figure, axes = plt.subplots(rows, 1, **{"figsize": (4.8, height), **options})
        yield figure, axes
        for text in figure.findobj(Text):
            text.set_text(maths(text.get_text()))
        interactive = mpl.is_interactive()
    # Jupyter's backend starts with the first figure and asks for interactive mode, without which
    # it shows no second one; leaving the context would take that back
    mpl.interactive(interactive)


def reach(rows: pd.DataFrame) -> np.ndarray:
    """How far intervals (``low``, ``high``) reach below and above ``value``, (2, N)."""
    return np.array([rows["value"] - rows["low"], rows["high"] - rows["value"]])


def draw_rows(
    axis: Axes, rows: pd.DataFrame, xlabel: str = "", shift: float = 0, **options: Any
) -> None:
    """A mark with its interval for each of ``rows``, named from the top.

    ``rows`` has ``arm``, ``value``, ``low`` and ``high``, and ``name`` where it is not the arm's.
    """
    for k, how in enumerate(map(look, rows["arm"])):
        mark: Any = {"color": how.color, "marker": how.marker, "markersize": 7, "capsize": 3}
        row = rows.iloc[[k]]
        axis.errorbar(row["value"], [k + shift], xerr=reach(row), **(mark | options))
    name_rows(axis, rows.get("name", [look(arm).name for arm in rows["arm"]]))
    axis.set_xlabel(xlabel)


def draw_line(axis: Axes, x: Sequence[float], rows: pd.DataFrame, how: Look) -> None:
    """Values against ``x`` with their intervals, joined by a line."""
    line: Any = {"color": how.color, "marker": how.marker, "linestyle": how.dash}
    axis.errorbar(x, rows["value"], yerr=reach(rows), capsize=3, label=how.name, **line)


def draw_curve(axis: Axes, x: Any, y: Any, how: Look, **options: Any) -> None:
    """``y`` against ``x`` as a line without marks."""
    axis.plot(x, y, how.dash, color=how.color, **({"label": how.name} | options))


def name_rows(axis: Axes, names: Any) -> None:
    """The names of rows, from the top, instead of a grid."""
    axis.set_yticks(range(len(names)), [maths(str(name)) for name in names])
    axis.set_ylim(len(names) - 0.5, -0.5)
    axis.grid(axis="y", visible=False)
