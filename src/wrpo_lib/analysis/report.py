"""Every number and table that the book shows, computed from tracked results by name.

Pages glue what :func:`numbers` returns; no number is typed into prose. A seed is a whole
replication, so an interval over seeds holds all variation there is; with three seeds it is honest
and wide (t = 4.3).
"""

from __future__ import annotations

import json
from importlib import resources
from typing import Any

import pandas as pd
import yaml

from wrpo_lib.analysis.statistics import Estimate, mean_interval, paired_difference
from wrpo_lib.records import read_results, read_run, results_dir

Number = float | int | str

NAMES = {
    "target": "Target",
    "target_sft": "Target-SFT",
    "dpo_off": "DPO-off (raw target)",
    "dpo_on_target": "DPO-on (raw target)",
    "dpo_on": "Target-SFT, DPO-on",
    "dpo_hybrid": "Target-SFT, DPO-hybrid",
    "wrpo": "Target-SFT, WRPO, α to 0.1",
    "wrpo_alpha05": "Target-SFT, WRPO, α to 0.5",
}
PAIRS = (
    ("dpo_on_target", "dpo_off"),
    ("target_sft", "target"),
    ("dpo_on", "target_sft"),
    ("wrpo", "target_sft"),
    ("wrpo", "dpo_on"),
    ("wrpo", "dpo_hybrid"),
    ("dpo_off", "target"),
    ("dpo_on_target", "target"),
)
"""Model and baseline of each difference that a claim or a page is about."""


def sampled_scores(profile: str) -> pd.DataFrame:
    """One row per (seed, model): true quality of samples on the test split."""
    return read_results(profile, "scores").query("decoding == 'sampled'")


def level(scores: pd.DataFrame, model: str) -> Estimate:
    """Mean quality of a model over seeds; ``scores`` has one row per (seed, model)."""
    return mean_interval(scores.loc[scores["model"] == model, "quality"])


def difference(scores: pd.DataFrame, model: str, baseline: str) -> Estimate:
    """Mean quality of model - baseline over seeds, paired within the seed."""
    quality = scores.pivot(index="seed", columns="model", values="quality")
    return paired_difference(quality[model], quality[baseline])


def deviation_by_seed(profile: str) -> pd.DataFrame:
    """Mean log-probability (nats per response) by seed, policy and kind of response."""
    rows = read_results(profile, "deviation")
    return rows.groupby(["seed", "policy", "kind"])["logp"].mean().unstack("kind").reset_index()


def quantities(profile: str) -> dict[str, Estimate]:
    """The differences that claims are about, each paired within the seed."""
    scores = sampled_scores(profile)
    before = deviation_by_seed(profile).query("policy == 'target'")
    found = {"own_minus_source_before": paired_difference(before["own"], before["source"])}
    for model, baseline in PAIRS:
        found[f"{model}_minus_{baseline}"] = difference(scores, model, baseline)
    return found


def numbers(profile: str = "nano") -> dict[str, Number]:
    """Values to glue: plain numbers, and ``value [low, high]`` texts (keys ending in ``_ci``)."""
    run, differences = read_run(profile), quantities(profile)
    quality = sampled_scores(profile).query("model == 'dpo_on'")["quality"]
    rows = read_results(profile, "deviation")
    before = rows[rows["policy"] == "target"]
    tokens = before.groupby("kind")[["logp", "n_tokens"]].sum()
    found: dict[str, Number] = {
        "n_seeds": len(run["seeds"]),
        "n_test": int(run["world"]["splits"]["test"]),
        "n_train": int(run["world"]["splits"]["train"]),
        "n_deviation": len(before) // 2,
        "results_minutes": run["seconds"] / 60,
        "results_commit": run["commit"],
        "noise_dpo_on": float(quality.max() - quality.min()),
    }
    found |= {f"{name}_ci": estimate.text() for name, estimate in differences.items()}
    for claim in claims():
        found[f"status_{claim['id'].replace('-', '_')}"] = status(differences[claim["quantity"]])
    for (kind, policy), mean in rows.groupby(["kind", "policy"])["logp"].mean().items():
        found[f"logp_{kind}_{policy}"] = float(mean)
    for kind, mean in (tokens["logp"] / tokens["n_tokens"]).items():
        found[f"logp_token_{kind}_target"] = float(mean)
    found |= published_numbers()
    return {name: float(v) if isinstance(v, float) else v for name, v in found.items()}


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
    return {f"published_{name}": value for name, value in found.items()}


def claims() -> list[dict[str, Any]]:
    """The claims and their tests (``paper/claims.yml``)."""
    text = (resources.files("wrpo_lib.paper") / "claims.yml").read_text(encoding="utf-8")
    return list(yaml.safe_load(text))


def status(found: Estimate) -> str:
    """``reproduced``: the 95 % interval lies above 0; ``direction only``: the value does."""
    if found.low > 0:
        return "reproduced"
    return "direction only" if found.value > 0 else "not reproduced"


def claims_table(profile: str = "nano") -> pd.DataFrame:
    """Each claim with our value, interval, n and status."""
    differences, rows = quantities(profile), []
    for claim in claims():
        found = differences[claim["quantity"]]
        row = {name: claim[name] for name in ("claim", "where", "paper")}
        row["nano, 95 % interval"] = f"{found.text()} {claim['unit']}"
        rows.append({**row, "seeds": found.n, "status": status(found)})
    return pd.DataFrame(rows)


def headroom_table(profile: str = "nano") -> pd.DataFrame:
    """Target, sources, Target-SFT: sampled, greedy, best of five, exact share; means over seeds."""
    scores = read_results(profile, "scores")
    sources = [m for m in scores["model"].unique() if m.startswith("source-")]
    wide = scores.pivot_table(index="model", columns="decoding", values=["quality", "exact"])
    wide = wide.loc[["target", "target_sft", *sources]]
    table = wide["quality"][["sampled", "greedy", "best_of_5"]]
    return table.assign(**{"exact answers": wide["exact"]["sampled"]})


def methods_table(profile: str = "nano") -> pd.DataFrame:
    """Every policy of the target: quality of samples with interval, exact and check shares."""
    scores, rows = sampled_scores(profile), []
    for model, name in NAMES.items():
        own = scores[scores["model"] == model]
        quality = level(scores, model).text(3)
        means = own[["exact", "check", "characters"]].mean()
        rows.append((name, quality, *means, len(own), own["n"].iloc[0]))
    columns = ["policy", "quality, 95 % interval over seeds", "exact", "check step", "characters"]
    return pd.DataFrame(rows, columns=[*columns, "seeds", "answers per seed"])


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
