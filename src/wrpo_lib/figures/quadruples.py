"""Figure 2 and Table 1: who wins, what the rewards look like, how alpha rises."""

from __future__ import annotations

from typing import TYPE_CHECKING

from wrpo_lib.figures.style import look, style
from wrpo_lib.records import read_results

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SCHEDULE_LOOKS = {
    "linear": ("-", "linear (the code)"),
    "quadratic": ("--", "quadratic (the drawing)"),
    "constant": (":", "constant"),
}


def alpha_schedules(profile: str = "nano", alpha_max: float = 0.1, n_steps: int = 311) -> Figure:
    """α against the optimiser step for the three schedules (paper: linear, 311 steps, 0.1).

    ``profile`` is not read: the schedules are formulas.
    """
    import matplotlib.pyplot as plt

    from wrpo_lib.objective import alpha_at

    with style():
        figure, axis = plt.subplots(figsize=(5.2, 3.0))
        for name, (dash, label) in SCHEDULE_LOOKS.items():
            values = [alpha_at(name, t, n_steps, alpha_max) for t in range(n_steps)]
            axis.plot(values, dash, color="#009E73" if name == "linear" else "#555555", label=label)
        axis.set(xlabel="optimiser step t", ylabel="fusion coefficient α(t)")
        axis.legend()
    return figure


def source_shares(profile: str = "nano") -> Figure:
    """Share of prompts that each source wins: ours beside the paper's Table 1."""
    import matplotlib.pyplot as plt

    from wrpo_lib.paper import table

    ours, theirs = read_results(profile, "sources"), table("table01_sources")
    with style():
        figure, (left, right) = plt.subplots(
            1, 2, figsize=(8.4, 3.2), gridspec_kw={"width_ratios": [1, 1.4]}
        )
        names = list(dict.fromkeys(ours["source"]))
        for k, name in enumerate(names):
            shares = 100 * ours.loc[ours["source"] == name, "share"]
            left.barh(k, shares.mean(), color="#D55E00", alpha=0.45)
            left.scatter(shares, [k] * len(shares), color="#D55E00", s=14, zorder=3)
        left.set_yticks(range(len(names)), [n.removeprefix("source-") for n in names])
        left.set(xlabel="% of prompts won", title="nano (a dot a seed)")
        right.barh(theirs["source"], theirs["share_best_percent"], color="#777777", alpha=0.6)
        right.set(xlabel="% of prompts won", title="paper, Table 1")
        for axis in (left, right):
            axis.invert_yaxis()
            axis.grid(axis="y", visible=False)
    return figure


def rewards(profile: str = "nano") -> Figure:
    """Rewards of sampled responses by model, all seeds together."""
    import matplotlib.pyplot as plt
    import seaborn as sns

    rows = read_results(profile, "rewards")
    order = list(dict.fromkeys(rows["model"]))
    with style():
        figure, axis = plt.subplots(figsize=(7.2, 3.2))
        sns.violinplot(rows, x="reward", y="model", order=order, hue="model", hue_order=order,
                       palette=[look(n).color for n in order], cut=0, inner="quart", fill=False,
                       linewidth=1.3, legend=False, ax=axis)  # fmt: skip
        axis.set_yticks(range(len(order)), [look(n).name for n in order])
        axis.set(xlabel="reward of a sampled response", ylabel="")
    return figure
