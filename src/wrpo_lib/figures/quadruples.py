"""Figure 2 and Table 1: who wins, rewards, lengths, agreement, gaps, how alpha rises."""

from __future__ import annotations

from typing import TYPE_CHECKING

from wrpo_lib.figures.style import look, style
from wrpo_lib.records import read_results

if TYPE_CHECKING:
    import pandas as pd
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
    """Share of prompts that each source wins: ours beside the paper's Table 1.

    Dots are seeds, or the one run with its Wilson interval where the results have one.
    """
    import matplotlib.pyplot as plt

    from wrpo_lib.paper import table

    ours, theirs = read_results(profile, "sources").dropna(), table("table01_sources")
    with style():
        figure, (left, right) = plt.subplots(
            1, 2, figsize=(8.4, 3.2), gridspec_kw={"width_ratios": [1, 1.4]}
        )
        names = list(dict.fromkeys(ours["source"]))
        for k, name in enumerate(names):
            own = 100 * ours.loc[ours["source"] == name].filter(like="share")
            shares = own["share"]
            left.barh(k, shares.mean(), color="#D55E00", alpha=0.45)
            left.scatter(shares, [k] * len(shares), color="#D55E00", s=14, zorder=3)
            if "share_low" in own:
                left.hlines(k, own["share_low"], own["share_high"], color="#D55E00")
        left.set_yticks(range(len(names)), [n.removeprefix("source-") for n in names])
        what = "a dot a seed" if "seed" in ours else f"n = {ours['n'].iloc[0]}"
        left.set(xlabel="% of prompts won", title=f"{profile} ({what})")
        right.barh(theirs["source"], theirs["share_best_percent"], color="#777777", alpha=0.6)
        right.set(xlabel="% of prompts won", title="paper, Table 1")
        for axis in (left, right):
            axis.invert_yaxis()
            axis.grid(axis="y", visible=False)
    return figure


def rewards(profile: str = "nano") -> Figure:
    """Rewards of responses by model, all seeds together."""
    import matplotlib.pyplot as plt
    import seaborn as sns

    rows = read_results(profile, "rewards")
    order = list(dict.fromkeys(rows["model"]))
    with style():
        figure, axis = plt.subplots(figsize=(7.2, max(3.2, 0.45 * len(order))))
        sns.violinplot(rows, x="reward", y="model", order=order, hue="model", hue_order=order,
                       palette=[look(n).color for n in order], cut=0, inner="quart", fill=False,
                       linewidth=1.3, legend=False, ax=axis)  # fmt: skip
        axis.set_yticks(range(len(order)), [look(n).name for n in order])
        axis.set(xlabel="reward of a response", ylabel="")
    return figure


ROLES = ("source_chosen", "target_chosen", "rejected")


def _sizes(profile: str) -> tuple[pd.DataFrame, str]:
    """Sizes of y_ws, y_wt and y_l, a row a tracked quadruple, and their unit."""
    rows = read_results(profile, "quadruples")
    if "rejected_n_tokens" in rows:  # kept as numbers, without the texts
        counted = rows[[f"{role}_n_tokens" for role in ROLES]]
        return counted.set_axis([*ROLES], axis=1), "tokens"
    return rows[[*ROLES]].apply(lambda column: column.str.len()), "characters"


def lengths(profile: str = "nano") -> Figure:
    """Sizes of y_ws, y_wt and y_l, and mean paired differences with 95 % intervals."""
    import matplotlib.pyplot as plt

    from wrpo_lib.analysis.statistics import paired_difference

    sizes, unit = _sizes(profile)
    with style():
        figure, (left, right) = plt.subplots(
            1, 2, figsize=(8.4, 3.0), gridspec_kw={"width_ratios": [1.5, 1]}
        )
        for k, name in enumerate(ROLES):
            color = look(name).color
            line = {"color": color, "linewidth": 1.4}
            left.boxplot(sizes[name], positions=[k], widths=0.6, orientation="horizontal",
                         boxprops=line, whiskerprops=line, capprops=line, medianprops=line,
                         flierprops={"markersize": 3, "markeredgecolor": color})  # fmt: skip
        left.set_yticks(range(len(ROLES)), [look(name).name for name in ROLES])
        left.set(xlabel=f"{unit} (n = {len(sizes)})", ylim=(2.5, -0.5))
        pairs = (("source_chosen", "target_chosen"), ("target_chosen", "rejected"))
        for k, (a, b) in enumerate(pairs):
            found = paired_difference(sizes[a].to_numpy(), sizes[b].to_numpy())
            error = [[found.value - found.low], [found.high - found.value]]
            right.errorbar(found.value, k, xerr=error, fmt=look(a).marker, color=look(a).color,
                           capsize=3)  # fmt: skip
        right.axvline(0, color="#555555", linewidth=0.8)
        right.set_yticks(range(2), ["y_ws − y_wt", "y_wt − y_l"])
        right.set(xlabel=f"difference in {unit}", ylim=(1.5, -0.5))
    return figure


def longer_share(profile: str = "nano") -> pd.DataFrame:
    """How often y_ws is longer than y_wt, and y_wt than y_l, with Wilson intervals.

    Where the results say which responses the token limit cut, also among those it did not.
    """
    import pandas as pd

    from wrpo_lib.analysis.statistics import proportion_interval

    sizes, _ = _sizes(profile)
    quadruples = read_results(profile, "quadruples")
    questions = [("y_ws longer than y_wt", "source_chosen", "target_chosen", sizes),
                 ("y_wt longer than y_l", "target_chosen", "rejected", sizes)]  # fmt: skip
    if "rejected_truncated" in quadruples:
        for question, a, b, _ in questions[:2]:
            cut = quadruples[[f"{name}_truncated" for name in (a, b)]].any(axis=1)
            questions.append((f"{question}, neither cut", a, b, sizes[~cut]))
    rows = []
    for question, a, b, kept in questions:
        found = proportion_interval(int((kept[a] > kept[b]).sum()), len(kept))
        rows.append({"question": question, "share": found.value, "low": found.low,
                     "high": found.high, "n": found.n})  # fmt: skip
    return pd.DataFrame(rows)


def agreement(profile: str = "nano") -> pd.DataFrame:
    """How two models' greedy answers to the same prompts overlap, in % of prompts, all seeds.

    ``same text``: word for word; ``both right``, ``one right``, ``neither`` by exact correctness.
    """
    from itertools import combinations

    import pandas as pd

    from wrpo_lib.records import read_run

    tables = [read_results(profile, f"answers_seed{s}").assign(seed=s)
              for s in read_run(profile)["seeds"]]  # fmt: skip
    answers = pd.concat(tables).query("decoding == 'greedy' and turn == 1")
    wide = answers.pivot(index=["seed", "prompt_id"], columns="model", values=["text", "exact"])
    models = [m for m in dict.fromkeys(answers["model"]) if m.startswith("source-")]
    rows = []
    for a, b in combinations([*models, "target_sft"], 2):
        right = wide["exact"][a].astype(int) + wide["exact"][b].astype(int)
        rows.append(
            {
                "pair": f"{look(a).name} and {look(b).name}",
                "same text": 100 * (wide["text"][a] == wide["text"][b]).mean(),
                "both right": 100 * (right == 2).mean(),
                "one right": 100 * (right == 1).mean(),
                "neither": 100 * (right == 0).mean(),
                "n": len(wide),
            }
        )
    return pd.DataFrame(rows)


def shared_trigrams(profile: str = "smol") -> pd.DataFrame:
    """Mean share of word 3-grams that two models' first responses have in common, in %.

    A square table, models by models.
    """
    import pandas as pd

    rows = read_results(profile, "overlap")
    both = rows.rename(columns={"first": "second", "second": "first"})
    wide = pd.concat([rows, both]).pivot(index="first", columns="second", values="shared")
    short = [name.removeprefix("source-") for name in wide.index]
    return wide.set_axis(short, axis=0).set_axis(short, axis=1).rename_axis(None, axis=1)


def kept_by_gap(profile: str = "nano") -> Figure:
    """Share of the tracked quadruples that a minimum reward gap would keep, for both pairs."""
    import matplotlib.pyplot as plt
    import numpy as np

    rows = read_results(profile, "quadruples")
    found = {n: (rows[f"{n}_reward"] - rows["rejected_reward"]).to_numpy() for n in ROLES[:2]}
    gaps = np.linspace(0, np.quantile(np.concatenate([*found.values()]), 0.99), 61)
    with style():
        figure, axis = plt.subplots(figsize=(5.6, 3.0))
        for name, gap in found.items():
            share = 100 * (gap[:, None] >= gaps).mean(axis=0)
            label = f"{look(name).name} over y_l"
            axis.plot(gaps, share, look(name).dash, color=look(name).color, label=label)
        axis.set(xlabel="minimum difference in reward", ylabel="% of quadruples kept",
                 ylim=(0, 103))  # fmt: skip
        axis.legend()
    return figure
