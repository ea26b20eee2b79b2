"""Figures of evaluation: the protocols, Table 2, published judgements, corrections of biases."""

from typing import Any

import numpy as np
import pandas as pd

from wrpo_lib.analysis.outcomes import Results
from wrpo_lib.evaluation.scores import length_controlled, win_rate
from wrpo_lib.figures.style import LOOKS, Drawn, draw_rows, drawing, reach
from wrpo_lib.nano.judge import Judge, judge_alpaca
from wrpo_lib.paper import TYPICAL_LC_SE, table
from wrpo_lib.records import read_results, read_run

PROTOCOLS = {
    "alpaca_eval": "AlpacaEval-2 form: win rate, %",
    "arena_hard": "Arena-Hard form: score, %",
    "mt_bench": "MT-Bench form: mean score",
}
CORRECTIONS = {
    "shown second only": "dpo_off",
    "shown first only": "dpo_hybrid",
    "both orders": "dpo_on",
    "length-controlled": "wrpo",
}
"""Estimate -> whose look it has."""
BIASED, FILLER = "dpo_hybrid", 18
"""Whose answers the biased judges see; the most characters that are put behind one."""


def protocols(profile: str = "nano") -> Drawn:
    """The three benchmarks' protocols on nano answers, means over worlds with their intervals."""
    results, drawn = Results(profile), []
    with drawing(3, 7.2) as (figure, axes):
        for axis, (protocol, title) in zip(axes, PROTOCOLS.items(), strict=True):
            arms = [arm for arm in LOOKS if arm in results.wide(protocol)]
            rows = results.levels(arms, protocol)
            drawn.append(rows.assign(protocol=protocol))
            draw_rows(axis, rows)
            axis.set_title(title)
    return Drawn(figure, pd.concat(drawn))


def paper_table2() -> Drawn:
    """The paper's Table 2, AlpacaEval-2 LC, with an interval that is typical of such rows."""
    rows = table("table02_main_results")
    rows = rows[rows["group"].isin(["target", "preference", "ours", "explicit_fusion"])]
    rows = rows.sort_values("alpaca_eval2_lc_winrate", ascending=False)
    lc, half = rows["alpaca_eval2_lc_winrate"], 1.96 * TYPICAL_LC_SE
    arms = np.where(rows["group"] == "ours", "wrpo", "other")
    marks = pd.DataFrame({"arm": arms, "value": lc, "low": lc - half, "high": lc + half})
    with drawing(height=4.4) as (figure, axis):
        draw_rows(axis, marks, list(rows["model"]), markersize=6)
        axis.set_xlabel("length-controlled win rate, %; typical interval")
    return Drawn(figure, rows)


def published_intervals() -> Drawn:
    """Half-widths of LC intervals of real models, upstream's by refits; the effect of position."""
    rows = read_results("published", "alpaca_eval2").dropna(subset=["lc_interval"])
    rows = rows.sort_values("position_effect")
    upstream = 1.96 * rows["lc_standard_error"]
    refit = rows["lc_interval_high"] - rows["lc_interval"]
    limits = (0, float(refit.max()) * 1.05)
    effect = rows.filter(like="position_effect").set_axis(["value", "low", "high"], axis=1)
    with drawing(2, 6.4) as (figure, (top, bottom)):
        top.plot(upstream, refit, "o", color=LOOKS["dpo_on"].color, alpha=0.7)
        top.axline((0, 0), slope=1, linestyle="--", label="equal")
        top.legend()
        top.set(xlim=limits, ylim=limits, ylabel="half of the refit interval, points")
        top.set_xlabel("1.96 × upstream's standard error, points")
        drawn = {"color": LOOKS["dpo_off"].color, "markersize": 3, "elinewidth": 0.8}
        bottom.errorbar(effect["value"], range(len(rows)), None, reach(effect), "o", **drawn)
        bottom.axvline(0)
        bottom.set(yticks=[], ylabel="published models")
        bottom.set_xlabel("shown second minus shown first, points")
    return Drawn(figure, rows)


def corrections(profile: str = "nano") -> Drawn:
    """Win rates under growing bias; the dashed line is what a judge without it says."""
    table = _bias_table(profile)
    panels = table.groupby("panel", sort=False)
    with drawing(2, 5.6, sharex=True) as (figure, axes):
        for axis, (panel, rows) in zip(axes, panels, strict=True):
            for name, own in rows.groupby("estimate", sort=False):
                how = LOOKS[CORRECTIONS[name]]
                drawn = {"color": how.color, "marker": how.marker, "label": name}
                axis.plot(own["strength"], own["value"], how.dash, **drawn)
            truth = rows.query("strength == 0 and estimate == 'both orders'")["value"].iloc[0]
            axis.axhline(truth, linestyle="--", label="without the bias")
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


def _bias_table(profile: str) -> pd.DataFrame:
    """Estimated win rates (%) of DPO-hybrid in the first world against the baseline.

    For the length bias, filler makes its answers longer on average but not always, and no better.
    """
    run, rows = read_run(profile), []
    baseline = run["world"]["evaluation"]["baseline"]
    answers = read_results(profile, "answers").query("arm in [@BIASED, @baseline]")
    answers = answers[answers["seed"] == run["seeds"][0]]
    filled = with_filler(answers, np.where(answers["arm"] == BIASED, FILLER, FILLER // 2))
    for bias, shown in (("position", answers), ("length", filled)):
        for strength in (0.0, 0.5, 1.0, 1.5, 2.0):
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
