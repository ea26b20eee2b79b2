"""The paper's tables, named as there, with ours beside them; and tables of our own.

The paper's values are quoted from its version 1. Ours are shares of samples that are exactly right
on held-out prompts, in per cent, with 95 % intervals over worlds. The two scales are not
comparable; the order is, and a gain as a share of another gain.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from wrpo_lib.analysis.outcomes import Results
from wrpo_lib.analysis.statistics import Estimate, mean_interval
from wrpo_lib.figures.paper import DYNAMICS
from wrpo_lib.figures.study import CONTROLS, METHODS
from wrpo_lib.figures.style import look
from wrpo_lib.nano.development import RULES
from wrpo_lib.paper import table
from wrpo_lib.recipes import read_yaml
from wrpo_lib.records import read_results

BESIDE = read_yaml(Path(__file__).parents[1] / "paper" / "arms.yml")
ENDS = {
    "margin": "margin",
    "reward_ws": "reward of y_ws",
    "reward_wt": "reward of y_wt",
    "reward_l": "reward of y_l",
    "accuracy": "y_ws above y_l",
    "accuracy_wt": "y_wt above y_l",
}
MEASURES = {
    "right": "right, %",
    "greedy": "greedy, %",
    "any5": "any of five, %",
    "style": "sources' wording, %",
    "repeats": "repeats, %",
    "length": "tokens",
}
PURPOSES = {
    "sft_greedy": ("Target-SFT right, greedy", "neither hopeless nor perfect"),
    "source_lead": (
        "weakest source minus target, greedy",
        "every source can teach",
    ),
    "b_pass5": ("class B, any of five samples of Target-SFT right", "its own pairs cannot teach B"),
    "b_source_right": ("class B, y_ws right", "the sources' responses can"),
    "b_learnable": ("class B, gain of SFT on true answers", "B can be learned in as many steps"),
    "gap_nats": ("y_wt minus y_ws in nats, under Target-SFT", "the deviation is there"),
    "length_ratio": ("length of y_ws by that of y_wt", "and is not one of length"),
    "rank_correlation": (
        "rank correlation of reward and truth",
        "the reward helps and errs",
    ),
}
"""What each of the world's rules measures, and what it is for."""
DOSED = ("wrpo_a10", "wrpo_a30", "wrpo_a50", "wrpo_const_a10", "wrpo_const_a30", "wrpo_const_a50")
ASKED = ("source_1", "target", "target_sft", "dpo_on", "dpo_hybrid", "wrpo", "sft_more")
"""Whose answers are shown."""


def levels(
    results: Results, arms: Sequence[str], of: str = "right", prompts: str = "all"
) -> list[str]:
    """``value [low, high]`` of each arm, in per cent, or tokens for the length."""
    rows = results.levels(arms, of, prompts)
    return [Estimate(row.value, row.low, row.high, 0, 0, "").text(1) for row in rows.itertuples()]


def beside(name: str, results: Results) -> pd.DataFrame:
    """The rows of one of the paper's tables, with or without an arm of ours, then our own rows."""
    spec = BESIDE[name]
    arms, columns = spec["arms"], spec["columns"]
    theirs = table(spec["file"], as_printed=True).set_index(spec["label"])[list(columns)]
    rows = theirs.reindex([*theirs.index, *(row for row in arms if row not in theirs.index)])
    rows = rows.rename(columns=columns).rename_axis("paper").reset_index()
    ours = dict(zip(arms.values(), levels(results, list(arms.values())), strict=True))
    rows["ours"] = rows["paper"].map(arms).map(lambda arm: look(arm).name, na_action="ignore")
    rows["right, %"] = rows["paper"].map(arms).map(ours)
    return rows.where(rows.notna(), "")


def table_1(profile: str = "nano") -> pd.DataFrame:
    """Who wins how many prompts: the paper's ten sources and ours, each from the strongest."""
    theirs = table("table01_sources", as_printed=True)
    ours = Results(profile).table("sources")
    wide = 100 * ours.pivot(index="seed", columns="source", values="share")
    wide = wide[wide.mean().sort_values(ascending=False).index]
    rows = theirs.set_axis(["paper", "billion parameters", "% of prompts won"], axis=1)
    found = pd.Series({look(name).name: mean_interval(wide[name]).text(1) for name in wide})
    found = found.rename_axis("ours").rename("ours, % won").reset_index()
    both = pd.concat([rows, found], axis=1).astype(object)
    return both.where(both.notna(), "")


def table_2(profile: str = "nano") -> pd.DataFrame:
    """The main results; explicit fusion and the paper's sources have no counterpart here."""
    results = Results(profile)
    rows = beside("table_2", results)
    costs = results.table("arms").groupby("arm")[["models_held", "tokens_generated"]].mean()
    for column in costs:
        cost = rows["paper"].map(BESIDE["table_2"]["arms"]).map(costs[column])
        rows[column.replace("_", " ")] = cost.map("{:.0f}".format, na_action="ignore").fillna("")
    return rows


def table_3(profile: str = "nano") -> pd.DataFrame:
    """Other objectives; the paper gives SimPO and its WRPO form different margins γ."""
    return beside("table_3", Results(profile))


def table_4(profile: str = "nano") -> pd.DataFrame:
    """The number of sources: the paper's 1, 2, 5, 10 and our 1, 2, 3, 6."""
    return beside("table_4", Results(profile))


def table_5(profile: str = "nano") -> pd.DataFrame:
    """The paper's search ranges (``profile`` is not read)."""
    return table("table05_search_ranges", as_printed=True)


def table_6(profile: str = "nano") -> pd.DataFrame:
    """The paper's chosen hyperparameters (``profile`` is not read)."""
    return table("table06_hyperparameters", as_printed=True)


def table_7(profile: str = "nano") -> pd.DataFrame:
    """What else the model could do: the Open LLM Leaderboard; ours by class of skills."""
    results = Results(profile)
    rows = beside("table_7", results).drop(columns="right, %")
    arms = rows["paper"].map(BESIDE["table_7"]["arms"])
    for letter, name in (("C", "known (C), %"), ("D", "never trained (D), %")):
        rows[name] = levels(results, arms, prompts=letter)
    return rows


def table_8(profile: str = "nano") -> pd.DataFrame:
    """Time to train: the paper's minutes, and our mean CPU seconds per world."""
    seconds = Results(profile).table("arms").groupby("arm")["cpu_seconds"].mean()
    names = ["sources", "DPO, minutes", "WRPO, minutes", "increase, %"]
    rows = table("table08_runtime", as_printed=True).set_axis(names, axis=1)
    ours = seconds[list(BESIDE["table_4"]["arms"].values())].tolist()
    return rows.assign(
        **{"our sources": [1, 2, 3, 6], "DPO-on, s": seconds["dpo_on"], "WRPO, s": ours}
    )


def table_9(profile: str = "nano") -> pd.DataFrame:
    """Which source responses: best and second best, and two groups of sources."""
    return beside("table_9", Results(profile))


def table_10(profile: str = "nano") -> pd.DataFrame:
    """A source's worst response on the rejected side."""
    return beside("table_10", Results(profile))


def table_11(profile: str = "nano") -> pd.DataFrame:
    """The paper's models on the hub (``profile`` is not read)."""
    return table("table11_model_ids")


def table_12(profile: str = "nano", prompts: int = 4, seed: int = 0) -> pd.DataFrame:
    """In place of the paper's one case: greedy answers to prompts drawn at random.

    A right answer carries a mark.
    """
    rows = Results(profile).table("responses")
    rows = rows[rows["arm"].isin(ASKED)]
    asked = rows[["seed", "prompt"]].drop_duplicates().reset_index(drop=True)
    drawn = np.random.default_rng(seed).choice(len(asked), min(prompts, len(asked)), replace=False)
    rows = rows.merge(asked.loc[sorted(drawn)], on=["seed", "prompt"])
    marks = np.where(rows["right"].astype(bool), " ✓", "")
    rows = rows.assign(
        response=rows["response"] + marks, arm=rows["arm"].map(lambda a: look(a).name)
    )
    wide = rows.pivot(index="arm", columns=["seed", "prompt"], values="response")
    texts = rows.drop_duplicates(["seed", "prompt"]).set_index(["seed", "prompt"])["prompt_text"]
    wide.columns = [f"{texts[key]} (world {key[0]})" for key in wide.columns]
    return wide.loc[[look(arm).name for arm in ASKED]].rename_axis("model").reset_index()


def measures(profile: str = "nano") -> pd.DataFrame:
    """What else to know of every method: correctness three ways, wording, length, repetition."""
    results, arms = Results(profile), (*METHODS, *CONTROLS)
    rows = pd.DataFrame({"method": [look(arm).name for arm in arms]})
    for of, name in MEASURES.items():
        rows[name] = levels(results, arms, of)
    return rows.assign(diverged=[results.diverged.get(arm, 0) for arm in arms])


def rules(profile: str = "nano") -> pd.DataFrame:
    """The world's rules, and what they came to: mean over worlds (lowest to highest world).

    On the development worlds, which the rules were met on, and on those of ``profile``.
    """
    found = {
        "development worlds": read_results("development", "headroom"),
        "reported worlds": Results(profile).table("headroom"),
    }
    rows = []
    for name, (low, high) in RULES.items():
        asked = f"{low:g} to {high:g}" if np.isfinite(high) else f"at least {low:g}"
        rows.append([*PURPOSES[name], asked])
        for worlds in found.values():
            mean, least, most = worlds[name].agg(["mean", "min", "max"])
            rows[-1].append(f"{mean:.2f} ({least:.2f} to {most:.2f})")
    return pd.DataFrame(rows, columns=["measure", "what for", "asked", *found])


def deviation(profile: str = "nano") -> pd.DataFrame:
    """Nats of source and own responses under each model, per response and per token."""
    rows = Results(profile).table("deviation")
    sums = rows.groupby(["model", "whose"])[["logp", "tokens"]].sum()
    nats = rows.groupby(["model", "whose"])["logp"].mean()
    found = pd.DataFrame({"per response": nats, "per token": sums["logp"] / sums["tokens"]})
    wide = found.unstack("whose").swaplevel(axis=1).sort_index(axis=1)
    wide.columns = [f"{look(whose).name}, nats {per}" for whose, per in wide.columns]
    return wide.rename(lambda arm: look(arm).name).rename_axis("model").reset_index()


def dynamics(profile: str = "nano") -> pd.DataFrame:
    """Rewards, margin and accuracies at the end of training, on held-out quadruples."""
    results = Results(profile)
    rows: dict[str, dict[str, str]] = {look(arm).name: {} for arm in DYNAMICS}
    for of, name in ENDS.items():
        wide = results.wide(of)
        for arm in DYNAMICS:
            rows[look(arm).name][name] = mean_interval(wide[arm]).text()
    return pd.DataFrame(rows).T.rename_axis("method").reset_index()


def dose(profile: str = "nano") -> pd.DataFrame:
    """Mean weight of y_ws over training, and its mean share in the preferred responses' gradient.

    The share is of the norms of what y_ws and y_wt add to the gradient, weights included.
    """
    rows = Results(profile).table("dynamics").query("split == 'train'")
    means = rows.groupby(["arm", "seed"])[["alpha", "source_share"]].mean()
    found = []
    for arm in DOSED:
        weight, share = (mean_interval(100 * means.loc[arm, of]).text(1) for of in means)
        found.append((look(arm).name, weight, share))
    return pd.DataFrame(found, columns=["method", "weight, %", "share of the gradient, %"])
