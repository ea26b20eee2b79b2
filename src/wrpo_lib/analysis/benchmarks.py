"""What ``benchmarks/train_step.py`` measured, as ratios, tables and numbers for the page."""

from __future__ import annotations

import json
from typing import Any

import pandas as pd

from wrpo_lib.errors import WRPOError
from wrpo_lib.records import read_results, read_run, results_dir

PROFILE = "benchmarks"
ONE_PASS = "all, one reference pass"
WAYS = {
    "official": "official arithmetic",
    "sharing": "prompt sharing alone",
    "head": "head at responses alone",
    "cached": "reference once alone",
    "layers": "layers for a CPU alone",
    ONE_PASS: "all, reference pass counted",
    "all": "all, reference cached",
    "saving": "all, cached, checkpointing",
}
"""Variants of WRPO's step, in the order of the page."""
PAIRS = {
    "trl": "TRL's DPOTrainer",
    "trl_cached": "TRL's DPOTrainer, reference cached",
    "pair": "ours, reference cached",
}
"""Variants of DPO's step on the pairs (y_wt, y_l)."""
MACHINES = {"the one above": "", "of another make": "_other"}
"""Processors that were timed, with the ending of their tables' names."""
DISTURBED = 0.7
"""A step is left out where the machine's matmul rate fell below this share of the best one."""


def undisturbed(rows: pd.DataFrame) -> pd.DataFrame:
    """The steps that nothing else held up, by the machine's rate just before each."""
    return rows[rows["rate"] >= DISTURBED * rows["rate"].max()]


def speedups(rows: pd.DataFrame) -> pd.DataFrame:
    """Seconds of the baseline over those of each variant, one row per turn, for one workload.

    Missing where either step is; a variant without any has no column. The baseline is the official
    arithmetic, for DPO on pairs TRL's trainer. A variant is compared on the batch of the same turn,
    a few minutes apart at most, so that the machine's slower changes of speed hit both.
    """
    wide = rows.pivot(index="turn", columns="way", values="seconds")
    wide = wide.reindex(columns=wide.columns.union(["official", "all", "reference", "trl"]))
    wide[ONE_PASS] = wide["all"] + wide["reference"]
    base = {way: wide["trl" if way in PAIRS else "official"] for way in wide}
    found = wide.apply(lambda seconds: base[seconds.name] / seconds)
    return found.dropna(axis=1, how="all")


def quartiles(rows: pd.DataFrame) -> pd.DataFrame:
    """Columns ``low``, ``median``, ``high`` of the speed-ups, one row per variant."""
    found = speedups(rows).quantile([0.25, 0.5, 0.75]).T
    return found.set_axis(["low", "median", "high"], axis=1)


def matmul_shares(rows: pd.DataFrame, rate: str = "rate") -> pd.Series[float]:
    """Share of a matmul rate that each step reaches, each unique token counted once.

    ``rate`` is the better rate the machine reached just before the step, ``torch_rate`` torch's.
    """
    return rows["gflops"] / rows["seconds"] / rows[rate]


def code_ratios(rows: pd.DataFrame) -> pd.DataFrame:
    """Of the authors' own code over the baseline, per turn: ``seconds``, ``cpu_seconds``."""
    wide = rows.pivot(index="turn", columns="side", values=["seconds", "cpu_seconds"])
    return wide.xs("official code", axis=1, level=1) / wide.xs("baseline", axis=1, level=1)


def measured() -> dict[str, Any]:
    """``results/benchmarks/train_step.json``: provenance, and the summary under ``detail``."""
    path = results_dir(PROFILE) / "train_step.json"
    if not path.is_file():
        raise WRPOError(f"{path} is missing; run benchmarks/train_step.py")
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def numbers() -> dict[str, float | int | str]:
    """Names and values for the page: what the JSON holds as single numbers, and about the run."""
    run, counts = measured(), _turns("")
    found = {k: v for k, v in run["detail"].items() if type(v) in (int, float)}
    found |= {name: run[name] for name in ("commit", "machine", "processor")}
    found["left_out"] = sum(run["detail"]["turns_left_out"].values())
    for load, row in counts.iterrows():
        others = row.drop(["official", "all", ONE_PASS, "trl"])
        least, most = int(others.min()), int(others.max())
        found[f"turns_{load}"], found[f"passes_{load}"] = int(row["all"]), int(row[ONE_PASS])
        found[f"full_{load}"] = str(most) if least == most else f"{least} to {most}"
    steady = read_results(PROFILE, "steady")
    shares = matmul_shares(steady)
    medians = shares.groupby(steady["workload"]).median()
    found |= {f"share_{load}": share for load, share in medians.items()}
    found |= {"share_least": float(shares.min()), "share_most": float(shares.max())}
    found["share_steps"] = len(shares)
    return found | _of_official_code() | _of_other() | _in_own_processes()


def _turns(suffix: str) -> pd.DataFrame:
    """How many ratios of each variant there are: one row per workload, one column per variant."""
    rows = undisturbed(read_results(PROFILE, f"steps{suffix}"))
    counts = {load: speedups(part).count() for load, part in rows.groupby("workload")}
    return pd.DataFrame(counts).T.reindex(columns=[*WAYS, *PAIRS]).fillna(0).astype(int)


def _of_official_code() -> dict[str, Any]:
    code = code_ratios(read_results(PROFILE, "official_code"))
    found: dict[str, Any] = {"code_turns": len(code)}
    for name, ratios in code.items():
        low, median, high = ratios.quantile([0.25, 0.5, 0.75])
        found |= {f"code_{name}": median, f"code_{name}_low": low, f"code_{name}_high": high}
    return found


def _in_own_processes() -> dict[str, Any]:
    """The speed-up where each variant has its own process, and what the official one maps in."""
    rows = read_results(PROFILE, "memory")
    wide = rows[rows["step"] > 1].pivot(index="step", columns="way", values=["seconds", "faults"])
    ratio = wide["seconds"]["official"] / wide["seconds"]["all"]
    turns = read_results(PROFILE, "steps").query("workload == 'ordinary' and way == 'official'")
    return {
        "alone": float(ratio.median()),
        "alone_least": float(ratio.min()),
        "alone_most": float(ratio.max()),
        "faults_alone": float(wide["faults"]["official"].median() / 1e6),
        "faults_turns": float(turns["faults"].median() / 1e6),
        "memory_steps": int(rows["step"].max()),
    }


def _of_other() -> dict[str, Any]:
    """About the run on a processor of another make."""
    turns = {f"other_turns_{load}": int(n) for load, n in _turns("_other")["all"].items()}
    steps = len(read_results(PROFILE, "steady_other"))
    commit = read_run(PROFILE)["parts"]["steps_other"]["commit"]
    return {**turns, "other_share_steps": steps, "other_commit": commit}


def ways_table(ways: dict[str, str]) -> pd.DataFrame:
    """One row per variant: median speed-up and its quartiles on each workload."""
    rows = undisturbed(read_results(PROFILE, "steps"))
    table = pd.DataFrame({"way": ways.values()}, index=list(ways))
    for load, part in rows.groupby("workload", sort=False):
        found = speedups(part).reindex(columns=list(ways))
        table[f"{load} prompts"] = [_shown(found[way].dropna()) for way in ways]
    return table.reset_index(drop=True)


def _shown(ratios: pd.Series[float]) -> str:
    """Median with quartiles, which one alone does not have."""
    if ratios.empty:
        return "every ratio left out"
    if len(ratios) == 1:
        return f"{ratios.iloc[0]:.2f} (one ratio)"
    low, median, high = ratios.quantile([0.25, 0.5, 0.75])
    return f"{median:.2f} [{low:.2f}, {high:.2f}]"


def machines_table() -> pd.DataFrame:
    """One column per processor: the main speed-ups, and the share of its rate that steps reach."""
    table: dict[str, dict[str, str]] = {}
    for machine, suffix in MACHINES.items():
        steps = undisturbed(read_results(PROFILE, f"steps{suffix}"))
        steady = read_results(PROFILE, f"steady{suffix}")
        line = table[machine] = {}
        for load, rows in steps.groupby("workload", sort=False):
            found = speedups(rows)
            line[f"{load}, one pass"] = _shown(found[ONE_PASS])
            line[f"{load}, cached"] = _shown(found["all"])
        for load, shares in matmul_shares(steady).groupby(steady["workload"], sort=False):
            spread = f"[{shares.min():.0%}, {shares.max():.0%}]"
            line[f"share, {load}"] = f"{shares.median():.0%} {spread}"
        rates = steady[["torch_rate", "rate"]].median()
        line["GFLOP/s, torch and best"] = f"{rates['torch_rate']:.0f}, {rates['rate']:.0f}"
    return pd.DataFrame(table).rename_axis(columns="processor").reset_index(names="")


def memory_table() -> pd.DataFrame:
    """Peak resident memory of a fresh process for each variant, over two steps and over all."""
    rows = read_results(PROFILE, "memory")
    wide = rows.pivot(index="way", columns="step", values="peak_gib").loc[rows["way"].unique()]
    last = wide.columns.max()
    table = wide[[2, last]].set_axis(["GiB over two steps", f"over {last} steps"], axis=1)
    table["of the official"] = wide[last] / wide.loc["official", last]
    return table.rename(index={**WAYS, **PAIRS}).reset_index()
