"""The paper's figures, named as there, drawn from the study's results.

The paper's axis of Figure 1 is unknown; ours is nats per response. Intervals are 95 % t intervals
over worlds.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from scipy import stats

from wrpo_lib.analysis.outcomes import Results
from wrpo_lib.figures.style import GREY, Drawn, Look, draw_line, draw_rows, drawing, look
from wrpo_lib.quadruples.schema import RESPONSES

BEFORE_AND_AFTER = {"target": "(a) the target, before", "dpo_off": "(b) the target after DPO-off"}
DYNAMICS = {"dpo_on": "(a) DPO-on", "dpo_hybrid": "(b) DPO-hybrid", "wrpo_a50": "(c) WRPO, α → 0.5"}
REWARDS = {
    "reward_ws": "source_chosen",
    "reward_wt": "target_chosen",
    "reward_l": "rejected",
    "margin": "margins",
}
FORMS = {"DPO": ("wrpo", "dpo"), "SimPO": ("wrpo_simpo", "simpo"), "IPO": ("wrpo_ipo", "ipo")}
LABELS = (10, 30, 50, 70, 90)
"""α_max in Figure 5, in hundredths, as arms are named; Figure 6 has the first three."""

RIGHT = "% of samples right, held-out prompts"


def figure_1(profile: str = "nano") -> Drawn:
    """Log-probability of source and own responses before and after DPO-off; who is right."""
    results = Results(profile)
    rows, policies = results.table("deviation"), ["target", "dpo_off", "target_dpo_on"]
    edges = np.linspace(rows["logp"].quantile(0.005), 0, 41)
    right = results.levels(policies)
    drawn = [right.assign(panel="(c)")]
    with drawing(3, 7.6, height_ratios=[1.2, 1.2, 1]) as (figure, axes):
        for axis, (model, title) in zip(axes, BEFORE_AND_AFTER.items(), strict=False):
            bars = _histograms(rows[rows["model"] == model], edges)
            _draw_histograms(axis, bars, edges)
            axis.set_title(title)
            drawn.append(bars.assign(panel=title[:3]))
        figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=2)
        draw_rows(axes[2], right)
        axes[2].set(title="(c) before and after training", xlabel=RIGHT)
    return Drawn(figure, pd.concat(drawn))


def _histograms(rows: pd.DataFrame, edges: np.ndarray) -> pd.DataFrame:
    """Shares of own and source responses by log-probability; the lowest bin holds all below it."""
    found = []
    for whose, own in rows.groupby("whose"):
        counts, _ = np.histogram(own["logp"].clip(lower=edges[0]), edges)
        values = {"x": edges[:-1], "value": counts / len(own), "mean": own["logp"].mean()}
        found.append(pd.DataFrame({"arm": whose, **values}))
    return pd.concat(found)


def _draw_histograms(axis: Axes, bars: pd.DataFrame, edges: np.ndarray) -> None:
    """Own responses filled, source responses as an outline; vertical lines are the means."""
    for whose, filled in (("own", True), ("source", False)):
        how, own = look(whose), bars[bars["arm"] == whose]
        shape: Any = {"fill": filled, "alpha": 0.35 if filled else 1, "linewidth": 1.6}
        axis.stairs(own["value"], edges, color=how.color, label=how.name, **shape)
        axis.axvline(own["mean"].iloc[0], color=how.color, linestyle=how.dash)
    axis.set(xlabel="log πθ(y|x), nats per response", ylabel="share")


def figure_3(profile: str = "nano") -> Drawn:
    """Rewards and margin on held-out quadruples, step by step, and what the policy gets right."""
    results = Results(profile)
    rows = results.table("dynamics").query("split == 'heldout' and arm in @DYNAMICS")
    rows = rows.rename(columns={k: f"rewards/{v}" for k, v in REWARDS.items()})
    right = results.levels(list(DYNAMICS)).set_index("arm")
    with drawing(3, 8.6, sharex=True, sharey=True) as (figure, axes):
        for axis, (arm, title) in zip(axes, DYNAMICS.items(), strict=True):
            draw_dynamics(axis, rows[rows["arm"] == arm])
            found = right.loc[arm]
            said = "{value:.1f} % right [{low:.1f}, {high:.1f}]".format_map(found)
            axis.set_title(f"{title}: {said}")
            axis.set_ylabel("β·log(πθ/πref)")
        figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    drawn = ["arm", "seed", "step", *(f"rewards/{name}" for name in REWARDS.values())]
    return Drawn(figure, rows[drawn])


def draw_dynamics(axis: Axes, rows: pd.DataFrame) -> None:
    """The rewards of one arm (rows of one or more seeds) against the optimiser step.

    Lines are means over seeds; bands are 95 % t intervals where there is more than one.
    """
    for name in (*RESPONSES, "margins"):
        how = look(name)
        series = rows.pivot(index="step", columns="seed", values=f"rewards/{name}")
        mean, n = series.mean(axis=1), series.shape[1]
        axis.plot(mean, how.dash, color=how.color, label=how.name, linewidth=1.8)
        if n > 1:
            half = stats.t.ppf(0.975, n - 1) * series.sem(axis=1)
            band: Any = {"color": how.color, "alpha": 0.15, "linewidth": 0}
            axis.fill_between(series.index, mean - half, mean + half, **band)
    axis.axhline(0, color=GREY, linewidth=0.8)
    axis.set_xlabel("optimiser step")


def figure_4(profile: str = "nano") -> Drawn:
    """The three forms in full, without y_ws and without y_wt."""
    names, arms = [], []
    for form, (full, plain) in FORMS.items():
        names += [f"{form} form", f"{form}: no y_ws", f"{form}: no y_wt"]
        arms += [full, f"{plain}_on", f"{plain}_hybrid"]
    rows = Results(profile).levels(arms)
    with drawing(height=4.0) as (figure, axis):
        draw_rows(axis, rows, names)
        for below in (2.5, 5.5):
            axis.axhline(below, color=GREY, linewidth=0.8)
        axis.set_xlabel(RIGHT)
    return Drawn(figure, rows.assign(name=names))


def figure_5(profile: str = "nano") -> Drawn:
    """Against α_max: what is right, and how often y_ws and y_wt rank above y_l (held out)."""
    results, alphas = Results(profile), [label / 100 for label in LABELS]
    arms = [f"wrpo_a{label}" for label in LABELS]
    readings = {"accuracy": "source_chosen", "accuracy_wt": "target_chosen"}
    right = results.levels(["dpo_on", *arms, "dpo_hybrid"])
    drawn = [right.assign(panel="right")]
    with drawing(2, 6.0, sharex=True) as (figure, (top, bottom)):
        draw_line(top, alphas, right[1:-1], look("wrpo"))
        for at, row in ((0, right[:1]), (1, right[-1:])):
            draw_line(top, [at], row, look(row["arm"].iloc[0])._replace(dash=""))
        top.set_ylabel("% of samples right")
        top.legend()
        for of, name in readings.items():
            rows = results.levels(arms, of)
            how = look(name)
            draw_line(bottom, alphas, rows, how._replace(name=f"{how.name} above y_l"))
            drawn.append(rows.assign(panel=of))
        bottom.set(xlabel="α_max", ylabel="% of held-out pairs")
        bottom.legend()
    return Drawn(figure, pd.concat(drawn))


def figure_6(profile: str = "nano") -> Drawn:
    """An α that rises against a constant one: with the same label, and with the same mean."""
    results = Results(profile)
    kinds = {
        "wrpo_a": look("wrpo")._replace(name="rising from 0 to α"),
        "wrpo_const_a": Look("constant at α", "#D55E00", "s", "--"),
        "wrpo_const_m": Look("constant at α/2, the same mean", "#0072B2", "o", ":"),
    }
    drawn = []
    with drawing(height=3.6) as (figure, axis):
        for shift, (prefix, how) in zip((-0.008, 0, 0.008), kinds.items(), strict=True):
            rows = results.levels([f"{prefix}{label}" for label in LABELS[:3]])
            draw_line(axis, [label / 100 + shift for label in LABELS[:3]], rows, how)
            drawn.append(rows)
        axis.set(xlabel="α (the label of the run)", ylabel="% of samples right")
        figure.legend(loc="outside lower center")
    return Drawn(figure, pd.concat(drawn))
