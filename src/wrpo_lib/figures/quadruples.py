"""Figures and tables of quadruples: who wins (Table 1), rewards, lengths, agreement, gaps."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pandas as pd
import seaborn as sns

from wrpo_lib.analysis.outcomes import Results
from wrpo_lib.analysis.statistics import mean_interval, proportion_interval
from wrpo_lib.figures.style import Drawn, draw_interval, drawing, look, name_rows
from wrpo_lib.paper import table
from wrpo_lib.quadruples.schema import RESPONSES
from wrpo_lib.records import read_results

LONGER = {
    "y_ws longer than y_wt": ("source_chosen", "target_chosen"),
    "y_wt longer than y_l": ("target_chosen", "rejected"),
}


def source_shares(profile: str = "nano") -> Drawn:
    """Share of prompts that each source wins: ours beside the paper's Table 1.

    Dots are seeds, or the one run with its Wilson interval where the results have one.
    """
    ours, theirs = read_results(profile, "sources").dropna(), table("table01_sources")
    names = list(ours["source"].unique())
    with drawing(2, 6.4, height_ratios=[1, 1.4]) as (figure, (left, right)):
        for k, name in enumerate(names):
            own = 100 * ours.loc[ours["source"] == name].filter(like="share")
            left.barh(k, own["share"].mean(), color="#D55E00", alpha=0.45)
            left.scatter(own["share"], [k] * len(own), color="#D55E00", s=14, zorder=3)
            if "share_low" in own:
                left.hlines(k, own["share_low"], own["share_high"], color="#D55E00")
        name_rows(left, [look(name).name for name in names])
        what = "one dot per seed" if "seed" in ours else f"n = {ours['n'].iloc[0]}"
        left.set_title(f"{profile} ({what})")
        share = theirs["share_best_percent"]
        right.barh(range(len(theirs)), share, color="#777777", alpha=0.6)
        name_rows(right, theirs["source"])
        right.set_title("paper, Table 1")
        left.set_xlabel("% of prompts won")
        right.set_xlabel("% of prompts won")
    return Drawn(figure, ours)


def rewards(profile: str = "smol") -> Drawn:
    """Rewards of responses by model, all seeds together."""
    rows = read_results(profile, "rewards")
    order = list(rows["model"].unique())
    colors = {name: look(name).color for name in order}
    shape = {"cut": 0, "inner": "quart", "fill": False, "linewidth": 1.3, "legend": False}
    series = {"x": "reward", "y": "model", "hue": "model", "order": order, "hue_order": order}
    with drawing(height=max(3.2, 0.45 * len(order))) as (figure, axis):
        sns.violinplot(rows, **series, **shape, palette=colors, ax=axis)
        name_rows(axis, [look(name).name for name in order])
        axis.set(xlabel="reward of a response", ylabel="")
    return Drawn(figure, rows)


def lengths(profile: str = "smol") -> Drawn:
    """Sizes of y_ws, y_wt and y_l, and mean paired differences with 95 % intervals."""
    sizes = _sizes(profile)
    with drawing(2, 4.4, height_ratios=[1.5, 1]) as (figure, (left, right)):
        place = {"positions": range(3), "widths": 0.6, "orientation": "horizontal"}
        left.boxplot([sizes[name] for name in RESPONSES], **place, flierprops={"markersize": 3})
        name_rows(left, [look(name).name for name in RESPONSES])
        left.set_xlabel(f"tokens (n = {len(sizes)})")
        for k, (a, b) in enumerate(LONGER.values()):
            draw_interval(right, k, mean_interval(sizes[a] - sizes[b]), look(a))
        right.axvline(0, color="#555555", linewidth=0.8)
        name_rows(right, ["y_ws − y_wt", "y_wt − y_l"])
        right.set_xlabel("difference in tokens")
    return Drawn(figure, sizes)


def _sizes(profile: str) -> pd.DataFrame:
    """Tokens of y_ws, y_wt and y_l, one row per tracked quadruple."""
    rows = read_results(profile, "quadruples")
    return rows[[f"{role}_n_tokens" for role in RESPONSES]].set_axis(RESPONSES, axis=1)


def longer_share(profile: str = "smol") -> pd.DataFrame:
    """How often y_ws is longer than y_wt, and y_wt than y_l, with Wilson intervals.

    The same among those that the token limit did not cut.
    """
    sizes = _sizes(profile)
    quadruples = read_results(profile, "quadruples")
    longer = {question: sizes[a] > sizes[b] for question, (a, b) in LONGER.items()}
    for question, pair in LONGER.items():
        cut = quadruples[[f"{name}_truncated" for name in pair]].any(axis=1)
        longer[f"{question}, neither cut"] = longer[question][~cut]
    rows = []
    for question, found in longer.items():
        share = proportion_interval(int(found.sum()), len(found))
        rows.append((question, share.value, share.low, share.high, share.n))
    return pd.DataFrame(rows, columns=["question", "share", "low", "high", "n"])


def agreement(profile: str = "nano") -> pd.DataFrame:
    """In how many % of prompts both, one or neither of two models' greedy answers are right."""
    right = Results(profile).wide("greedy")
    sources = sorted(arm for arm in right if arm.startswith("source_"))
    rows = []
    for a, b in combinations([*sources, "target_sft"], 2):
        row = {"pair": f"{look(a).name} and {look(b).name}"}
        for n, name in ((2, "both right"), (1, "one right"), (0, "neither")):
            row[name] = 100 * (right[a] + right[b] == n).mean()
        rows.append({**row, "n": len(right)})
    return pd.DataFrame(rows)


def kept_by_gap(profile: str = "smol") -> Drawn:
    """Share of the tracked quadruples that a minimum reward gap would keep, for both pairs."""
    rows = read_results(profile, "quadruples")
    found = {n: (rows[f"{n}_reward"] - rows["rejected_reward"]).to_numpy() for n in RESPONSES[:2]}
    gaps = np.linspace(0, np.quantile(np.concatenate([*found.values()]), 0.99), 61)
    with drawing() as (figure, axis):
        for name, gap in found.items():
            share = 100 * (gap[:, None] >= gaps).mean(axis=0)
            how = look(name)
            axis.plot(gaps, share, how.dash, color=how.color, label=f"{how.name} over y_l")
        axis.set(xlabel="minimum difference in reward", ylim=(0, 103))
        axis.set_ylabel("% of quadruples kept")
        axis.legend()
    return Drawn(figure, rows)
