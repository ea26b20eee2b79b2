"""Figure 1: the distribution deviation, and what off-policy pairs do."""

from __future__ import annotations

from typing import TYPE_CHECKING

from wrpo_lib.analysis.comparison import level
from wrpo_lib.figures.style import look, style
from wrpo_lib.records import read_results

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PANELS = {
    "target": "(a) before preference training",
    "dpo_off": "(b) after DPO-off",
    "dpo_on_target": "(c) after DPO-on",
}


def figure1(profile: str = "nano") -> Figure:
    """Log-probability of source and own responses before and after training, and the quality.

    The paper's axis is unknown; ours is nats per response.
    """
    import matplotlib.pyplot as plt

    rows, scores = read_results(profile, "deviation"), read_results(profile, "scores")
    with style():
        figure, axes = plt.subplots(2, 2, figsize=(7.2, 5.4))
        low = rows["logp"].quantile(0.005)
        for axis, (policy, title) in zip(axes.flat, PANELS.items(), strict=False):
            _draw_distributions(axis, rows[rows["policy"] == policy], low)
            axis.set_title(title, loc="left")
        figure.legend(*axes.flat[0].get_legend_handles_labels(), loc="outside upper left", ncols=2)
        _draw_levels(axes.flat[3], scores[scores["decoding"] == "sampled"])
        axes.flat[3].set_title("(d) quality of their samples", loc="left")
    return figure


def _draw_distributions(axis: Axes, rows: pd.DataFrame, low: float) -> None:
    """Histograms of log πθ(y|x) for source and own responses, all seeds together."""
    import seaborn as sns

    shape = {"bins": 40, "binrange": (low, 0), "stat": "probability", "element": "step"}
    for kind in ("own", "source"):
        how, values = look(kind), rows.loc[rows["kind"] == kind, "logp"]
        drawn = {"color": how.color, "alpha": 0.25, "label": how.name}
        sns.histplot(x=values.clip(lower=low), **shape, **drawn, ax=axis)
        axis.axvline(values.mean(), color=how.color, linestyle=how.dash, linewidth=1.5)
    axis.set(xlabel="log πθ(y|x), nats a response", ylabel="share of responses")


def _draw_levels(axis: Axes, scores: pd.DataFrame) -> None:
    """Mean quality with a 95 % interval over seeds, and each seed as a dot."""
    for k, name in enumerate(PANELS):
        how, found = look(name), level(scores, name)
        seeds = scores.loc[scores["model"] == name, "quality"]
        error = [[found.value - found.low], [found.high - found.value]]
        (mark, *_) = axis.errorbar(k, found.value, error, color=how.color, capsize=4)
        mark.set(marker=how.marker, markersize=8)
        axis.scatter([k + 0.15] * len(seeds), seeds, color=how.color, s=12)
    axis.set_xticks(range(len(PANELS)), ["Target", "DPO-off", "DPO-on"])
    axis.set_xlim(-0.5, len(PANELS) - 0.5)
    axis.set_ylabel("true quality (0 to 1.4)")
