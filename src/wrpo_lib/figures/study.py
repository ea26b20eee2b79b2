"""Figures that the paper does not have: skills, settings, length, and when it pays."""

import numpy as np
import pandas as pd
from matplotlib.patches import Rectangle

from wrpo_lib.analysis.outcomes import Results, estimate, spread
from wrpo_lib.figures.paper import RIGHT
from wrpo_lib.figures.style import Drawn, draw_cells, draw_line, draw_rows, drawing, look, reach
from wrpo_lib.nano.world import KNOBS
from wrpo_lib.records import read_results, read_run

METHODS = (
    *("target", "target_sft", "dpo_off", "target_dpo_on", "dpo_on", "simpo_on", "ipo_on"),
    *("dpo_hybrid", "wrpo", "wrpo_a50", "wrpo_simpo", "wrpo_ipo", "sft_more"),
)
CONTROLS = ("dpo_on_10", "dpo_mix", "dpo_mix_const", "wrpo_spare", "wrpo_wrong")
COMPARED = ("target_sft", "dpo_on", "dpo_hybrid", "wrpo", "wrpo_a50", "sft_more")
"""What starts from Target-SFT, and Target-SFT itself."""

SETTINGS = {"beta": "β", "tau": "τ", "alpha": "α", "learning_rate": "learning rate"}
CLASSES = {"A": "half\nknown", "B": "sources\nonly", "C": "known", "D": "never\ntrained"}


def comparison(profile: str = "nano") -> Drawn:
    """Every method started from Target-SFT: what is right, and the difference to DPO-on."""
    results = Results(profile)
    right = results.levels(COMPARED)
    others = [arm for arm in COMPARED if arm != "dpo_on"]
    rows = results.differences({arm: {arm: 1, "dpo_on": -1} for arm in others})
    with drawing(2, 5.4) as (figure, (top, bottom)):
        draw_rows(top, right)
        top.set_xlabel(RIGHT)
        draw_rows(bottom, rows)
        bottom.axvline(0)
        bottom.set_xlabel("difference to DPO-on, points (paired)")
    return Drawn(figure, pd.concat([right.assign(panel="right"), rows.assign(panel="difference")]))


def headroom(profile: str = "nano") -> Drawn:
    """Target, Target-SFT and sources: samples, greedy answers, and any of five samples."""
    results, drawn = Results(profile), []
    sources = sorted(arm for arm in results.wide("right") if arm.startswith("source_"))
    arms = ["target", "target_sft", *sources]
    kinds = {"right": ("o", -0.2), "greedy": ("s", 0), "any5": ("D", 0.2)}
    with drawing(height=3.6) as (figure, axis):
        for of, (marker, shift) in kinds.items():
            rows = results.levels(arms, of)
            draw_rows(axis, rows, shift=shift, marker=marker, markersize=5, capsize=2)
            drawn.append(rows.assign(of=of))
        axis.set_xlabel("% right, held-out prompts")
        names = ["samples", "greedy", "any of five"]
        figure.legend(axis.containers[:: len(arms)], names, loc="outside lower center", ncols=3)
    return Drawn(figure, pd.concat(drawn))


def skills(profile: str = "nano") -> Drawn:
    """Classes of skills × methods: the share of samples that are right, and its interval."""
    results = Results(profile)
    rows = pd.concat(results.levels(METHODS, "right", k).assign(column=k) for k in CLASSES)
    half = (rows["high"] - rows["low"]) / 2
    rows["text"] = rows["value"].map("{:.0f}".format) + half.map(" ±{:.0f}".format)
    wide = rows.pivot(index="arm", columns="column").loc[list(METHODS)]
    wide.index = [look(arm).name for arm in METHODS]
    with drawing(height=5.6) as (figure, axis):
        draw_cells(axis, wide["value"].rename(lambda k: f"{k}: {CLASSES[k]}", axis=1), wide["text"])
        axis.xaxis.tick_top()
    return Drawn(figure, rows)


def grid(profile: str = "nano") -> Drawn:
    """Development worlds: learning rate × β (IPO: τ) of each method, then α of WRPO.

    Cells are % of samples right, means over worlds; a frame marks what the study ``profile`` uses.
    """
    recipe, rows = read_run(profile)["world"], read_results("development", "grid")
    rows = rows[rows["arm"].str.contains("/")]
    rows = rows.assign(value=100 * rows["sampled"])
    means = rows.groupby("arm", sort=False)["value"].mean()
    panels = rows.groupby("method", sort=False)
    with drawing(len(panels), 1.7 * len(panels)) as (figure, axes):
        for axis, (method, own) in zip(axes, panels, strict=True):
            name, across = ("wrpo", "alpha") if method == "alpha" else (method, "learning_rate")
            arm = recipe["arms"][name]
            form = arm.get("form", "dpo")
            used, down = recipe["forms"][form] | arm | arm.get("settings", {}), KNOBS[form]
            cells = own.pivot_table(index=down, columns=across, values="value")
            draw_cells(axis, cells, cells.map("{:.1f}".format), means.min(), means.max())
            at = (cells.index == used[down])[:, None] & (cells.columns == used[across])
            for y, x in np.argwhere(at):
                axis.add_patch(Rectangle((x - 0.5, y - 0.5), 1, 1, fill=False, linewidth=2))
            axis.set_title(f"{look(name).name}: {SETTINGS[down]} by {SETTINGS[across]}")
    return Drawn(figure, means.reset_index())


def length(profile: str = "nano") -> Drawn:
    """What is right against the tokens of a sample, for every method."""
    results = Results(profile)
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
    results, drawn = Results(profile), []
    right = results.wide("right")
    gain, known = right["wrpo"] - right["dpo_on"], right["target_sft"]
    bins = {"none": known == 0, "up to half": known.between(0, 0.5, "right"), "more": known > 0.5}
    panels = {
        "dose of SFT before it": _gains(results, "map_dose"),
        "noise of the reward": _gains(results, "map_noise"),
        "samples of Target-SFT that are right": spread(
            {name: estimate(gain[chosen]) for name, chosen in bins.items()}
        ),
    }
    with drawing(3, 7.6) as (figure, axes):
        for axis, (name, rows) in zip(axes, panels.items(), strict=True):
            draw_line(axis, range(len(rows)), rows, look("wrpo"))
            axis.set_xticks(range(len(rows)), rows["arm"])
            axis.axhline(0)
            axis.set(xlabel=name, ylabel="WRPO − DPO-on,\npoints")
            drawn.append(rows.assign(panel=name))
    return Drawn(figure, pd.concat(drawn))


def _gains(results: Results, arms: str) -> pd.DataFrame:
    """The gain at each level of a map."""
    levels = enumerate(("low", "middle", "high"))
    gains = {name: {f"{arms}{k}_wrpo": 1.0, f"{arms}{k}_dpo_on": -1.0} for k, name in levels}
    return results.differences(gains)
