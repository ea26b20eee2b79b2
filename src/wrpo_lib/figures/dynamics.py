"""Figure 3: internal reward dynamics of DPO-on, DPO-hybrid and WRPO on Target-SFT."""

from __future__ import annotations

from typing import TYPE_CHECKING

from wrpo_lib.figures.style import look, style
from wrpo_lib.records import read_results

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PANELS = {
    "dpo_on": "(a) DPO-on",
    "dpo_hybrid": "(b) DPO-hybrid",
    "wrpo_alpha05": "(c) WRPO, α 0 → 0.5",
}


def figure3(profile: str = "nano") -> Figure:
    """Rewards of y_ws, y_wt and y_l, and the margin of the trained objective, step by step.

    Lines are means over seeds, smoothed over five steps; bands span the seeds.
    """
    import matplotlib.pyplot as plt

    rows = read_results(profile, "dynamics")
    with style():
        figure, axes = plt.subplots(1, 3, figsize=(9.6, 3.4), sharey=True)
        for axis, (method, title) in zip(axes, PANELS.items(), strict=True):
            draw_dynamics(axis, rows[rows["method"] == method])
            axis.set_title(title, loc="left")
        axes[0].set_ylabel("internal reward β·log(πθ/πref)")
        figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    return figure


def draw_dynamics(axis: Axes, rows: pd.DataFrame) -> None:
    """The rewards of one method (rows of one or more seeds) against the optimiser step."""
    for name in ("source_chosen", "target_chosen", "rejected", "margins"):
        how = look(name)
        series = rows.pivot(index="step", columns="seed", values=f"rewards/{name}")
        smooth = series.rolling(5, min_periods=1, center=True).mean()
        (line,) = axis.plot(smooth.mean(axis=1), how.dash, color=how.color, linewidth=1.8)
        line.set_label(how.name)
        low, high = smooth.min(axis=1), smooth.max(axis=1)
        axis.fill_between(smooth.index, low, high, color=how.color, alpha=0.15, linewidth=0)
    axis.axhline(0, color="#888888", linewidth=0.8)
    axis.set_xlabel("optimiser step")
