"""The headroom, the comparison of methods, the three protocols, and Table 2 with intervals."""

from __future__ import annotations

from typing import TYPE_CHECKING

from wrpo_lib.analysis.comparison import difference, level
from wrpo_lib.figures.style import look, style
from wrpo_lib.records import read_results

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from wrpo_lib.analysis.statistics import Estimate

COMPARED = ("target_sft", "dpo_on", "dpo_hybrid", "wrpo", "wrpo_alpha05")


def _bar(axis: Axes, at: float, found: Estimate, name: str) -> None:
    how = look(name)
    axis.errorbar(found.value, at, xerr=[[found.value - found.low], [found.high - found.value]],
                  color=how.color, marker=how.marker, markersize=7, capsize=3)  # fmt: skip


def _name_rows(axis: Axes, names: list[str]) -> None:
    axis.set_yticks(range(len(names)), [look(n).name for n in names])
    axis.set_ylim(len(names) - 0.5, -0.5)
    axis.grid(axis="y", visible=False)


def headroom(profile: str = "nano") -> Figure:
    """Quality of target, sources and Target-SFT: sampled, greedy, best of five, ceiling."""
    import matplotlib.pyplot as plt

    from wrpo_lib.nano.reward import MAX_QUALITY

    scores = read_results(profile, "scores")
    sources = [m for m in dict.fromkeys(scores["model"]) if m.startswith("source-")]
    names = ["target", "target_sft", *sources]
    marks = {"sampled": ("o", "mean of samples"), "greedy": ("s", "greedy"),
             "best_of_5": ("D", "best of five")}  # fmt: skip
    with style():
        figure, axis = plt.subplots(figsize=(7.2, 2.9))
        for decoding, (marker, label) in marks.items():
            rows = scores[scores["decoding"] == decoding]
            for k, name in enumerate(names):
                values = rows.loc[rows["model"] == name, "quality"]
                axis.plot(values, [k] * len(values), marker, color=look(name).color, alpha=0.7,
                          fillstyle="full" if decoding == "sampled" else "none",
                          label=label if k == 0 else None)  # fmt: skip
        axis.axvline(MAX_QUALITY, color="#888888", linestyle="--")
        axis.annotate("ceiling", (MAX_QUALITY, 0), xytext=(-4, 0), textcoords="offset points",
                      rotation=90, ha="right", va="center", color="#555555")  # fmt: skip
        _name_rows(axis, names)
        axis.set_xlabel("true quality on held-out prompts, a mark a seed")
        axis.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=3)
    return figure


def comparison(profile: str = "nano") -> Figure:
    """Every method started from Target-SFT: quality, and its difference to DPO-on."""
    import matplotlib.pyplot as plt

    scores = read_results(profile, "scores")
    rows = scores[scores["decoding"] == "sampled"]
    with style():
        figure, (left, right) = plt.subplots(1, 2, figsize=(8.6, 3.0), sharey=True)
        for k, name in enumerate(COMPARED):
            _bar(left, k, level(rows, name), name)
            values = rows.loc[rows["model"] == name, "quality"]
            left.scatter(values, [k + 0.2] * len(values), s=12, color=look(name).color)
            if name != "dpo_on":
                _bar(right, k, difference(rows, name, "dpo_on"), name)
        _name_rows(left, list(COMPARED))
        left.set_xlabel("true quality of samples")
        right.axvline(0, color="#888888")
        right.set_xlabel("difference to DPO-on, paired in the seed")
    return figure


def protocols(profile: str = "nano") -> Figure:
    """The three benchmarks' protocols on nano answers: each seed's interval over questions."""
    import matplotlib.pyplot as plt

    from wrpo_lib.nano.benchmarks import benchmark_table

    table = benchmark_table(profile, list(COMPARED))
    panels = {"alpaca_eval2": "AlpacaEval-2 form: win rate, %",
              "arena_hard": "Arena-Hard form: score, %",
              "mt_bench": "MT-Bench form: mean score"}  # fmt: skip
    with style():
        figure, axes = plt.subplots(1, 3, figsize=(9.6, 3.2), sharey=True)
        for axis, (benchmark, title) in zip(axes, panels.items(), strict=True):
            _draw_protocol(axis, table[table["benchmark"] == benchmark])
            axis.set_title(title, loc="left")
        _name_rows(axes[0], list(COMPARED))
    return figure


def _draw_protocol(axis: Axes, rows: pd.DataFrame) -> None:
    for k, name in enumerate(COMPARED):
        how = look(name)
        for j, row in enumerate(rows[rows["model"] == name].itertuples(index=False)):
            axis.errorbar(row.value, k + 0.22 * (j - 1),
                          xerr=[[row.value - row.low], [row.high - row.value]],
                          color=how.color, marker=how.marker, markersize=5, capsize=2)  # fmt: skip


def paper_table2(profile: str = "nano") -> Figure:
    """The paper's Table 2, AlpacaEval-2 LC, with the intervals it should have had.

    ``profile`` is not read: these are the paper's numbers with typical standard errors of such
    rows (0.7 to 0.9 points).
    """
    import matplotlib.pyplot as plt

    from wrpo_lib.paper import TYPICAL_SE, table

    rows = table("table02_main_results")
    rows = rows[rows["group"].isin(["target", "preference", "ours", "explicit_fusion"])]
    rows = rows.sort_values("alpaca_eval2_lc_winrate", ascending=False)
    half = 1.96 * TYPICAL_SE["alpaca_eval2_lc_winrate"]
    with style():
        figure, axis = plt.subplots(figsize=(7.2, 3.6))
        for k, row in enumerate(rows.itertuples(index=False)):
            color, marker = ("#009E73", "P") if row.group == "ours" else ("#777777", "o")
            axis.errorbar(row.alpaca_eval2_lc_winrate, k, xerr=half, fmt=marker, color=color,
                          capsize=3)  # fmt: skip
        axis.set_xlabel("AlpacaEval-2 length-controlled win rate, % (paper); typical 95 % interval")
        axis.set_yticks(range(len(rows)), rows["model"])
        axis.invert_yaxis()
        axis.grid(axis="y", visible=False)
    return figure
