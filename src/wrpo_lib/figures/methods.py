"""The headroom, the comparison of methods, the three protocols, and Table 2 with intervals."""

from __future__ import annotations

from matplotlib.figure import Figure

from wrpo_lib.analysis.report import difference, level, sampled_scores
from wrpo_lib.figures.style import draw_interval, drawing, look, name_rows
from wrpo_lib.nano.judge import benchmark_table
from wrpo_lib.nano.reward import MAX_QUALITY
from wrpo_lib.paper import TYPICAL_LC_SE, table
from wrpo_lib.records import read_results

COMPARED = ["target_sft", "dpo_on", "dpo_hybrid", "wrpo", "wrpo_alpha05"]
DECODINGS = {
    "sampled": ("o", "mean of samples", "full"),
    "greedy": ("s", "greedy", "none"),
    "best_of_5": ("D", "best of five", "none"),
}
PROTOCOLS = {
    "alpaca_eval2": "AlpacaEval-2 form: win rate, %",
    "arena_hard": "Arena-Hard form: score, %",
    "mt_bench": "MT-Bench form: mean score",
}


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
                drawn["label"] = label if k == 0 else None
                axis.plot(values, [k] * len(values), marker, **drawn)
        axis.axvline(MAX_QUALITY, color="#888888", linestyle="--")
        place = {"textcoords": "offset points", "rotation": 90, "ha": "right", "va": "center"}
        axis.annotate("ceiling", (MAX_QUALITY, 0), xytext=(-4, 0), color="#555555", **place)
        name_rows(axis, names)
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
        name_rows(left, COMPARED)
        left.set_xlabel("true quality of samples")
        right.axvline(0, color="#888888")
        right.set_xlabel("difference to DPO-on, paired in the seed")
    return figure


def protocols(profile: str = "nano") -> Figure:
    """The three benchmarks' protocols on nano answers: each seed's interval over questions."""
    rows = benchmark_table(profile, COMPARED).set_index(["benchmark", "model"]).sort_index()
    with drawing(1, 3, (9.6, 3.2), sharey=True) as (figure, axes):
        for axis, (benchmark, title) in zip(axes, PROTOCOLS.items(), strict=True):
            for k, name in enumerate(COMPARED):
                for j, row in enumerate(rows.loc[(benchmark, name)].itertuples()):
                    at = k + 0.22 * (j - 1)
                    draw_interval(axis, at, row, look(name), markersize=5, capsize=2)
            axis.set_title(title, loc="left")
        name_rows(axes[0], COMPARED)
    return figure


def paper_table2(profile: str = "nano") -> Figure:
    """The paper's Table 2, AlpacaEval-2 LC, with the intervals it should have had.

    ``profile`` is not read: these are the paper's numbers with typical standard errors of such
    rows (0.7 to 0.9 points).
    """
    rows = table("table02_main_results")
    rows = rows[rows["group"].isin(["target", "preference", "ours", "explicit_fusion"])]
    rows = rows.sort_values("alpaca_eval2_lc_winrate", ascending=False)
    half = 1.96 * TYPICAL_LC_SE
    with drawing(size=(7.2, 3.6)) as (figure, axis):
        for k, row in enumerate(rows.itertuples(index=False)):
            color, mark = ("#009E73", "P") if row.group == "ours" else ("#777777", "o")
            lc = row.alpaca_eval2_lc_winrate
            axis.errorbar(lc, k, xerr=half, fmt=mark, color=color, capsize=3)
        axis.set_xlabel("AlpacaEval-2 length-controlled win rate, % (paper); typical 95 % interval")
        axis.set_yticks(range(len(rows)), rows["model"])
        axis.invert_yaxis()
        axis.grid(axis="y", visible=False)
    return figure
