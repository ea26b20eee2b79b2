"""Figures of training: Figures 1 and 3, the schedules, the methods, the mask of a packed row.

The paper's axis of Figure 1 is unknown; ours is nats per response.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from wrpo_lib.analysis.report import difference, level, sampled_scores
from wrpo_lib.figures.style import GREY, draw_interval, drawing, look, name_rows
from wrpo_lib.nano.reward import MAX_QUALITY
from wrpo_lib.objective import alpha_at
from wrpo_lib.packing import Branches
from wrpo_lib.quadruples.schema import RESPONSES
from wrpo_lib.records import read_results

DEVIATION = {
    "target": "(a) before preference training",
    "dpo_off": "(b) after DPO-off",
    "dpo_on_target": "(c) after DPO-on",
}
DYNAMICS = {
    "dpo_on": "(a) DPO-on",
    "dpo_hybrid": "(b) DPO-hybrid",
    "wrpo_alpha05": "(c) WRPO, α 0 → 0.5",
}
SCHEDULES = {
    "linear": ("-", "#009E73", "linear (the code)"),
    "quadratic": ("--", "#555555", "quadratic (the drawing)"),
    "constant": (":", "#555555", "constant"),
}
DECODINGS = {
    "sampled": ("o", "mean of samples", "full"),
    "greedy": ("s", "greedy", "none"),
    "best_of_5": ("D", "best of five", "none"),
}
COMPARED = ["target_sft", "dpo_on", "dpo_hybrid", "wrpo", "wrpo_alpha05"]
"""The methods that start from Target-SFT, and Target-SFT itself."""

PARTS = ("prompt x", "y_ws", "y_wt", "y_l")
COLORS = ("#999999", *(look(name).color for name in RESPONSES))
HATCHES = ("", "///", "...", "xxx")
PROMPT, LENGTHS = 5, (5, 4, 3)
"""Tokens of the example whose mask is drawn, its longest response first."""


def figure1(profile: str = "nano") -> Figure:
    """Log-probability of source and own responses before and after training, and the quality."""
    rows, scores = read_results(profile, "deviation"), sampled_scores(profile)
    low = rows["logp"].quantile(0.005)
    with drawing(2, 2, (7.2, 5.4)) as (figure, axes):
        *histograms, last = axes.flat
        for k, (policy, title) in enumerate(DEVIATION.items()):
            _draw_distributions(histograms[k], rows[rows["policy"] == policy], low)
            histograms[k].set_title(title)
            draw_interval(last, k, level(scores, policy), look(policy), markersize=8)
            quality = scores.loc[scores["model"] == policy, "quality"]
            last.scatter(quality, [k + 0.15] * len(quality), color=look(policy).color, s=12)
        figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside upper left", ncols=2)
        name_rows(last, ["Target", "DPO-off", "DPO-on"])
        last.set(xlabel="true quality (0 to 1.4)", title="(d) quality of their samples")
    return figure


def _draw_distributions(axis: Axes, rows: pd.DataFrame, low: float) -> None:
    """Histograms of log πθ(y|x) for source and own responses, all seeds together."""
    shape = {"bins": 40, "binrange": (low, 0), "stat": "probability", "element": "step"}
    for kind in ("own", "source"):
        how, values = look(kind), rows.loc[rows["kind"] == kind, "logp"]
        drawn = {"color": how.color, "alpha": 0.25, "label": how.name}
        sns.histplot(x=values.clip(lower=low), **shape, **drawn, ax=axis)
        axis.axvline(values.mean(), color=how.color, linestyle=how.dash, linewidth=1.5)
    axis.set(xlabel="log πθ(y|x), nats per response", ylabel="share of responses")


def figure3(profile: str = "nano") -> Figure:
    """Rewards of y_ws, y_wt and y_l, and the margin of the trained objective, step by step.

    Lines are means over seeds, smoothed over five steps; bands span the seeds.
    """
    rows = read_results(profile, "dynamics")
    with drawing(1, 3, (9.6, 3.4), sharey=True) as (figure, axes):
        for axis, (method, title) in zip(axes, DYNAMICS.items(), strict=True):
            draw_dynamics(axis, rows[rows["method"] == method])
            axis.set_title(title)
        axes[0].set_ylabel("internal reward β·log(πθ/πref)")
        figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    return figure


def draw_dynamics(axis: Axes, rows: pd.DataFrame) -> None:
    """The rewards of one method (rows of one or more seeds) against the optimiser step."""
    for name in (*RESPONSES, "margins"):
        how = look(name)
        series = rows.pivot(index="step", columns="seed", values=f"rewards/{name}")
        smooth = series.rolling(5, min_periods=1, center=True).mean()
        axis.plot(smooth.mean(axis=1), how.dash, color=how.color, label=how.name, linewidth=1.8)
        low, high = smooth.min(axis=1), smooth.max(axis=1)
        axis.fill_between(smooth.index, low, high, color=how.color, alpha=0.15, linewidth=0)
    axis.axhline(0, color=GREY, linewidth=0.8)
    axis.set_xlabel("optimiser step")


def alpha_schedules(profile: str = "nano") -> Figure:
    """α against the optimiser step as in the paper, 311 steps to 0.1 (``profile`` is not read)."""
    with drawing(size=(5.2, 3.0)) as (figure, axis):
        for name, (dash, color, label) in SCHEDULES.items():
            values = [alpha_at(name, t, 311, 0.1) for t in range(311)]
            axis.plot(values, dash, color=color, label=label)
        axis.set(xlabel="optimiser step t", ylabel="fusion coefficient α(t)")
        axis.legend()
    return figure


def headroom(profile: str = "nano") -> Figure:
    """Quality of target, sources and Target-SFT: sampled, greedy, best of five, ceiling."""
    scores = read_results(profile, "scores")
    sources = [m for m in scores["model"].unique() if m.startswith("source-")]
    names = ["target", "target_sft", *sources]
    with drawing(size=(7.2, 2.9)) as (figure, axis):
        for decoding, (marker, label, fill) in DECODINGS.items():
            quality = scores[scores["decoding"] == decoding].set_index("model")["quality"]
            for k, name in enumerate(names):
                values = quality.loc[[name]]
                drawn = {"color": look(name).color, "fillstyle": fill, "alpha": 0.7}
                axis.plot(values, [k] * len(values), marker, label=label if k == 0 else "", **drawn)
        axis.axvline(MAX_QUALITY, color=GREY, linestyle="--")
        place = {"textcoords": "offset points", "rotation": 90, "ha": "right", "va": "center"}
        axis.annotate("ceiling", (MAX_QUALITY, 0), xytext=(-4, 0), color="#555555", **place)
        name_rows(axis, [look(name).name for name in names])
        axis.set_xlabel("true quality on held-out prompts, a mark a seed")
        axis.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=3)
    return figure


def comparison(profile: str = "nano") -> Figure:
    """Every method started from Target-SFT: quality, and its difference to DPO-on."""
    rows = sampled_scores(profile)
    with drawing(1, 2, (8.6, 3.0), sharey=True) as (figure, (left, right)):
        for k, name in enumerate(COMPARED):
            draw_interval(left, k, level(rows, name), look(name), markersize=7)
            values = rows.loc[rows["model"] == name, "quality"]
            left.scatter(values, [k + 0.2] * len(values), s=12, color=look(name).color)
            if name != "dpo_on":
                found = difference(rows, name, "dpo_on")
                draw_interval(right, k, found, look(name), markersize=7)
        name_rows(left, [look(name).name for name in COMPARED])
        left.set_xlabel("true quality of samples")
        right.axvline(0, color=GREY)
        right.set_xlabel("difference to DPO-on, paired in the seed")
    return figure


def mask(profile: str = "nano") -> Figure:
    """What each token of a packed row sees, from ``Branches.mask()``; beside it, padded rows.

    ``profile`` is not read: the mask is a formula.
    """
    branches = Branches(((PROMPT, LENGTHS),))
    sees, owners = branches.mask(), branches.owners()[1]
    n, width = len(owners), PROMPT + LENGTHS[0]
    ticks = {"ticks": [k + 0.5 for k in range(n)], "labels": list(map(str, branches.positions()))}
    with drawing(2, 1, (5.6, 7.6), height_ratios=[1.7, 1]) as (figure, (top, bottom)):
        _draw(top, ((j, i, owners[j]) for i in range(n) for j in range(n) if sees[i, j]))
        top.set(xlabel="position of the token seen", ylabel="position of the token that sees")
        top.set_xticks(**ticks)
        top.set_yticks(**ticks)
        for part, name in enumerate(PARTS):
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
