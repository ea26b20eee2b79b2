"""Figures drawn from formulas alone: the schedules of α and the mask of a packed row."""

from collections.abc import Iterable
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from wrpo_lib.figures.style import Drawn, Look, draw_curve, drawing, look
from wrpo_lib.quadruples.schema import RESPONSES

SCHEDULES = {
    "linear": Look("linear (the code)", "#009E73"),
    "quadratic": Look("quadratic (the drawing)", "#555555", dash="--"),
    "constant": Look("constant", "#555555", dash=":"),
}
PARTS = ("prompt x", "y_ws", "y_wt", "y_l")
COLORS = ("#999999", *(look(name).color for name in RESPONSES))
HATCHES = ("", "///", "...", "xxx")
PROMPT, LENGTHS = 5, (5, 4, 3)
"""Tokens of the example whose mask is drawn, its longest response first."""


def figure_2() -> Drawn:
    """α against the optimiser step as in the paper, 311 steps to 0.1."""
    from wrpo_lib.objective import alpha_at

    steps = range(311)
    rows = pd.DataFrame({n: [alpha_at(n, t, 311, 0.1) for t in steps] for n in SCHEDULES})
    with drawing() as (figure, axis):
        for name, how in SCHEDULES.items():
            draw_curve(axis, steps, rows[name], how)
        axis.set(xlabel="optimiser step t", ylabel="fusion coefficient α(t)")
        axis.legend()
    return Drawn(figure, rows.assign(step=steps))


def mask() -> Drawn:
    """What each token of a packed row sees, from ``Branches.mask()``; below it, padded rows."""
    from wrpo_lib.packing import Branches

    branches = Branches(((PROMPT, LENGTHS),))
    sees, owners = branches.mask(), branches.owners()[1]
    n, width = len(owners), PROMPT + LENGTHS[0]
    ticks = {"ticks": [k + 0.5 for k in range(n)], "labels": list(map(str, branches.positions()))}
    with drawing(2, 7.0, height_ratios=[1.7, 1]) as (figure, (top, bottom)):
        _draw(top, ((j, i, owners[j]) for i, j in sees.nonzero().tolist()))
        top.set(xlabel="position of the token seen", ylabel="position of the token that sees")
        top.set_xticks(**ticks)
        top.set_yticks(**ticks)
        for part, name in enumerate(PARTS):
            top.text(owners.index(part), -0.4, name, fontweight="bold")
        rows = {8: owners}  # from the top; padded rows are the first, third and fifth
        for k, own in enumerate(LENGTHS, 1):
            rows[2 * k - 2] = [0] * PROMPT + [k] * own + [-1] * (LENGTHS[0] - own)
        _draw(bottom, ((x, y, part) for y, row in rows.items() for x, part in enumerate(row)))
        bottom.text(0, -0.5, f"one padded row per response: {3 * width} tokens")
        bottom.text(0, 7.5, f"one packed row: {n} tokens")
        bottom.axis("off")
    return Drawn(figure, pd.DataFrame(sees).astype(int))


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
