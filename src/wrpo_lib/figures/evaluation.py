"""What published judgements teach, and what the corrections of a judge's biases do."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from wrpo_lib.evaluation.alpaca_eval import length_controlled, win_rate
from wrpo_lib.evaluation.verdicts import CATEGORIES
from wrpo_lib.figures.style import LOOKS, drawing
from wrpo_lib.nano.judge import Judge, judge_alpaca
from wrpo_lib.records import read_results, read_run

STRENGTHS = (0.0, 0.5, 1.0, 1.5, 2.0)
SHOWN = {
    "mamba_0_5_dpo_ep3": "dpo_on",
    "mistral-orpo-mix": "dpo_hybrid",
    "Meta-Llama-3-8B-Instruct-Griffin": "target_sft",
}
"""Published models of the radar, the highest, a middle and the lowest score, and their looks."""
CORRECTIONS = {
    "shown second only": "dpo_off",
    "shown first only": "dpo_hybrid",
    "both orders": "dpo_on",
    "length-controlled": "wrpo",
}
PANELS = (
    ("position bias", "dpo_hybrid", False),
    ("length bias, padded", "dpo_hybrid", True),
    ("length bias, no overlap", "dpo_on", False),
)


def published_intervals(profile: str = "nano") -> Figure:
    """Half-widths of LC intervals, upstream's against refits; and the effect of position.

    ``profile`` is not read: the numbers are of real models (``results/published``).
    """
    rows = read_results("published", "alpaca_eval2").dropna(subset=["lc_low"])
    upstream, refit = 1.96 * rows["lc_standard_error"], (rows["lc_high"] - rows["lc_low"]) / 2
    top, rows = float(refit.max()) * 1.05, rows.sort_values("position_effect")
    value = rows["position_effect"]
    half = [value - rows["position_effect_low"], rows["position_effect_high"] - value]
    with drawing(1, 2, (8.6, 3.2)) as (figure, (left, right)):
        left.plot(upstream, refit, "o", color=LOOKS["dpo_on"].color, alpha=0.7)
        left.axline((0, 0), slope=1, color="#888888", linestyle="--")
        at = {"xytext": (4, -12), "textcoords": "offset points", "color": "#555555"}
        left.annotate("equal", (0.8 * top, 0.8 * top), **at)
        left.set(xlim=(0, top), xlabel="1.96 × upstream's standard error, points")
        left.set(ylim=(0, top), ylabel="half of the refit interval, points")
        drawn = {"color": LOOKS["dpo_off"].color, "markersize": 3, "elinewidth": 0.8}
        right.errorbar(value, range(len(rows)), None, half, "o", **drawn)
        right.axvline(0, color="#888888")
        right.set(yticks=[], ylabel="published models")
        right.set_xlabel("shown second minus shown first, points of win rate")
    return figure


def mt_bench_radar(profile: str = "nano") -> Figure:
    """Mean MT-Bench score by category of three published models (``profile`` is not read)."""
    rows = read_results("published", "mt_bench").set_index("model")[list(CATEGORIES)]
    angles = np.linspace(0, 2 * np.pi, len(CATEGORIES), endpoint=False)
    with drawing(size=(4.6, 3.8), subplot_kw={"projection": "polar"}) as (figure, axis):
        for model, name in SHOWN.items():
            how, scores = LOOKS[name], rows.loc[model].tolist()
            drawn = {"color": how.color, "marker": how.marker, "markersize": 4, "label": model}
            axis.plot([*angles, angles[0]], [*scores, scores[0]], how.dash, **drawn)
        axis.set_xticks(angles, CATEGORIES)
        axis.set(ylim=(0, 10), yticks=[2, 4, 6, 8, 10])
        figure.legend(loc="outside lower center", fontsize=8)
    return figure


def corrections(profile: str = "nano") -> Figure:
    """Win rates under growing position and length bias: one order, both, length-controlled.

    The dashed line is what a judge without the bias says of the same answers.
    """
    panels = bias_table(profile).groupby("panel", sort=False)
    with drawing(1, 3, (9.4, 3.2), sharey=True) as (figure, axes):
        for axis, (panel, rows) in zip(axes, panels, strict=True):
            for name, own in rows.groupby("estimate", sort=False):
                how = LOOKS[CORRECTIONS[name]]
                drawn = {"color": how.color, "marker": how.marker, "label": name}
                axis.plot(own["strength"], own["value"], how.dash, **drawn)
            truth = rows.query("strength == 0 and estimate == 'both orders'")["value"].iloc[0]
            axis.axhline(truth, color="#888888", linestyle="--", label="without the bias")
            axis.set_title(panel, loc="left")
            axis.set_xlabel("strength of the bias, logits")
        axes[0].set_ylabel("win rate, %")
        handles = {n: h for a in axes for h, n in zip(*a.get_legend_handles_labels(), strict=True)}
        figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=5)
    return figure


def bias_table(profile: str = "nano") -> pd.DataFrame:
    """Estimated win rates (%) by panel, strength of the bias, and correction.

    Greedy answers of the first seed against the baseline; the judge has one bias at a time. The
    padded answers are those of DPO-hybrid, about as long as the baseline's, with 0 to 60 characters
    of filler behind each: same quality, longer, lengths that overlap. DPO-on's answers are nearly
    all much longer than the baseline's.
    """
    run = read_run(profile)
    baseline = run["world"]["evaluation"]["baseline"]
    answers = read_results(profile, f"answers_seed{run['seeds'][0]}")
    greedy = answers[answers["decoding"] == "greedy"]
    filler = np.random.default_rng(0)
    rows = []
    for panel, model, padded in PANELS:
        chosen = greedy[greedy["model"].isin([model, baseline])]
        if padded:
            added = filler.integers(0, 61, len(chosen)) * (chosen["model"] == model)
            chosen = chosen.assign(text=chosen["text"] + added.map(lambda n: "." * n))
        for strength in STRENGTHS:
            found = _estimates(chosen, baseline, panel.split()[0], strength)
            rows += [(panel, strength, name, value) for name, value in found.items()]
    return pd.DataFrame(rows, columns=["panel", "strength", "estimate", "value"])


def _estimates(
    answers: pd.DataFrame, baseline: str, bias: str, strength: float
) -> dict[str, float]:
    position, length = (strength, 0.0) if bias == "position" else (0.0, strength)
    judge = Judge(position=position, length=length)
    judged = judge_alpaca(answers, baseline, judge)
    found = {"both orders": win_rate(judged)["win_rate"]}
    if bias == "length":
        return found | {"length-controlled": length_controlled(judged)["length_controlled_winrate"]}
    second = judged["order"] == "baseline first"
    parts = {"shown second only": judged[second], "shown first only": judged[~second]}
    return {name: win_rate(part)["win_rate"] for name, part in parts.items()} | found
