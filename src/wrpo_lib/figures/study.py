"""Figures that the paper does not have: of the study, of its judge and of published judgements."""

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from wrpo_lib.analysis.outcomes import estimate, spread
from wrpo_lib.evaluation.scores import length_controlled, win_rate
from wrpo_lib.figures.paper import RIGHT, study
from wrpo_lib.figures.style import Drawn, draw_line, draw_rows, drawing, look, name_rows, reach
from wrpo_lib.nano.judge import Judge, judge_alpaca
from wrpo_lib.nano.world import KNOBS
from wrpo_lib.paper import JUDGED
from wrpo_lib.records import read_results, read_run

METHODS = (
    *("target", "target_sft", "dpo_off", "target_dpo_on", "dpo_on", "simpo_on", "ipo_on"),
    *("dpo_hybrid", "wrpo", "wrpo_a50", "wrpo_simpo", "wrpo_ipo", "sft_more"),
)
COMPARED = ("target_sft", "dpo_on", "dpo_hybrid", "wrpo", "wrpo_a50", "sft_more")
SETTINGS = {"alpha": "α", "beta": "β", "gamma": "γ", "tau": "τ", "learning_rate": "learning rate"}
CLASSES = {"A": "half\nknown", "B": "sources\nonly", "C": "known", "D": "never\ntrained"}
BIASED = "dpo_hybrid"  # whose answers the biased judges see
FILLER = 18  # the most characters that are put behind one


def comparison(profile: str = "nano") -> Drawn:
    """Target-SFT and every method started from it: what is right, the difference to DPO-on."""
    results = study(profile)
    right = results.levels(COMPARED)
    others = (arm for arm in COMPARED if arm != "dpo_on")
    rows = results.differences({arm: {arm: 1.0, "dpo_on": -1.0} for arm in others})
    with drawing(2, 5.4) as (figure, (top, bottom)):
        draw_rows(top, right, RIGHT)
        draw_rows(bottom, rows, "difference to DPO-on, points (paired)")
        bottom.axvline(0)
    return Drawn(figure, pd.concat([right.assign(panel="right"), rows.assign(panel="difference")]))


def headroom(profile: str = "nano") -> Drawn:
    """Target, Target-SFT and sources: samples, greedy answers, and any of five samples."""
    results, drawn = study(profile), []
    sources = sorted(arm for arm in results.wide("right") if arm.startswith("source_"))
    arms = ["target", "target_sft", *sources]
    kinds = {"right": ("o", -0.2), "greedy": ("s", 0), "any5": ("D", 0.2)}
    with drawing(height=3.6) as (figure, axis):
        for of, (marker, shift) in kinds.items():
            drawn.append(results.levels(arms, of).assign(of=of))
            draw_rows(axis, drawn[-1], shift=shift, marker=marker, markersize=5, capsize=2)
        axis.set_xlabel("% right, held-out prompts")
        names = ["samples", "greedy", "any of five"]
        figure.legend(axis.containers[:: len(arms)], names, loc="outside lower center", ncols=3)
    return Drawn(figure, pd.concat(drawn))


def skills(profile: str = "nano") -> Drawn:
    """Classes of skills × methods: the share of samples that are right, and its interval."""
    results = study(profile)
    rows = pd.concat(results.levels(METHODS, "right", k).assign(column=k) for k in CLASSES)
    half = (rows["high"] - rows["low"]) / 2
    rows["text"] = rows["value"].map("{:.0f}".format) + half.map(" ±{:.0f}".format)
    wide = rows.pivot(index="arm", columns="column").loc[list(METHODS)]
    wide = wide.rename(lambda arm: look(arm).name)
    with drawing(height=5.6) as (figure, axis):
        cells = wide["value"].rename(lambda k: f"{k}: {CLASSES[k]}", axis=1)
        _draw_cells(axis, cells, wide["text"], 0, 100)
        axis.xaxis.tick_top()
    return Drawn(figure, rows)


def grid(profile: str = "nano") -> Drawn:
    """Learning rate × β (IPO: τ) of each method, then α of WRPO: % right in development worlds.

    A frame marks what the study ``profile`` uses.
    """
    recipe, rows = read_run(profile)["world"], read_results("development", "grid")
    rows = rows[rows["arm"].str.contains("/")].assign(value=100 * rows["sampled"])
    means = rows.groupby("arm", sort=False)["value"].mean()
    panels = rows.groupby("method", sort=False)
    with drawing(len(panels), 1.7 * len(panels)) as (figure, axes):
        for axis, (method, own) in zip(axes, panels, strict=True):
            name, across = ("wrpo", "alpha") if method == "alpha" else (method, "learning_rate")
            arm = recipe["arms"][name]
            form = arm.get("form", "dpo")
            used, down = recipe["forms"][form] | arm | arm.get("settings", {}), KNOBS[form]
            cells = own.pivot_table(index=down, columns=across, values="value")
            _draw_cells(axis, cells, cells.map("{:.1f}".format), means.min(), means.max())
            at = (cells.index == used[down])[:, None] & (cells.columns == used[across])
            for y, x in np.argwhere(at):
                axis.add_patch(Rectangle((x - 0.5, y - 0.5), 1, 1, fill=False, linewidth=2))
            axis.set_title(f"{look(name).name}: {SETTINGS[down]} by {SETTINGS[across]}")
    return Drawn(figure, means.reset_index())


def _draw_cells(
    axis: Axes, values: pd.DataFrame, texts: pd.DataFrame, low: float, high: float
) -> None:
    """A heat map of ``values`` between ``low`` and ``high``, pale enough to read its ``texts``."""
    axis.imshow(values, cmap="Greys", vmin=low, vmax=high + 0.6 * (high - low), aspect="auto")
    for (y, x), text in np.ndenumerate(texts.to_numpy()):
        axis.text(x, y, text, ha="center", va="center", fontsize=11)
    axis.set_xticks(range(values.shape[1]), values.columns)
    name_rows(axis, values.index)
    axis.grid(visible=False)


def length(profile: str = "nano") -> Drawn:
    """What is right against the tokens of a sample, for every method."""
    results = study(profile)
    right, tokens = results.levels(METHODS), results.levels(METHODS, "length")
    with drawing(height=5.0) as (figure, axis):
        for k, how in enumerate(map(look, METHODS)):
            x, y = tokens.iloc[[k]], right.iloc[[k]]
            mark = {"color": how.color, "marker": how.marker, "label": how.name, "markersize": 7}
            axis.errorbar(x["value"], y["value"], reach(y), reach(x), linestyle="", **mark)
        axis.set(xlabel="tokens per sample", ylabel="% of samples right")
        figure.legend(loc="outside lower center", ncols=2)
    return Drawn(figure, right.merge(tokens, on="arm", suffixes=("", "_tokens")))


def pays(profile: str = "nano") -> Drawn:
    """The gain of WRPO over DPO-on by the dose of SFT, the reward's noise, and what is sampled."""
    results, panels = study(profile), []
    for name, arms in (("dose of SFT before it", "dose"), ("noise of the reward", "noise")):
        levels = {k: f"map_{arms}{n}" for n, k in enumerate(("low", "middle", "high"))}
        gains = {k: {f"{arm}_wrpo": 1.0, f"{arm}_dpo_on": -1.0} for k, arm in levels.items()}
        panels.append(results.differences(gains).assign(panel=name))
    right = results.wide("right")
    gain, known = right["wrpo"] - right["dpo_on"], right["target_sft"]
    bins = {"none": known == 0, "up to half": known.between(0, 0.5, "right"), "more": known > 0.5}
    sampled = spread({name: estimate(gain[chosen]) for name, chosen in bins.items()})
    panels.append(sampled.assign(panel="samples of Target-SFT that are right"))
    with drawing(3, 7.6) as (figure, axes):
        for axis, rows in zip(axes, panels, strict=True):
            draw_line(axis, range(len(rows)), rows, look("wrpo"))
            axis.set_xticks(range(len(rows)), rows["arm"])
            axis.axhline(0)
            axis.set(xlabel=rows["panel"].iloc[0], ylabel="WRPO − DPO-on,\npoints")
    return Drawn(figure, pd.concat(panels))


def protocols(profile: str = "nano") -> Drawn:
    """The three benchmarks' protocols on nano answers, means over worlds with their intervals."""
    results, drawn = study(profile), []
    with drawing(3, 7.2) as (figure, axes):
        for axis, protocol in zip(axes, JUDGED, strict=True):
            arms = [arm for arm in METHODS if arm in results.wide(protocol)]
            drawn.append(results.levels(arms, protocol).assign(protocol=protocol))
            draw_rows(axis, drawn[-1])
            axis.set_title(look(protocol).name)
    return Drawn(figure, pd.concat(drawn))


def published_intervals() -> Drawn:
    """Half-widths of LC intervals of real models, upstream's by refits; the effect of position."""
    rows = read_results("published", "alpaca_eval2").dropna(subset=["lc_interval"])
    rows = rows.sort_values("position_effect")
    upstream = 1.96 * rows["lc_standard_error"]
    refit = rows["lc_interval_high"] - rows["lc_interval"]
    limits = (0, float(refit.max()) * 1.05)
    effect = rows.filter(like="position_effect").set_axis(["value", "low", "high"], axis=1)
    with drawing(2, 6.4) as (figure, (top, bottom)):
        top.plot(upstream, refit, "o", color=look("dpo_on").color, alpha=0.7)
        top.axline((0, 0), slope=1, linestyle="--", label="equal")
        top.legend()
        top.set(xlim=limits, ylim=limits, ylabel="half of the refit interval, points")
        top.set_xlabel("1.96 × upstream's standard error, points")
        drawn = {"color": look("dpo_off").color, "markersize": 3, "elinewidth": 0.8}
        bottom.errorbar(effect["value"], range(len(rows)), None, reach(effect), "o", **drawn)
        bottom.axvline(0)
        bottom.set(yticks=[], ylabel="published models")
        bottom.set_xlabel("shown second minus shown first, points")
    return Drawn(figure, rows)


def corrections(profile: str = "nano") -> Drawn:
    """Win rates (%) of DPO-hybrid in the first world under growing bias of the judge.

    The dashed line is what a judge without it says. For the length bias, filler makes the answers
    longer on average but not always, and no better.
    """
    run, found, columns = read_run(profile), [], ["panel", "strength", "estimate", "value"]
    baseline = run["world"]["evaluation"]["baseline"]
    answers = read_results(profile, "answers").query("arm in [@BIASED, @baseline]")
    answers = answers[answers["seed"] == run["seeds"][0]]
    filled = with_filler(answers, np.where(answers["arm"] == BIASED, FILLER, FILLER // 2))
    for bias, shown in (("position", answers), ("length", filled)):
        for strength in (0.0, 0.5, 1.0, 1.5, 2.0):
            one: Any = {"position": 0.0, "length": 0.0, bias: strength}
            judged = judge_alpaca(shown, baseline, Judge(**one))
            rates = {"both orders": win_rate(judged)["win_rate"]}
            if bias == "position":
                second = judged["order"] == "baseline first"
                rates["shown second only"] = win_rate(judged[second])["win_rate"]
                rates["shown first only"] = win_rate(judged[~second])["win_rate"]
            else:
                rates["length-controlled"] = length_controlled(judged)["length_controlled_winrate"]
            found += [(f"{bias} bias", strength, name, value) for name, value in rates.items()]
    table = pd.DataFrame(found, columns=columns)
    panels = table.groupby("panel", sort=False)
    with drawing(2, 5.6, sharex=True) as (figure, axes):
        for axis, (panel, rows) in zip(axes, panels, strict=True):
            for name, own in rows.groupby("estimate", sort=False):
                how = look(name)
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
    """Answers with up to ``most`` characters behind each, so that there is a length to control."""
    filler = np.random.default_rng(0).integers(0, most + 1, len(answers))
    return answers.assign(response=answers["response"] + ["." * n for n in filler])
