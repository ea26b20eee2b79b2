"""Figure 1, the distribution deviation before and after training, and Figure 3, rewards during it.

The paper's axis of Figure 1 is unknown; ours is nats per response.
"""

from __future__ import annotations

import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from wrpo_lib.analysis.report import level, sampled_scores
from wrpo_lib.figures.style import drawing, look
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


def figure1(profile: str = "nano") -> Figure:
    """Log-probability of source and own responses before and after training, and the quality."""
    rows = read_results(profile, "deviation")
    low = rows["logp"].quantile(0.005)
    with drawing(2, 2, (7.2, 5.4)) as (figure, axes):
        for axis, (policy, title) in zip(axes.flat, DEVIATION.items(), strict=False):
            _draw_distributions(axis, rows[rows["policy"] == policy], low)
            axis.set_title(title, loc="left")
        figure.legend(*axes.flat[0].get_legend_handles_labels(), loc="outside upper left", ncols=2)
        _draw_levels(axes.flat[3], sampled_scores(profile))
        axes.flat[3].set_title("(d) quality of their samples", loc="left")
    return figure


def _draw_distributions(axis: Axes, rows: pd.DataFrame, low: float) -> None:
    """Histograms of log πθ(y|x) for source and own responses, all seeds together."""
    shape = {"bins": 40, "binrange": (low, 0), "stat": "probability", "element": "step"}
    for kind in ("own", "source"):
        how, values = look(kind), rows.loc[rows["kind"] == kind, "logp"]
        drawn = {"color": how.color, "alpha": 0.25, "label": how.name}
        sns.histplot(x=values.clip(lower=low), **shape, **drawn, ax=axis)
        axis.axvline(values.mean(), color=how.color, linestyle=how.dash, linewidth=1.5)
    axis.set(xlabel="log πθ(y|x), nats a response", ylabel="share of responses")


def _draw_levels(axis: Axes, scores: pd.DataFrame) -> None:
    """Mean quality with a 95 % interval over seeds, and each seed as a dot."""
    for k, name in enumerate(DEVIATION):
        how, found = look(name), level(scores, name)
        seeds = scores.loc[scores["model"] == name, "quality"]
        error = [[found.value - found.low], [found.high - found.value]]
        (mark, *_) = axis.errorbar(k, found.value, error, color=how.color, capsize=4)
        mark.set(marker=how.marker, markersize=8)
        axis.scatter([k + 0.15] * len(seeds), seeds, color=how.color, s=12)
    axis.set_xticks(range(len(DEVIATION)), ["Target", "DPO-off", "DPO-on"])
    axis.set(xlim=(-0.5, len(DEVIATION) - 0.5), ylabel="true quality (0 to 1.4)")


def figure3(profile: str = "nano") -> Figure:
    """Rewards of y_ws, y_wt and y_l, and the margin of the trained objective, step by step.

    Lines are means over seeds, smoothed over five steps; bands span the seeds.
    """
    rows = read_results(profile, "dynamics")
    with drawing(1, 3, (9.6, 3.4), sharey=True) as (figure, axes):
        for axis, (method, title) in zip(axes, DYNAMICS.items(), strict=True):
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
        line = smooth.mean(axis=1)
        axis.plot(line, how.dash, color=how.color, label=how.name, linewidth=1.8)
        low, high = smooth.min(axis=1), smooth.max(axis=1)
        axis.fill_between(smooth.index, low, high, color=how.color, alpha=0.15, linewidth=0)
    axis.axhline(0, color="#888888", linewidth=0.8)
    axis.set_xlabel("optimiser step")
