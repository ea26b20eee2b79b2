"""Pictures of the method page: what α does to one quadruple, and the memory a run takes."""

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from wrpo_lib.figures.style import Drawn, draw_curve, drawing, look, name_rows
from wrpo_lib.quadruples.schema import RESPONSES
from wrpo_lib.recipes import load_recipe

BETA, LOG_RATIOS = 0.01, (-120.0, 50.0, -30.0)
"""The worked example of the method page: β, and log πθ/πref of y_ws, y_wt and y_l in nats."""
SYMBOLS = ("$y_{w_s}$", "$y_{w_t}$", "$y_{l}$")

RUNS = {
    "135M, all weights": ("smol", "wrpo", 1),
    "8B, LoRA on 4 bits": ("workstation", "wrpo_4bit", 1),
    "1B, all weights": ("workstation", "wrpo_full", 1),
    "8B, LoRA": ("workstation", "wrpo", 1),
    "8B, all weights,\neach of 8 GPUs": ("paper", "wrpo", 8),
}
CARDS = (24, 48, 80)  # GiB
COLORS = ("#0072B2", "#56B4E9", "#009E73", "#999999", "#E69F00", "#CC79A7", "#dddddd")
HATCHES = ("", "///", "...", "", "\\\\\\", "xxx", "")


def alpha_table(
    log_ratios: Sequence[float] = LOG_RATIOS, beta: float = BETA, points: int = 101
) -> pd.DataFrame:
    """Margin u, loss and gradient weights of one quadruple for α from 0 to 1.

    ``source``, ``target`` and ``rejected`` are |∂loss/∂log πθ(y|x)| of y_ws, y_wt and y_l, computed
    by autograd from :func:`~wrpo_lib.objective.wrpo_loss`, in units of 1/nat.
    """
    import torch

    from wrpo_lib.objective import wrpo_loss

    rows, zero = [], torch.zeros(1, dtype=torch.float64)
    reference = [zero, zero, zero]
    for alpha in np.linspace(0, 1, points).tolist():
        policy = [zero.new_tensor([ratio]).requires_grad_() for ratio in log_ratios]
        losses, rewards = wrpo_loss(*policy, *reference, alpha=alpha, beta=beta)
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
        for column, name, label in zip(rows.columns[3:], RESPONSES, SYMBOLS, strict=True):
            draw_curve(gradient, rows["alpha"], rows[column], look(name), label=label)
        margin.set_ylabel("margin u")
        loss.set_ylabel("loss")
        gradient.set(ylabel="gradient weight", xlabel="fusion coefficient α")
        figure.legend(loc="outside lower center", ncols=3)
    return Drawn(figure, rows)


def alpha_slider() -> str:
    """The place and the numbers of the α slider; without the script that draws it, empty."""
    return widget("alpha", {"beta": BETA, "log_ratios": LOG_RATIOS})


def widget(name: str, data: dict[str, Any]) -> str:
    """The place of a widget with its data as JSON, which no text in it can end."""
    text = json.dumps(data).replace("<", "\\u003c")
    return f'<div data-widget="{name}"><script type="application/json">{text}</script></div>'


def memory_by_card() -> Drawn:
    """GiB per GPU of recipes on their longest legal batch, as the planner computes it, by card."""
    from wrpo_lib.planner import plan_recipe

    plans = {n: plan_recipe(load_recipe(p, r), gpus) for n, (p, r, gpus) in RUNS.items()}
    rows = pd.DataFrame({name: p.memory(p.worst, sharing=True) for name, p in plans.items()}).T
    rows = rows.loc[:, rows.any()] / 2**30
    left = rows.cumsum(axis=1) - rows
    with drawing(height=4.0) as (figure, axis):
        for part, color, hatch in zip(rows, COLORS, HATCHES, strict=False):
            drawn: Any = {"color": color, "hatch": hatch, "edgecolor": "white", "label": part}
            axis.barh(range(len(rows)), rows[part], left=left[part], **drawn)
        for card in CARDS:
            axis.axvline(card, linestyle="--")
        name_rows(axis, list(rows.index))
        axis.set(xlabel="GiB per GPU, computed", xticks=[0, *CARDS])
        figure.legend(loc="outside lower center", ncols=2)
    return Drawn(figure, rows.rename_axis("run").reset_index())
