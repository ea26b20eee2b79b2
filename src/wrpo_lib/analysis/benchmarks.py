"""What ``benchmarks/train_step.py`` measured, as ratios, tables and numbers for the page."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from wrpo_lib.errors import WRPOError
from wrpo_lib.records import read_results, read_run, results_dir

if TYPE_CHECKING:
    import pandas as pd

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
"""Ways to compute WRPO's step, in the order of the page."""
PAIRS = {
    "trl": "TRL's DPOTrainer",
    "trl_cached": "TRL's DPOTrainer, reference cached",
    "pair": "ours, reference cached",
}
"""Ways to compute DPO's step on the pairs (y_wt, y_l)."""
MACHINES = {"the one above": "", "of another make": "_other"}
"""Processors that were timed, with the ending of their tables' names."""


DISTURBED = 0.7
"""A step is left out where the machine's matmul rate fell below this share of the best one."""


def undisturbed(rows: pd.DataFrame) -> pd.DataFrame:
    """The steps that nothing else held up, by the machine's rate just before each."""
    return rows[rows["rate"] >= DISTURBED * rows["rate"].max()]


def speedups(rows: pd.DataFrame) -> pd.DataFrame:
    """Seconds of the baseline over those of each way, a row a turn, for one workload's ``rows``.

    Missing where either step is; a way without any has no column. The baseline is the official
    arithmetic, for DPO on pairs TRL's trainer. A way is compared on the batch of the same turn, a
    few minutes apart at most, so that the machine's slower changes of speed hit both.
    """
    wide = rows.pivot(index="turn", columns="way", values="seconds")
    wide = wide.reindex(columns=wide.columns.union(["official", "all", "reference", "trl"]))
    wide[ONE_PASS] = wide["all"] + wide["reference"]
    base = {way: wide["trl" if way in PAIRS else "official"] for way in wide}
    found = wide.apply(lambda seconds: base[seconds.name] / seconds)
    return found.dropna(axis=1, how="all")


def quartiles(rows: pd.DataFrame) -> pd.DataFrame:
    """Columns ``low``, ``median``, ``high`` of the speed-ups, a row a way of these turns."""
    found = speedups(rows).quantile([0.25, 0.5, 0.75]).T
    found.columns = ["low", "median", "high"]
    return found


def matmul_shares(rows: pd.DataFrame, rate: str = "rate") -> pd.Series[float]:
    """Share of a matmul rate that each step reaches, each unique token counted once.

    ``rate`` is the better rate the machine reached just before the step, ``torch_rate`` torch's.
    """
    return rows["gflops"] / rows["seconds"] / rows[rate]


def code_ratios(rows: pd.DataFrame) -> pd.DataFrame:
    """Of the authors' own code over the baseline, a row a turn: ``seconds``, ``cpu_seconds``."""
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
    run = measured()
    detail = run["detail"]
    found: dict[str, float | int | str] = {
        k: v for k, v in detail.items() if isinstance(v, int | float) and not isinstance(v, bool)
    }
    found |= {f"peak_{way}": gib for way, gib in detail["peak_gib"].items()}
    counts = _turns()
    found |= {f"turns_{load}": int(n) for load, n in counts["all"].items()}
    found |= {f"passes_{load}": int(n) for load, n in counts[ONE_PASS].items()}
    others = counts.drop(columns=["official", "all", ONE_PASS, "trl"])
    for load, row in others.iterrows():
        least, most = int(row.min()), int(row.max())
        found[f"full_{load}"] = str(most) if least == most else f"{least} to {most}"
    found["left_out"] = sum(detail["turns_left_out"].values())
    steady = read_results(PROFILE, "steady")
    shares = matmul_shares(steady)
    medians = shares.groupby(steady["workload"]).median()
    found |= {f"share_{load}": share for load, share in medians.items()}
    found |= {"share_least": float(shares.min()), "share_most": float(shares.max())}
    found["share_steps"] = len(shares)
    code = code_ratios(read_results(PROFILE, "official_code"))
    for name, ratios in code.items():
        low, median, high = ratios.quantile([0.25, 0.5, 0.75])
        found |= {f"code_{name}": median, f"code_{name}_low": low, f"code_{name}_high": high}
    found["code_turns"] = len(code)
    found |= _of_other()
    found["memory_steps"] = int(read_results(PROFILE, "memory")["step"].max())
    found |= _in_own_processes()
    found |= {
        "commit": run["commit"],
        "machine": run["machine"],
        "processor": run["processor"],
    }
    return found


def _turns(ending: str = "") -> pd.DataFrame:
    """How many ratios of each way there are: a row a workload, a column a way."""
    import pandas as pd

    rows = undisturbed(read_results(PROFILE, f"steps{ending}"))
    counts = {load: speedups(part).count() for load, part in rows.groupby("workload")}
    return pd.DataFrame(counts).T.reindex(columns=[*WAYS, *PAIRS]).fillna(0).astype(int)


def _in_own_processes() -> dict[str, float]:
    """The speed-up where each way has a process of its own, and what the official way maps in."""
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
    }


def _of_other() -> dict[str, int | str]:
    """About the run on a processor of another make."""
    turns = _turns("_other")["all"]
    found: dict[str, int | str] = {f"other_turns_{load}": int(n) for load, n in turns.items()}
    run = read_run(PROFILE)["parts"]["steps_other"]
    found["other_share_steps"] = len(read_results(PROFILE, "steady_other"))
    return {**found, "other_commit": run["commit"]}


def ways_table(ways: dict[str, str]) -> pd.DataFrame:
    """A row a way: median speed-up and its quartiles on each workload."""
    import pandas as pd

    rows = undisturbed(read_results(PROFILE, "steps"))
    by_load = {load: speedups(part) for load, part in rows.groupby("workload", sort=False)}
    table = []
    for way, name in ways.items():
        line: dict[str, Any] = {"way": name}
        for load, found in by_load.items():
            line[f"{load} prompts"] = _shown(found.get(way, pd.Series(dtype=float)).dropna())
        table.append(line)
    return pd.DataFrame(table)


def _shown(ratios: pd.Series[float]) -> str:
    """Median with quartiles, which one alone does not have."""
    if ratios.empty:
        return "every ratio left out"
    if len(ratios) == 1:
        return f"{ratios.iloc[0]:.2f} (one ratio)"
    low, median, high = ratios.quantile([0.25, 0.5, 0.75])
    return f"{median:.2f} [{low:.2f}, {high:.2f}]"


def machines_table() -> pd.DataFrame:
    """A column a processor: the main speed-ups with quartiles, what steps reach of its rate."""
    import pandas as pd

    table = []
    for machine, suffix in MACHINES.items():
        steps = undisturbed(read_results(PROFILE, f"steps{suffix}"))
        steady = read_results(PROFILE, f"steady{suffix}")
        line: dict[str, str] = {"processor": machine}
        for load, rows in steps.groupby("workload", sort=False):
            found = speedups(rows)
            for way, about in ((ONE_PASS, "one pass"), ("all", "cached")):
                line[f"{load}, {about}"] = _shown(found[way])
        for load, shares in matmul_shares(steady).groupby(steady["workload"], sort=False):
            line[f"share, {load}"] = (
                f"{shares.median():.0%} [{shares.min():.0%}, {shares.max():.0%}]"
            )
        rates = steady[["torch_rate", "rate"]].median()
        line["GFLOP/s, torch and best"] = f"{rates['torch_rate']:.0f}, {rates['rate']:.0f}"
        table.append(line)
    return pd.DataFrame(table).set_index("processor").T.rename_axis("").reset_index()


def memory_table() -> pd.DataFrame:
    """Peak resident memory of a fresh process for each way, over two steps and over all."""
    rows = read_results(PROFILE, "memory")
    wide = rows.pivot(index="way", columns="step", values="peak_gib").loc[rows["way"].unique()]
    last = wide.columns.max()
    table = wide[[2, last]].set_axis(["GiB over two steps", f"over {last} steps"], axis=1)
    table["of the official"] = wide[last] / wide.loc["official", last]
    return table.rename(index={**WAYS, **PAIRS}).reset_index()
