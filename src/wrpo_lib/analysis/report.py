"""Every number that the book's prose shows, computed from tracked results by name."""

import json
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

import pandas as pd

from wrpo_lib.analysis.outcomes import Results, verdicts
from wrpo_lib.analysis.statistics import signed
from wrpo_lib.errors import WRPOError
from wrpo_lib.paper import read_plan
from wrpo_lib.recipes import read_yaml, recipe_path
from wrpo_lib.records import read_results, results_dir

Number = float | int | str
SYMBOLS = {"y_ws": "$y_{w_s}$", "y_wt": "$y_{w_t}$", "y_l": "$y_{l}$", "α_max": r"$\alpha_{\max}$"}


def world_rules() -> dict[str, tuple[float, float]]:
    """What a world must fulfil so that fusion can be seen in it: bounds of each measure."""
    return dict(read_yaml(recipe_path("nano", "world"))["rules"])


def _gain(results: Results, arm: str = "wrpo", prompts: str = "all") -> str:
    """An arm − DPO-on in points, with a 95 % interval that is not corrected for looking."""
    found = results.find({arm: 1.0, "dpo_on": -1.0}, prompts=prompts)
    return found.interval().times(100).text(1)


def _lead(results: Results, arm: str = "wrpo") -> pd.Series:
    """The same in each world, as a share."""
    worlds = results.wide("right").groupby("seed").mean()
    return worlds[arm] - worlds["dpo_on"]


STUDY: dict[str, Callable[[Results], Number]] = {
    "n_seeds": lambda r: len(r.plan.seeds),
    "n_prompts": lambda r: int(r.outcomes.groupby("seed")["prompt"].nunique().max()),
    "results_minutes": lambda r: round(r.run["seconds"] / 60),
    "results_commit": lambda r: r.run["commit"],
    "delta": lambda r: f"{100 * (r.plan.delta or 0):.1f}",
    "alpha_max": lambda r: r.run["world"]["arms"]["wrpo"]["alpha"],
    # looked at after the runs, to explain the verdicts; the plan does not have it
    **{f"wrpo_{k.lower()}": partial(_gain, prompts=k) for k in "ABCD"},
    "wrpo_ahead": lambda r: int((_lead(r) > 0).sum()),
    "wrpo_worst": lambda r: signed(100 * _lead(r).min(), 1),
    "wrpo_repeats": lambda r: f"{100 * r.wide('repeats')['wrpo'].groupby('seed').mean().max():.0f}",
    "small_alpha": partial(_gain, arm="wrpo_a10"),
    "small_alpha_ahead": lambda r: int((_lead(r, "wrpo_a10") > 0).sum()),
    "weak_worlds": lambda r: int(
        (r.table("headroom")["source_lead"] < world_rules()["source_lead"][0]).sum()
    ),
}
"""Of the study; each claim has ``<id>`` and ``status_<id>`` beside these."""


def numbers(profile: str = "nano") -> dict[str, Number]:
    """Values to glue: of the study, of the development runs, and of published judgements; where
    results are refused, words that say so."""
    ids = [claim.id.replace("-", "_") for claim in read_plan().claims]
    names = [*STUDY, *ids, *(f"status_{name}" for name in ids)]
    names += ["n_development", "n_settings", "development_gain"]  # δ is a tenth of the last
    found: dict[str, Number] = dict.fromkeys(names, "(no valid results)")
    with suppress(WRPOError):
        results = Results(profile)
        judged = dict(zip(ids, verdicts(results), strict=True))
        found |= {name: make(results) for name, make in STUDY.items()}
        found |= {name: verdict.ours() for name, verdict in judged.items()}
        found |= {f"status_{name}": verdict.status for name, verdict in judged.items()}
    with suppress(WRPOError):
        grid = read_results("development", "grid")
        right = grid.groupby("arm")["sampled"].mean()
        found["development_gain"] = f"{100 * (right['dpo_on'] - right['target_sft']):.1f}"
        found["n_development"] = grid["seed"].nunique()
        found["n_settings"] = grid.query("method == 'wrpo'")["arm"].nunique()
    return found | published_numbers()


def findings(profile: str = "nano") -> str:
    """A sentence for each confirmatory claim, as a Markdown list."""
    told = []
    for found in verdicts(Results(profile)):
        if (claim := found.claim).confirmatory:
            said = f"- **{found.status.capitalize()}.** {claim.statement} ({claim.where}: "
            said += f"{claim.paper.words}) Ours: {found.ours()}. {found.remark}"
            told.append(said.strip())
    return maths("\n".join(told))


def maths(text: str) -> str:
    """Plain symbols as mathematics, for a page and for a figure."""
    for plain, symbol in SYMBOLS.items():
        text = text.replace(plain, symbol)
    return text


def published_numbers() -> dict[str, Number]:
    """What published judgements of real models give; every key starts with ``published_``."""
    rows, mt_bench = (read_results("published", name) for name in ("alpaca_eval2", "mt_bench"))
    arena = read_results("published", "arena_hard").iloc[0]
    rated = rows.dropna(subset=["lc_interval"])
    moved = (rows["lc_by_position"] - rows["lc_interval"]).abs()
    seen = read_results("published", "detectable").set_index(["benchmark", "statistic"])["median"]

    def half_width(table: Any, name: str) -> Any:
        return (table[f"{name}_high"] - table[f"{name}_low"]) / 2

    ratio = half_width(rated, "lc_interval") / (1.96 * rated["lc_standard_error"])
    found = {
        "models": len(rated),
        "lc_ratio": ratio.median(),
        "lc_moved": moved.max(),
        "lc_moved_model": rows["model"][moved.idxmax()],
        "position": rated["position_effect"].mean(),
        "position_positive": int((rated["position_effect_low"] > 0).sum()),
        "mt_models": len(mt_bench),
        "mt_clustered": half_width(mt_bench, "interval").mean(),
        "mt_naive": half_width(mt_bench, "naive").mean(),
        "arena_score": arena["score"],
        "arena_clustered": half_width(arena, "interval"),
        "arena_rows": half_width(arena, "naive"),
        "detectable_lc": seen["alpaca_eval2", "lc"],
        "detectable_mt": seen["mt_bench", "mean"],
    }
    # glue takes Python's numbers only
    return {f"published_{k}": v.item() if hasattr(v, "item") else v for k, v in found.items()}


def measured() -> dict[str, Any]:
    """``results/benchmarks/train_step.json``: provenance, ``ratios`` and ``memory``."""
    path = results_dir("benchmarks") / "train_step.json"
    return dict(json.loads(path.read_text("utf-8")))


def ratios_table() -> pd.DataFrame:
    """A row per variant: how many times as fast as the official step, median [quartiles]."""
    run = measured()
    rows = pd.DataFrame(run["ratios"])
    rows["shown"] = rows.apply("{median:.2f} [{low:.2f}, {high:.2f}]".format_map, axis=1)
    wide = rows.pivot(index="variant", columns="workload", values="shown").loc[[*run["variants"]]]
    return wide.rename(run["variants"]).rename_axis(columns=None).reset_index()


def memory_table() -> pd.DataFrame:
    """A row per variant: GiB at the peak of a fresh process, and its share of the official."""
    run = measured()
    table = pd.DataFrame(run["memory"]).replace({"variant": run["variants"]})
    return table.set_axis(["variant", "peak, GiB", "of the official"], axis=1)


def gpu_table() -> pd.DataFrame:
    """A row per card, model, workload and variant of ``make gpu``; no row where it has not run."""
    runs = [json.loads(path.read_text("utf-8")) for path in results_dir("gpu").glob("*.json")]
    rows = [{"card": run["card"], **row} for run in runs for row in run["steps"]]
    columns = ["model", "workload", "attention", "times padded", "examples per second"]
    columns += ["share of the card's peak", "peak GiB", "planned GiB"]
    return pd.DataFrame(rows, columns=["card", *columns])
