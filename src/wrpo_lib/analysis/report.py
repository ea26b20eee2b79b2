"""Every number that the book's prose shows, computed from tracked results by name.

Pages glue what :func:`numbers` returns; no number is typed into prose.
"""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import pandas as pd

from wrpo_lib.analysis.outcomes import Results
from wrpo_lib.analysis.statistics import Estimate, signed
from wrpo_lib.analysis.verdicts import Verdict, verdict_table, verdicts
from wrpo_lib.errors import WRPOError
from wrpo_lib.io import write_atomically
from wrpo_lib.nano.development import RULES
from wrpo_lib.paper.plan import read_plan
from wrpo_lib.records import read_results, results_dir

Number = float | int | str
ABOUT = (
    *("n_seeds", "n_prompts", "n_arms", "results_minutes", "results_commit", "delta"),
    "alpha_max",
)
"""What the study was; each claim has ``<id>`` and ``status_<id>`` beside these."""
SYMBOLS = {"y_ws": r"\yws", "y_wt": r"\ywt", "y_l": r"\yl", "α_max": r"\alpha_{\max}"}
SEEN = (
    *("wrpo_a", "wrpo_b", "wrpo_c", "wrpo_d", "wrpo_ahead", "wrpo_worst", "wrpo_repeats"),
    *("small_alpha", "small_alpha_ahead", "weak_worlds"),
)
"""What was looked at after the runs, to explain the verdicts; the plan does not have it."""
DEVELOPMENT = ("n_development", "n_settings", "development_gain")
"""On how many worlds and settings a method each was tuned, and what DPO-on gained there."""


def numbers(profile: str = "nano") -> dict[str, Number]:
    """Values to glue: of the study, of the development runs, and of published judgements.

    Where results are refused, words that say so stand in for theirs.
    """
    ids = [claim.id.replace("-", "_") for claim in read_plan().claims]
    of_study = [*ABOUT, *SEEN, *ids, *(f"status_{name}" for name in ids)]
    found: dict[str, Number] = dict.fromkeys([*of_study, *DEVELOPMENT], "(no valid results)")
    for make in (lambda: study_numbers(profile), development_numbers):
        with suppress(WRPOError):
            found |= make()
    return found | published_numbers()


def study_numbers(profile: str) -> dict[str, Number]:
    """How large the study was, and what each claim came to: estimate, interval, unit, status."""
    results = Results(profile)
    rows, run = results.outcomes, results.run
    prompts = int(rows.groupby("seed")["prompt"].nunique().max())
    minutes, delta = round(run["seconds"] / 60), f"{100 * (results.plan.delta or 0):.1f}"
    alpha_max = run["world"]["arms"]["wrpo"]["alpha"]
    about = (len(results.plan.seeds), prompts, rows["arm"].nunique(), minutes, run["commit"])
    found: dict[str, Number] = dict(zip(ABOUT, (*about, delta, alpha_max), strict=True))
    for verdict in verdicts(results):
        name = verdict.claim.id.replace("-", "_")
        found |= {name: verdict.ours(), f"status_{name}": verdict.status}
    return found | dict(zip(SEEN, seen(results), strict=True))


def seen(results: Results) -> list[Number]:
    """The values of ``SEEN``: WRPO − DPO-on by class of skills and by world, also at α_max 0.1.

    In points, with 95 % intervals that are not corrected for looking; then in how many worlds WRPO
    is ahead, its worst one, the largest share (%) of samples that repeat letters in one, and in how
    many a source is less than 20 points above the target.
    """
    gain = {"wrpo": 1.0, "dpo_on": -1.0}
    points = [results.differences({"": gain}, prompts=k) for k in "ABCD"]
    points.append(results.differences({"": {"wrpo_a10": 1.0, "dpo_on": -1.0}}))
    a, b, c, d, small = (
        Estimate(row["value"], row["low"], row["high"], 0, 0, "").text(1)
        for row in (rows.iloc[0] for rows in points)
    )
    worlds = results.wide("right").groupby("seed").mean()
    ahead, small_ahead = (worlds[arm] - worlds["dpo_on"] for arm in ("wrpo", "wrpo_a10"))
    repeats = results.wide("repeats")["wrpo"].groupby("seed").mean().max()
    weak = results.table("headroom")["source_lead"] < RULES["source_lead"][0]
    worst, most = signed(100 * ahead.min(), 1), f"{100 * repeats:.0f}"
    shown: list[Number] = [a, b, c, d, int((ahead > 0).sum()), worst, most]
    return [*shown, small, int((small_ahead > 0).sum()), int(weak.sum())]


def development_numbers() -> dict[str, Number]:
    """What the settings were chosen on, and the gain that δ is a tenth of, in points."""
    rows = read_results("development", "grid")
    right = rows.groupby("arm")["sampled"].mean()
    settings = rows.groupby("method")["arm"].nunique()
    gain = f"{100 * (right['dpo_on'] - right['target_sft']):.1f}"
    return dict(
        zip(DEVELOPMENT, (rows["seed"].nunique(), int(settings["wrpo"]), gain), strict=True)
    )


def findings(profile: str = "nano") -> str:
    """A sentence for each confirmatory claim, as a Markdown list."""
    found = verdicts(Results(profile))
    return "\n".join(f"- {sentence(v)}" for v in found if v.claim.confirmatory)


def sentence(verdict: Verdict) -> str:
    """A claim, its status and what was found."""
    where = f"{verdict.claim.where}: {verdict.claim.paper.words}"
    first = f"**{verdict.status.capitalize()}.** {verdict.claim.statement} ({where})"
    return maths(f"{first} Ours: {verdict.ours()}. {verdict.remark()}".strip())


def maths(text: str) -> str:
    """Plain symbols of a claim as mathematics for a page."""
    for plain, symbol in SYMBOLS.items():
        text = text.replace(plain, f"${symbol}$")
    return text


def write_verdicts(profile: str = "nano") -> None:
    """Write ``results/<profile>/verdicts.csv``."""
    rows = verdict_table(verdicts(Results(profile)))
    path = results_dir(profile) / "verdicts.csv"
    write_atomically(path, rows.to_csv(index=False, lineterminator="\n"))


def published_numbers() -> dict[str, Number]:
    """What published judgements of real models give; every key starts with ``published_``."""
    rows, mt_bench = (read_results("published", name) for name in ("alpaca_eval2", "mt_bench"))
    arena = read_results("published", "arena_hard").iloc[0]
    rated = rows.dropna(subset=["lc_interval"])
    moved = (rows["lc_by_position"] - rows["lc_interval"]).abs()
    seen = read_results("published", "detectable").set_index(["benchmark", "statistic"])["median"]

    def half_width(table: Any, name: str) -> Any:
        return (table[f"{name}_high"] - table[f"{name}_low"]) / 2

    found = {
        "models": len(rated),
        "lc_ratio": (
            half_width(rated, "lc_interval") / (1.96 * rated["lc_standard_error"])
        ).median(),
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
    wide = rows.pivot(index="variant", columns="workload", values="shown")
    wide = wide.loc[list(run["variants"])]
    return wide.rename(run["variants"]).rename_axis(columns=None).reset_index()


def memory_table() -> pd.DataFrame:
    """A row per variant: GiB at the peak of a fresh process, and its share of the official."""
    run = measured()
    table = pd.DataFrame(run["memory"]).replace({"variant": run["variants"]})
    return table.set_axis(["variant", "peak, GiB", "of the official"], axis=1)


def gpu_table() -> pd.DataFrame:
    """A row per card, model, workload and variant of ``make gpu``; no row where it has not run."""
    columns = ["model", "workload", "attention", "times padded", "examples per second"]
    columns += ["share of the card's peak", "peak GiB", "planned GiB"]
    runs = [json.loads(path.read_text("utf-8")) for path in results_dir("gpu").glob("*.json")]
    rows = [{"card": run["card"], **row} for run in runs for row in run["steps"]]
    return pd.DataFrame(rows, columns=["card", *columns])
