"""What published judgements teach, and what the corrections of a judge's biases do."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from wrpo_lib.figures.style import LOOKS, style
from wrpo_lib.records import read_results, read_run

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

STRENGTHS = (0.0, 0.5, 1.0, 1.5, 2.0)
SHOWN = ("mamba_0_5_dpo_ep3", "mistral-orpo-mix", "Meta-Llama-3-8B-Instruct-Griffin")
"""Published models of the radar: the highest, a middle and the lowest score."""


def published_intervals(profile: str = "nano") -> Figure:
    """Half-widths of LC intervals, upstream's against refits; and the effect of position.

    ``profile`` is not read: the numbers are of real models (``results/published``).
    """
    import matplotlib.pyplot as plt

    rows = read_results("published", "alpaca_eval2").dropna(subset=["lc_low"])
    upstream, refit = 1.96 * rows["lc_standard_error"], (rows["lc_high"] - rows["lc_low"]) / 2
    rows = rows.sort_values("position_effect")
    with style():
        figure, (left, right) = plt.subplots(1, 2, figsize=(8.6, 3.2))
        left.plot(upstream, refit, "o", color=LOOKS["dpo_on"].color, alpha=0.7)
        top = float(refit.max()) * 1.05
        left.axline((0, 0), slope=1, color="#888888", linestyle="--")
        left.set_xlim(0, top)
        left.set_ylim(0, top)
        left.annotate("equal", (0.8 * top, 0.8 * top), xytext=(4, -12),
                      textcoords="offset points", color="#555555")  # fmt: skip
        left.set_xlabel("1.96 × upstream's standard error, points")
        left.set_ylabel("half of the refit interval, points")
        half = [rows["position_effect"] - rows["position_effect_low"],
                rows["position_effect_high"] - rows["position_effect"]]  # fmt: skip
        right.errorbar(rows["position_effect"], range(len(rows)), xerr=half, fmt="o", markersize=3,
                       color=LOOKS["dpo_off"].color, elinewidth=0.8)  # fmt: skip
        right.axvline(0, color="#888888")
        right.set_yticks([])
        right.set_xlabel("shown second minus shown first, points of win rate")
        right.set_ylabel("published models")
    return figure


def mt_bench_radar(profile: str = "nano") -> Figure:
    """Mean MT-Bench score by category of three published models (``profile`` is not read)."""
    import matplotlib.pyplot as plt

    from wrpo_lib.evaluation.mt_bench import CATEGORIES

    rows = read_results("published", "mt_bench").set_index("model").loc[list(SHOWN)]
    marks = ("dpo_on", "dpo_hybrid", "target_sft")
    with style():
        figure, axis = plt.subplots(figsize=(4.6, 3.8), subplot_kw={"projection": "polar"})
        angles = np.linspace(0, 2 * np.pi, len(CATEGORIES), endpoint=False)
        for (model, row), name in zip(rows.iterrows(), marks, strict=True):
            how = LOOKS[name]
            values = row[list(CATEGORIES)].to_numpy(float)
            axis.plot([*angles, angles[0]], [*values, values[0]], how.dash, marker=how.marker,
                      color=how.color, markersize=4, label=str(model))  # fmt: skip
        axis.set_xticks(angles, CATEGORIES)
        axis.set_ylim(0, 10)
        axis.set_yticks([2, 4, 6, 8, 10])
        figure.legend(loc="outside lower center", fontsize=8)
    return figure


def corrections(profile: str = "nano") -> Figure:
    """Win rates under growing position and length bias: one order, both, length-controlled.

    The dashed line is what a judge without the bias says of the same answers.
    """
    import matplotlib.pyplot as plt

    table = bias_table(profile)
    lines = {
        "shown second only": LOOKS["dpo_off"], "shown first only": LOOKS["dpo_hybrid"],
        "both orders": LOOKS["dpo_on"], "length-controlled": LOOKS["wrpo"],
    }  # fmt: skip
    with style():
        figure, axes = plt.subplots(1, 3, figsize=(9.4, 3.2), sharey=True)
        for axis, (panel, rows) in zip(axes, table.groupby("panel", sort=False), strict=True):
            for name, how in lines.items():
                own = rows[rows["estimate"] == name]
                if len(own):
                    axis.plot(own["strength"], own["value"], how.dash, marker=how.marker,
                              color=how.color, label=name)  # fmt: skip
            truth = rows[rows["strength"] == 0].query("estimate == 'both orders'")["value"]
            axis.axhline(truth.iloc[0], color="#888888", linestyle="--", label="without the bias")
            axis.set_title(str(panel), loc="left")
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
    import pandas as pd

    run = read_run(profile)
    baseline = run["world"]["evaluation"]["baseline"]
    answers = read_results(profile, f"answers_seed{run['seeds'][0]}")
    greedy = answers[answers["decoding"] == "greedy"]
    panels = (("position bias", "dpo_hybrid", False), ("length bias, padded", "dpo_hybrid", True),
              ("length bias, no overlap", "dpo_on", False))  # fmt: skip
    rows = []
    for panel, model, padded in panels:
        chosen = greedy[greedy["model"].isin([model, baseline])]
        if padded:
            chosen = _pad(chosen, model)
        for strength in STRENGTHS:
            found = _estimates(chosen, baseline, panel.split()[0], strength)
            rows += [{"panel": panel, "strength": strength, "estimate": name, "value": value}
                     for name, value in found.items()]  # fmt: skip
    return pd.DataFrame(rows)


def _pad(answers: pd.DataFrame, model: str) -> pd.DataFrame:
    """The model's texts with filler of random length; the baseline's as they are."""
    own = (answers["model"] == model).to_numpy()
    filler = np.random.default_rng(0).integers(0, 61, len(answers)) * own
    texts = [t + "." * int(n) for t, n in zip(answers["text"], filler, strict=True)]
    return answers.assign(text=texts)


def _estimates(
    answers: pd.DataFrame, baseline: str, bias: str, strength: float
) -> dict[str, float]:
    from wrpo_lib.evaluation.alpaca_eval import win_rate
    from wrpo_lib.evaluation.length_control import length_controlled
    from wrpo_lib.nano.judge import Judge, judge_alpaca

    position, length = (strength, 0.0) if bias == "position" else (0.0, strength)
    judged = judge_alpaca(answers, baseline, Judge(position=position, length=length))
    found = {"both orders": win_rate(judged).win_rate}
    if bias == "length":
        return found | {"length-controlled": length_controlled(judged).length_controlled_winrate}
    for order, name in (("baseline first", "shown second only"),
                        ("model first", "shown first only")):  # fmt: skip
        found[name] = win_rate(judged[judged["order"] == order]).win_rate
    return found
