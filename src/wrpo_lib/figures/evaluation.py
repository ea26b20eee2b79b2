"""Figures of evaluation: the protocols, Table 2, published judgements, corrections of biases."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from wrpo_lib.analysis.outcomes import Results
from wrpo_lib.evaluation.alpaca_eval import length_controlled, win_rate
from wrpo_lib.figures.style import GREY, LOOKS, Drawn, draw_rows, drawing, name_rows
from wrpo_lib.nano.judge import Judge, judge_alpaca
from wrpo_lib.paper import TYPICAL_LC_SE, table
from wrpo_lib.records import read_results, read_run

PROTOCOLS = {
    "alpaca_eval": "AlpacaEval-2 form: win rate, %",
    "arena_hard": "Arena-Hard form: score, %",
    "mt_bench": "MT-Bench form: mean score",
}
STRENGTHS = (0.0, 0.5, 1.0, 1.5, 2.0)
CORRECTIONS = {
    "shown second only": "dpo_off",
    "shown first only": "dpo_hybrid",
    "both orders": "dpo_on",
    "length-controlled": "wrpo",
}
BIASED, FILLER = "dpo_hybrid", 18
"""Whose answers the biased judges see; the most characters that are put behind one."""


def protocols(profile: str = "nano") -> Drawn:
    """The three benchmarks' protocols on nano answers, means over worlds with their intervals."""
    results = Results(profile)
    drawn = []
    with drawing(3, 7.2) as (figure, axes):
        for axis, (protocol, title) in zip(axes, PROTOCOLS.items(), strict=True):
            arms = [arm for arm in LOOKS if arm in results.wide(protocol)]
            rows = results.levels(arms, protocol)
            drawn.append(rows.assign(protocol=protocol))
            draw_rows(axis, rows)
            axis.set_title(title)
    return Drawn(figure, pd.concat(drawn))


def paper_table2(profile: str = "nano") -> Drawn:
    """The paper's Table 2, AlpacaEval-2 LC, with the intervals it should have had.

    ``profile`` is not read: these are the paper's numbers with typical standard errors of such
    rows (0.7 to 0.9 points).
    """
    rows = table("table02_main_results")
    rows = rows[rows["group"].isin(["target", "preference", "ours", "explicit_fusion"])]
    rows = rows.sort_values("alpaca_eval2_lc_winrate", ascending=False)
    half = 1.96 * TYPICAL_LC_SE
    with drawing(height=4.4) as (figure, axis):
        for k, row in enumerate(rows.itertuples(index=False)):
            color, mark = ("#009E73", "P") if row.group == "ours" else ("#777777", "o")
            lc = row.alpaca_eval2_lc_winrate
            axis.errorbar(lc, k, xerr=half, fmt=mark, color=color, capsize=3)
        axis.set_xlabel("length-controlled win rate, %; typical interval")
        name_rows(axis, rows["model"])
    return Drawn(figure, rows)


def published_intervals(profile: str = "nano") -> Drawn:
    """Half-widths of LC intervals, upstream's against refits; and the effect of position.

    ``profile`` is not read: the numbers are of real models (``results/published``).
    """
    rows = read_results("published", "alpaca_eval2").dropna(subset=["lc_interval"])
    rows = rows.sort_values("position_effect")
    upstream, refit = (
        1.96 * rows["lc_standard_error"],
        rows["lc_interval_high"] - rows["lc_interval"],
    )
    top, value = float(refit.max()) * 1.05, rows["position_effect"]
    half = [value - rows["position_effect_low"], rows["position_effect_high"] - value]
    with drawing(2, 6.4) as (figure, (left, right)):
        left.plot(upstream, refit, "o", color=LOOKS["dpo_on"].color, alpha=0.7)
        left.axline((0, 0), slope=1, color=GREY, linestyle="--", label="equal")
        left.legend()
        left.set(xlim=(0, top), xlabel="1.96 × upstream's standard error, points")
        left.set(ylim=(0, top), ylabel="half of the refit interval, points")
        drawn = {"color": LOOKS["dpo_off"].color, "markersize": 3, "elinewidth": 0.8}
        right.errorbar(value, range(len(rows)), None, half, "o", **drawn)
        right.axvline(0, color=GREY)
        right.set(yticks=[], ylabel="published models")
        right.set_xlabel("shown second minus shown first, points")
    return Drawn(figure, rows)


def corrections(profile: str = "nano") -> Drawn:
    """Win rates under growing position and length bias: one order, both, length-controlled.

    The dashed line is what a judge without the bias says of the same answers.
    """
    table = bias_table(profile)
    panels = table.groupby("panel", sort=False)
    with drawing(2, 5.6, sharex=True) as (figure, axes):
        for axis, (panel, rows) in zip(axes, panels, strict=True):
            for name, own in rows.groupby("estimate", sort=False):
                how = LOOKS[CORRECTIONS[name]]
                drawn = {"color": how.color, "marker": how.marker, "label": name}
                axis.plot(own["strength"], own["value"], how.dash, **drawn)
            truth = rows.query("strength == 0 and estimate == 'both orders'")["value"].iloc[0]
            axis.axhline(truth, color=GREY, linestyle="--", label="without the bias")
            axis.set(title=panel, ylabel="win rate, %")
        axis.set_xlabel("strength of the bias, logits")
        handles = {n: h for a in axes for h, n in zip(*a.get_legend_handles_labels(), strict=True)}
        figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=2)
    return Drawn(figure, table)


def with_filler(answers: pd.DataFrame, most: Any = FILLER) -> pd.DataFrame:
    """Answers with up to ``most`` characters of filler behind each, at random.

    Nano's answers are about equally long; with filler there is a length to control.
    """
    filler = np.random.default_rng(0).integers(0, most + 1, len(answers))
    return answers.assign(response=answers["response"] + ["." * n for n in filler])


def bias_table(profile: str = "nano") -> pd.DataFrame:
    """Estimated win rates (%) by panel, strength of the bias, and correction.

    Answers of DPO-hybrid in the first seed's world against the baseline; the judge has one bias at
    a time. Under the length bias up to 18 characters of filler stand behind DPO-hybrid's answers
    and up to 9 behind the baseline's: same quality, longer on average but not always.
    """
    run, rows = read_run(profile), []
    baseline = run["world"]["evaluation"]["baseline"]
    answers = read_results(profile, "answers")
    answers = answers[
        (answers["seed"] == run["seeds"][0]) & answers["arm"].isin([BIASED, baseline])
    ]
    filled = with_filler(answers, np.where(answers["arm"] == BIASED, FILLER, FILLER // 2))
    for bias, shown in (("position", answers), ("length", filled)):
        for strength in STRENGTHS:
            one: Any = {"position": 0.0, "length": 0.0, bias: strength}
            judged = judge_alpaca(shown, baseline, Judge(**one))
            found = {"both orders": win_rate(judged)["win_rate"]}
            if bias == "position":
                second = judged["order"] == "baseline first"
                found["shown second only"] = win_rate(judged[second])["win_rate"]
                found["shown first only"] = win_rate(judged[~second])["win_rate"]
            else:
                found["length-controlled"] = length_controlled(judged)["length_controlled_winrate"]
            rows += [(f"{bias} bias", strength, name, value) for name, value in found.items()]
    return pd.DataFrame(rows, columns=["panel", "strength", "estimate", "value"])
