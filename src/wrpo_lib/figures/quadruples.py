"""Figure 2 and Table 1: who wins, rewards, lengths, agreement, gaps, how alpha rises."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from wrpo_lib.analysis.statistics import paired_difference, proportion_interval
from wrpo_lib.figures.style import draw_interval, drawing, look
from wrpo_lib.objective import alpha_at
from wrpo_lib.paper import table
from wrpo_lib.quadruples.schema import RESPONSES
from wrpo_lib.records import read_results, read_run

SCHEDULE_LOOKS = {
    "linear": ("-", "#009E73", "linear (the code)"),
    "quadratic": ("--", "#555555", "quadratic (the drawing)"),
    "constant": (":", "#555555", "constant"),
}
LONGER = {
    "y_ws longer than y_wt": ("source_chosen", "target_chosen"),
    "y_wt longer than y_l": ("target_chosen", "rejected"),
}


def alpha_schedules(profile: str = "nano", alpha_max: float = 0.1, n_steps: int = 311) -> Figure:
    """α against the optimiser step for the three schedules (paper: linear, 311 steps, 0.1).

    ``profile`` is not read: the schedules are formulas.
    """
    with drawing(size=(5.2, 3.0)) as (figure, axis):
        for name, (dash, color, label) in SCHEDULE_LOOKS.items():
            values = [alpha_at(name, t, n_steps, alpha_max) for t in range(n_steps)]
            axis.plot(values, dash, color=color, label=label)
        axis.set(xlabel="optimiser step t", ylabel="fusion coefficient α(t)")
        axis.legend()
    return figure


def source_shares(profile: str = "nano") -> Figure:
    """Share of prompts that each source wins: ours beside the paper's Table 1.

    Dots are seeds, or the one run with its Wilson interval where the results have one.
    """
    ours, theirs = read_results(profile, "sources").dropna(), table("table01_sources")
    names = list(ours["source"].unique())
    ratios = {"width_ratios": [1, 1.4]}
    with drawing(1, 2, (8.4, 3.2), gridspec_kw=ratios) as (figure, (left, right)):
        for k, name in enumerate(names):
            own = 100 * ours.loc[ours["source"] == name].filter(like="share")
            left.barh(k, own["share"].mean(), color="#D55E00", alpha=0.45)
            left.scatter(own["share"], [k] * len(own), color="#D55E00", s=14, zorder=3)
            if "share_low" in own:
                left.hlines(k, own["share_low"], own["share_high"], color="#D55E00")
        left.set_yticks(range(len(names)), [n.removeprefix("source-") for n in names])
        what = "a dot a seed" if "seed" in ours else f"n = {ours['n'].iloc[0]}"
        left.set_title(f"{profile} ({what})")
        right.barh(theirs["source"], theirs["share_best_percent"], color="#777777", alpha=0.6)
        right.set_title("paper, Table 1")
        for axis in (left, right):
            axis.set_xlabel("% of prompts won")
            axis.invert_yaxis()
            axis.grid(axis="y", visible=False)
    return figure


def rewards(profile: str = "nano") -> Figure:
    """Rewards of responses by model, all seeds together."""
    rows = read_results(profile, "rewards")
    order = list(rows["model"].unique())
    colors = {name: look(name).color for name in order}
    shape = {"cut": 0, "inner": "quart", "fill": False, "linewidth": 1.3, "legend": False}
    series = {"x": "reward", "y": "model", "hue": "model", "order": order, "hue_order": order}
    with drawing(size=(7.2, max(3.2, 0.45 * len(order)))) as (figure, axis):
        sns.violinplot(rows, **series, **shape, palette=colors, ax=axis)
        axis.set_yticks(range(len(order)), [look(n).name for n in order])
        axis.set(xlabel="reward of a response", ylabel="")
    return figure


def lengths(profile: str = "nano") -> Figure:
    """Sizes of y_ws, y_wt and y_l, and mean paired differences with 95 % intervals."""
    sizes, unit = _sizes(profile)
    ratios = {"width_ratios": [1.5, 1]}
    parts = ("boxprops", "whiskerprops", "capprops", "medianprops")
    with drawing(1, 2, (8.4, 3.0), gridspec_kw=ratios) as (figure, (left, right)):
        for k, name in enumerate(RESPONSES):
            color = look(name).color
            lines = {part: {"color": color, "linewidth": 1.4} for part in parts}
            lines["flierprops"] = {"markersize": 3, "markeredgecolor": color}
            place = {"positions": [k], "widths": 0.6, "orientation": "horizontal"}
            left.boxplot(sizes[name], **place, **lines)
        left.set_yticks(range(len(RESPONSES)), [look(name).name for name in RESPONSES])
        left.set(xlabel=f"{unit} (n = {len(sizes)})", ylim=(2.5, -0.5))
        for k, (a, b) in enumerate(LONGER.values()):
            draw_interval(right, k, paired_difference(sizes[a], sizes[b]), look(a))
        right.axvline(0, color="#555555", linewidth=0.8)
        right.set_yticks(range(2), ["y_ws − y_wt", "y_wt − y_l"])
        right.set(xlabel=f"difference in {unit}", ylim=(1.5, -0.5))
    return figure


def _sizes(profile: str) -> tuple[pd.DataFrame, str]:
    """Sizes of y_ws, y_wt and y_l, one row per tracked quadruple, and their unit."""
    rows = read_results(profile, "quadruples")
    if "rejected_n_tokens" in rows:  # tracked as numbers, without the texts
        columns = [f"{role}_n_tokens" for role in RESPONSES]
        return rows[columns].set_axis(RESPONSES, axis=1), "tokens"
    return rows[[*RESPONSES]].apply(lambda column: column.str.len()), "characters"


def longer_share(profile: str = "nano") -> pd.DataFrame:
    """How often y_ws is longer than y_wt, and y_wt than y_l, with Wilson intervals.

    Where the results say which responses the token limit cut, also among those it did not.
    """
    sizes, _ = _sizes(profile)
    quadruples = read_results(profile, "quadruples")
    asked = [(question, pair, sizes) for question, pair in LONGER.items()]
    if "rejected_truncated" in quadruples:
        for question, pair in LONGER.items():
            cut = quadruples[[f"{name}_truncated" for name in pair]].any(axis=1)
            asked.append((f"{question}, neither cut", pair, sizes[~cut]))
    rows = []
    for question, (a, b), part in asked:
        found = proportion_interval(int((part[a] > part[b]).sum()), len(part))
        rows.append((question, found.value, found.low, found.high, found.n))
    return pd.DataFrame(rows, columns=["question", "share", "low", "high", "n"])


def agreement(profile: str = "nano") -> pd.DataFrame:
    """How two models' greedy answers to the same prompts overlap, in % of prompts, all seeds.

    ``same text``: word for word; ``both right``, ``one right``, ``neither`` by exact correctness.
    """
    seeds = read_run(profile)["seeds"]
    answers = pd.concat([read_results(profile, f"answers_seed{s}").assign(seed=s) for s in seeds])
    answers = answers.query("decoding == 'greedy' and turn == 1")
    wide = answers.pivot(index=["seed", "prompt_id"], columns="model", values=["text", "exact"])
    models = [m for m in answers["model"].unique() if m.startswith("source-")]
    rows = []
    for a, b in combinations([*models, "target_sft"], 2):
        right = wide["exact"][a].astype(int) + wide["exact"][b].astype(int)
        row = {"pair": f"{look(a).name} and {look(b).name}"}
        row["same text"] = 100 * (wide["text"][a] == wide["text"][b]).mean()
        for n, name in ((2, "both right"), (1, "one right"), (0, "neither")):
            row[name] = 100 * (right == n).mean()
        rows.append({**row, "n": len(wide)})
    return pd.DataFrame(rows)


def kept_by_gap(profile: str = "nano") -> Figure:
    """Share of the tracked quadruples that a minimum reward gap would keep, for both pairs."""
    rows = read_results(profile, "quadruples")
    found = {n: (rows[f"{n}_reward"] - rows["rejected_reward"]).to_numpy() for n in RESPONSES[:2]}
    gaps = np.linspace(0, np.quantile(np.concatenate([*found.values()]), 0.99), 61)
    with drawing() as (figure, axis):
        for name, gap in found.items():
            share = 100 * (gap[:, None] >= gaps).mean(axis=0)
            label = f"{look(name).name} over y_l"
            axis.plot(gaps, share, look(name).dash, color=look(name).color, label=label)
        axis.set(xlabel="minimum difference in reward", ylabel="% of quadruples kept")
        axis.set_ylim(0, 103)
        axis.legend()
    return figure
