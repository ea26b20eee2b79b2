"""The figure of the training engine: the mask of a packed row, and the rows it replaces."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from wrpo_lib.figures.style import drawing, look
from wrpo_lib.packing import Branches
from wrpo_lib.quadruples.schema import RESPONSES

COLORS = ("#999999", *(look(name).color for name in RESPONSES))
HATCHES = ("", "///", "...", "xxx")
NAMES = ("prompt x", "y_ws", "y_wt", "y_l")
PROMPT, LENGTHS = 5, (5, 4, 3)
"""Tokens of the example that is drawn, its longest response first."""


def mask(profile: str = "nano") -> Figure:
    """What each token of a packed row sees, from ``Branches.mask()``; beside it, padded rows.

    ``profile`` is not read: the mask is a formula.
    """
    branches = Branches(((PROMPT, LENGTHS),))
    sees, owners, positions = branches.mask(), branches.owners()[1], branches.positions()
    n, width = len(owners), PROMPT + LENGTHS[0]
    ratios = {"height_ratios": [1.7, 1]}
    with drawing(2, 1, (5.6, 7.6), **ratios) as (figure, (top, bottom)):
        _draw(top, ((j, i, owners[j]) for i in range(n) for j in range(n) if sees[i, j]))
        top.set(xlabel="position of the token seen", ylabel="position of the token that sees")
        for set_ticks in (top.set_xticks, top.set_yticks):
            set_ticks([k + 0.5 for k in range(n)], list(map(str, positions)))
        for part, name in enumerate(NAMES):
            top.text(owners.index(part), -0.4, name, fontweight="bold")
        rows = [[0] * PROMPT + [k] * y + [-1] * (LENGTHS[0] - y) for k, y in enumerate(LENGTHS, 1)]
        rows = [rows[0], [], rows[1], [], rows[2], [], [], [], owners]
        _draw(bottom, [(x, y, part) for y, row in enumerate(rows) for x, part in enumerate(row)])
        bottom.text(0, -0.5, f"one padded row per response: {3 * width} tokens")
        bottom.text(0, 7.5, f"one packed row: {n} tokens")
        bottom.axis("off")
    return figure


def _draw(axis: Axes, cells: Iterable[tuple[int, int, int]]) -> None:
    """Cells at (x, y) in the colour and hatch of their part; -1 is padding."""
    for x, y, part in cells:
        kind: Any = {"facecolor": COLORS[part], "hatch": HATCHES[part], "edgecolor": "white"}
        if part < 0:
            kind = {"facecolor": "white", "edgecolor": "#aaaaaa", "linestyle": ":"}
        axis.add_patch(Rectangle((x, y), 1, 1, **kind))
    axis.set_aspect("equal")
    axis.autoscale_view()
    axis.invert_yaxis()
    axis.grid(visible=False)
