"""Pictures of the method: α and one quadruple, the mask of a packed row, the memory of a run."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd
import torch
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from wrpo_lib.figures.style import Drawn, draw_curve, drawing, look, name_rows, widget
from wrpo_lib.objective import wrpo_loss
from wrpo_lib.quadruples.schema import RESPONSES
from wrpo_lib.recipes import load_recipe
from wrpo_lib.sharing import Branches

BETA, LOG_RATIOS = 0.01, (-120.0, 50.0, -30.0)
"""The worked example of the method page (β, and log πθ/πref of y_ws, y_wt and y_l in nats)."""
PARTS = ("prompt x", "y_ws", "y_wt", "y_l")
COLORS = ("#999999", *(look(name).color for name in RESPONSES))
HATCHES = ("", "///", "...", "xxx")
PROMPT, LENGTHS = 5, (5, 4, 3)  # tokens of the example whose mask is drawn, the longest first
RUNS = {
    "135M, all weights": ("smol", "wrpo", 1),
    "8B, LoRA on 4 bits": ("workstation", "wrpo_4bit", 1),
    "1B, all weights": ("workstation", "wrpo_full", 1),
    "8B, LoRA": ("workstation", "wrpo", 1),
    "8B, all weights,\neach of 8 GPUs": ("paper", "wrpo", 8),
}
CARDS = (24, 48, 80)  # GiB
BAR_COLORS = ("#0072B2", "#56B4E9", "#009E73", "#999999", "#E69F00", "#CC79A7", "#dddddd")
BAR_HATCHES = ("", "///", "...", "", "\\\\\\", "xxx", "")


def alpha_table(points: int = 101) -> pd.DataFrame:
    """Margin u, loss and gradient weights of the worked example for α from 0 to 1.

    ``source``, ``target`` and ``rejected`` are |∂loss/∂log πθ(y|x)| of y_ws, y_wt and y_l, computed
    by autograd from :func:`~wrpo_lib.objective.wrpo_loss`, in units of 1/nat.
    """
    rows, zero = [], torch.zeros(1, dtype=torch.float64)
    reference = [zero, zero, zero]
    for alpha in np.linspace(0, 1, points).tolist():
        policy = [zero.new_tensor([ratio]).requires_grad_() for ratio in LOG_RATIOS]
        losses, rewards = wrpo_loss(*policy, *reference, alpha=alpha, beta=BETA)
        weights = torch.autograd.grad(losses.sum(), policy)
        margin = rewards.fused - rewards.rejected
        rows.append([alpha, margin.item(), losses.item(), *(abs(w.item()) for w in weights)])
    return pd.DataFrame(rows, columns=["alpha", "margin", "loss", "source", "target", "rejected"])


def alpha_curves() -> Drawn:
    """:func:`alpha_table` of the worked example."""
    rows = alpha_table()
    with drawing(3, 5.6, sharex=True) as (figure, (margin, loss, gradient)):
        for axis, name in ((margin, "margin"), (loss, "loss")):
            axis.plot(rows["alpha"], rows[name], color=look("margins").color)
        margin.axhline(0, linewidth=0.8)
        loss.axhline(np.log(2), linewidth=0.8, linestyle=":")
        loss.annotate("log 2", (0, np.log(2)), xytext=(0, 3), textcoords="offset points")
        for column, name, label in zip(rows.columns[3:], RESPONSES, PARTS[1:], strict=True):
            draw_curve(gradient, rows["alpha"], rows[column], look(name), label=label)
        margin.set_ylabel("margin u")
        loss.set_ylabel("loss")
        gradient.set(ylabel="gradient weight", xlabel="fusion coefficient α")
        figure.legend(loc="outside lower center", ncols=3)
    return Drawn(figure, rows)


def alpha_slider() -> str:
    """The place and the numbers of the α slider; without the script that draws it, empty."""
    return widget("alpha", {"beta": BETA, "log_ratios": LOG_RATIOS})


def mask() -> Drawn:
    """What each token of a packed row sees, from ``Branches.mask()``; below it, padded rows."""
    branches = Branches(((PROMPT, LENGTHS),))
    sees = branches.mask()
    owners = [part for part, n in enumerate((PROMPT, *LENGTHS)) for _ in range(n)]
    n, width = len(owners), PROMPT + LENGTHS[0]
    ticks = {"ticks": [k + 0.5 for k in range(n)], "labels": list(map(str, branches.positions()))}
    with drawing(2, 7.0, height_ratios=[1.7, 1]) as (figure, (top, bottom)):
        _draw_tokens(top, ((j, i, owners[j]) for i, j in sees.nonzero().tolist()))
        top.set(xlabel="position of the token seen", ylabel="position of the token that sees")
        top.set_xticks(**ticks)
        top.set_yticks(**ticks)
        for part, name in enumerate(PARTS):
            top.text(owners.index(part), -0.4, name, fontweight="bold")
        rows = {8: owners}  # from the top; padded rows are the first, third and fifth
        for k, own in enumerate(LENGTHS, 1):
            rows[2 * k - 2] = [0] * PROMPT + [k] * own + [-1] * (LENGTHS[0] - own)
        cells = ((x, y, part) for y, row in rows.items() for x, part in enumerate(row))
        _draw_tokens(bottom, cells)
        bottom.text(0, -0.5, f"one padded row per response: {3 * width} tokens")
        bottom.text(0, 7.5, f"one packed row: {n} tokens")
        bottom.axis("off")
    return Drawn(figure, pd.DataFrame(sees).astype(int))


def _draw_tokens(axis: Axes, cells: Iterable[tuple[int, int, int]]) -> None:
    """Tokens at (x, y) in the colour and hatch of their part; -1 is padding."""
    for x, y, part in cells:
        kind: Any = {"facecolor": COLORS[part], "hatch": HATCHES[part], "edgecolor": "white"}
        if part < 0:
            kind = {"facecolor": "white", "edgecolor": "#aaaaaa", "linestyle": ":"}
        axis.add_patch(Rectangle((x, y), 1, 1, **kind))
    axis.set_aspect("equal")
    axis.autoscale_view()
    axis.invert_yaxis()
    axis.grid(visible=False)


def memory_by_card() -> Drawn:
    """GiB per GPU of recipes on their longest legal batch, as the planner computes it, by card."""
    from wrpo_lib.planner import plan_recipe

    plans = {n: plan_recipe(load_recipe(p, r), gpus) for n, (p, r, gpus) in RUNS.items()}
    rows = pd.DataFrame({name: p.memory(p.worst, sharing=True) for name, p in plans.items()}).T
    rows = rows.loc[:, rows.any()] / 2**30
    left = rows.cumsum(axis=1) - rows
    with drawing(height=4.0) as (figure, axis):
        for part, color, hatch in zip(rows, BAR_COLORS, BAR_HATCHES, strict=False):
            drawn: Any = {"color": color, "hatch": hatch, "edgecolor": "white", "label": part}
            axis.barh(range(len(rows)), rows[part], left=left[part], **drawn)
        for card in CARDS:
            axis.axvline(card, linestyle="--")
        name_rows(axis, list(rows.index))
        axis.set(xlabel="GiB per GPU, computed", xticks=[0, *CARDS])
        figure.legend(loc="outside lower center", ncols=2)
    return Drawn(figure, rows.rename_axis("run").reset_index())
