"""The paper's figures, named as there, drawn from the study's results.

The paper's axis of Figure 1 is unknown. Intervals are 95 % t intervals over worlds.
"""

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from wrpo_lib.analysis.outcomes import Results
from wrpo_lib.figures.style import Drawn, draw_curve, draw_line, draw_rows, drawing, look
from wrpo_lib.paper import TYPICAL_LC_SE, table
from wrpo_lib.records import read_run, results_dir

DYNAMICS = {"dpo_on": "(a) DPO-on", "dpo_hybrid": "(b) DPO-hybrid", "wrpo_a50": "(c) WRPO, α → 0.5"}
REWARDS = {"reward_ws": "source_chosen", "reward_wt": "target_chosen", "reward_l": "rejected"}
REWARDS |= {"margin": "margins"}
LABELS = (10, 30, 50, 70, 90)  # α_max in hundredths, as arms are named; Figure 6 has three
RIGHT = "% of samples right, held-out prompts"


def study(profile: str) -> Results:
    """The results of a study, read and checked once while its ``run.json`` stays the same."""
    return _study(profile, results_dir(profile), str(read_run(profile)))


@cache
def _study(profile: str, _folder: Path, _record: str) -> Results:
    return Results(profile)


def figure_1(profile: str = "nano") -> Drawn:
    """Log-probability of source and own responses before and after DPO-off; who is right.

    Lines are means; the lowest bin holds all that is lower.
    """
    results = study(profile)
    rows, right = results.table("deviation"), results.levels(["target", "dpo_off", "target_dpo_on"])
    edges = np.linspace(rows["logp"].quantile(0.005), 0, 41)
    titles = {"target": "(a) the target, before", "dpo_off": "(b) the target after DPO-off"}
    drawn = [right.assign(panel="(c)")]
    with drawing(3, 7.6, height_ratios=[1.2, 1.2, 1]) as (figure, axes):
        for axis, (model, title) in zip(axes, titles.items(), strict=False):
            for whose, own in rows[rows["model"] == model].groupby("whose"):
                how, mean = look(whose), own["logp"].mean()
                share = np.histogram(own["logp"].clip(lower=edges[0]), edges)[0] / len(own)
                shape: Any = {"fill": True, "alpha": 0.35} if whose == "own" else {}
                axis.stairs(share, edges, color=how.color, label=how.name, linewidth=1.6, **shape)
                axis.axvline(mean, color=how.color, linestyle=how.dash)
                bars = pd.DataFrame({"arm": whose, "x": edges[:-1], "value": share, "mean": mean})
                drawn.append(bars.assign(panel=title[:3]))
            axis.set(title=title, xlabel="log πθ(y|x), nats per response", ylabel="share")
        figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=2)
        draw_rows(axes[2], right, RIGHT)
        axes[2].set_title("(c) before and after training")
    return Drawn(figure, pd.concat(drawn))


def figure_2() -> Drawn:
    """α against the optimiser step as in the paper, 311 steps to 0.1."""
    from wrpo_lib.objective import alpha_at

    steps, schedules = range(311), ("linear", "quadratic", "constant")
    rows = pd.DataFrame({n: [alpha_at(n, t, 311, 0.1) for t in steps] for n in schedules})
    with drawing() as (figure, axis):
        for name in schedules:
            draw_curve(axis, steps, rows[name], look(name))
        axis.set(xlabel="optimiser step t", ylabel="fusion coefficient α(t)")
        axis.legend()
    return Drawn(figure, rows.assign(step=steps))


def figure_3(profile: str = "nano") -> Drawn:
    """Rewards and margin on held-out quadruples, means over worlds, and what is right after."""
    results = study(profile)
    rows = results.table("dynamics").query("split == 'heldout' and arm in @DYNAMICS")
    right = results.levels(list(DYNAMICS)).set_index("arm")
    with drawing(3, 8.6, sharex=True, sharey=True) as (figure, axes):
        for axis, (arm, title) in zip(axes, DYNAMICS.items(), strict=True):
            steps = rows[rows["arm"] == arm].groupby("step")
            for reward, name in REWARDS.items():
                how, mean = look(name), steps[reward].mean()
                half = stats.t.ppf(0.975, steps.size() - 1) * steps[reward].sem()
                draw_curve(axis, mean.index, mean, how, linewidth=1.8)
                band: Any = {"color": how.color, "alpha": 0.15, "linewidth": 0}
                axis.fill_between(mean.index, mean - half, mean + half, **band)
            axis.axhline(0, linewidth=0.8)
            said = "{value:.1f} % right [{low:.1f}, {high:.1f}]".format_map(right.loc[arm])
            axis.set(title=f"{title}: {said}", ylabel="β·log(πθ/πref)", xlabel="optimiser step")
        figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    columns = {reward: f"rewards/{name}" for reward, name in REWARDS.items()}
    return Drawn(figure, rows[["arm", "seed", "step", *REWARDS]].rename(columns=columns))


def figure_4(profile: str = "nano") -> Drawn:
    """The three forms in full, without y_ws and without y_wt."""
    arms: dict[str, str] = {}
    for form, full in {"DPO": "wrpo", "SimPO": "wrpo_simpo", "IPO": "wrpo_ipo"}.items():
        plain = form.lower()
        arms |= {f"{form} form": full, f"{form}: no y_ws": f"{plain}_on"}
        arms[f"{form}: no y_wt"] = f"{plain}_hybrid"
    rows = study(profile).levels(list(arms.values())).assign(name=list(arms))
    with drawing(height=4.0) as (figure, axis):
        draw_rows(axis, rows, RIGHT)
        for below in (2.5, 5.5):
            axis.axhline(below, linewidth=0.8)
    return Drawn(figure, rows)


def figure_5(profile: str = "nano") -> Drawn:
    """Against α_max: what is right, and how often y_ws and y_wt rank above y_l (held out)."""
    results, alphas = study(profile), [label / 100 for label in LABELS]
    arms = [f"wrpo_a{label}" for label in LABELS]
    right = results.levels(["dpo_on", *arms, "dpo_hybrid"])
    drawn = [right.assign(panel="right")]
    with drawing(2, 6.0, sharex=True) as (figure, (top, bottom)):
        draw_line(top, alphas, right[1:-1], look("wrpo"))
        draw_line(top, [0], right[:1], look("dpo_on")._replace(dash=""))
        draw_line(top, [1], right[-1:], look("dpo_hybrid")._replace(dash=""))
        for of, name in (("accuracy", "source_chosen"), ("accuracy_wt", "target_chosen")):
            rows, how = results.levels(arms, of), look(name)
            draw_line(bottom, alphas, rows, how._replace(name=f"{how.name} above y_l"))
            drawn.append(rows.assign(panel=of))
        top.set_ylabel("% of samples right")
        bottom.set(xlabel="α_max", ylabel="% of held-out pairs")
        top.legend()
        bottom.legend()
    return Drawn(figure, pd.concat(drawn))


def figure_6(profile: str = "nano") -> Drawn:
    """An α that rises against a constant one: with the same label, and with the same mean."""
    results, drawn = study(profile), []
    with drawing(height=3.6) as (figure, axis):
        for shift, prefix in ((-0.008, "wrpo_a"), (0, "wrpo_const_a"), (0.008, "wrpo_const_m")):
            drawn.append(results.levels([f"{prefix}{label}" for label in LABELS[:3]]))
            draw_line(axis, [label / 100 + shift for label in LABELS[:3]], drawn[-1], look(prefix))
        axis.set(xlabel="α (the label of the run)", ylabel="% of samples right")
        figure.legend(loc="outside lower center")
    return Drawn(figure, pd.concat(drawn))


def paper_table2() -> Drawn:
    """The paper's Table 2, AlpacaEval-2 LC, with an interval that is typical of such rows."""
    rows = table("table02_main_results")
    rows = rows[rows["group"].isin(["target", "preference", "ours", "explicit_fusion"])]
    rows = rows.sort_values("alpaca_eval2_lc_winrate", ascending=False)
    lc, half = rows["alpaca_eval2_lc_winrate"], 1.96 * TYPICAL_LC_SE
    marks = pd.DataFrame({"name": rows["model"], "value": lc, "low": lc - half, "high": lc + half})
    marks["arm"] = np.where(rows["group"] == "ours", "wrpo", "other")
    with drawing(height=4.4) as (figure, axis):
        draw_rows(axis, marks, "length-controlled win rate, %; typical interval", markersize=6)
    return Drawn(figure, rows)
