"""Every number and table that the book shows, computed from tracked results by name.

Pages glue what :func:`numbers` returns; no number is typed into prose.
"""

from __future__ import annotations

from importlib import resources
from typing import TYPE_CHECKING, Any

from wrpo_lib.analysis.comparison import difference, level
from wrpo_lib.analysis.statistics import Estimate, paired_difference
from wrpo_lib.records import read_results, read_run

if TYPE_CHECKING:
    import pandas as pd

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
STATUSES = ("reproduced", "direction only", "not reproduced")


def sampled_scores(profile: str) -> pd.DataFrame:
    """One row a (seed, model): true quality of samples on the test split."""
    scores = read_results(profile, "scores")
    return scores[scores["decoding"] == "sampled"]


def deviation_by_seed(profile: str) -> pd.DataFrame:
    """Mean log-probability (nats a response) by seed, policy and kind of response."""
    rows = read_results(profile, "deviation")
    return rows.groupby(["seed", "policy", "kind"])["logp"].mean().unstack("kind").reset_index()


def quantities(profile: str) -> dict[str, Estimate]:
    """The differences that claims are about, each paired within the seed."""
    scores, deviation = sampled_scores(profile), deviation_by_seed(profile)
    before = deviation[deviation["policy"] == "target"].sort_values("seed")
    found = {
        "own_minus_source_before": paired_difference(
            before["own"].tolist(), before["source"].tolist()
        )
    }
    pairs = (
        ("dpo_on_target", "dpo_off"),
        ("target_sft", "target"),
        ("dpo_on", "target_sft"),
        ("dpo_hybrid", "target_sft"),
        ("wrpo", "target_sft"),
        ("dpo_hybrid", "dpo_on"),
        ("wrpo", "dpo_on"),
        ("wrpo_alpha05", "dpo_on"),
        ("wrpo", "dpo_hybrid"),
        ("dpo_off", "target"),
        ("dpo_on_target", "target"),
    )
    for model, baseline in pairs:
        found[f"{model}_minus_{baseline}"] = difference(scores, model, baseline)
    return found


def numbers(profile: str = "nano") -> dict[str, float | int | str]:
    """Values to glue: plain numbers, and ``value [low, high]`` texts (keys ending in ``_ci``)."""
    run, scores = read_run(profile), sampled_scores(profile)
    deviation = deviation_by_seed(profile).groupby("policy")[["own", "source"]].mean()
    found: dict[str, float | int | str] = {
        "n_seeds": len(run["seeds"]),
        "n_test": int(run["world"]["splits"]["test"]),
        "n_train": int(run["world"]["splits"]["train"]),
        "n_sources": len(run["world"]["sources"]),
        "n_deviation": len(read_results(profile, "deviation").query("policy == 'target'")) // 2,
        "results_minutes": run["seconds"] / 60,
        "results_commit": run["commit"],
    }
    for policy, row in deviation.iterrows():
        found[f"logp_own_{policy}"] = float(row["own"])
        found[f"logp_source_{policy}"] = float(row["source"])
    totals = read_results(profile, "deviation").query("policy == 'target'").groupby("kind").sum()
    for kind in ("own", "source"):
        logp, n_tokens = totals.loc[kind, ["logp", "n_tokens"]]
        found[f"logp_token_{kind}_target"] = float(logp / n_tokens)
    repeats = repeated_checks(profile)
    for model in NAMES:
        estimate = level(scores, model)
        found[f"quality_{model}"] = estimate.value
        found[f"quality_{model}_ci"] = estimate.text()
        found[f"characters_{model}"] = float(scores[scores["model"] == model]["characters"].mean())
        found[f"repeats_{model}"] = float(repeats[model])
    differences = quantities(profile)
    for name, estimate in differences.items():
        found[name] = estimate.value
        found[f"{name}_ci"] = estimate.text()
    for claim in claims():
        found[f"status_{claim['id'].replace('-', '_')}"] = status(differences[claim["quantity"]])
    spread = scores[scores["model"] == "dpo_on"]["quality"]
    found["noise_dpo_on"] = float(spread.max() - spread.min())
    return found | published_numbers()


def published_numbers() -> dict[str, float | int | str]:
    """What published judgements of real models give; every key starts with ``published_``."""
    rows = read_results("published", "alpaca_eval2")
    rated = rows.dropna(subset=["lc_low"])
    half = (rated["lc_high"] - rated["lc_low"]) / 2
    moved = (rows["lc_by_position"] - rows["lc"]).abs()
    mt_bench = read_results("published", "mt_bench")
    widths = [(mt_bench[f"{k}_high"] - mt_bench[f"{k}_low"]).mean() / 2 for k in
              ("overall", "naive")]  # fmt: skip
    arena = read_results("published", "arena_hard").iloc[0]
    found: dict[str, float | int | str] = {
        "models": len(rated),
        "lc_ratio": float((half / (1.96 * rated["lc_standard_error"])).median()),
        "lc_moved": float(moved.max()),
        "lc_moved_model": str(rows.loc[moved.idxmax(), "model"]),
        "position": float(rated["position_effect"].mean()),
        "position_positive": int((rated["position_effect_low"] > 0).sum()),
        "mt_models": len(mt_bench),
        "mt_clustered": float(widths[0]),
        "mt_naive": float(widths[1]),
        "arena_score": float(arena["score"]),
        "arena_clustered": float(arena["score_high"] - arena["score"]),
        "arena_rows": float((arena["rows_high"] - arena["rows_low"]) / 2),
    }
    seen = read_results("published", "detectable").set_index(["benchmark", "statistic"])["median"]
    for name, key in (("alpaca", ("alpaca-eval", "mean")), ("lc", ("alpaca-eval", "lc")),
                      ("mt", ("mt-bench", "mean"))):  # fmt: skip
        found[f"detectable_{name}"] = float(seen.loc[key])
    return {f"published_{name}": value for name, value in found.items()}


def repeated_checks(profile: str) -> pd.Series:
    """Share of greedy answers that say the check step more than once, by model."""
    import pandas as pd

    seeds = read_run(profile)["seeds"]
    answers = pd.concat([read_results(profile, f"answers_seed{seed}") for seed in seeds])
    greedy = answers[answers["decoding"] == "greedy"]
    counts = greedy["text"].str.count(r"(?<!\S)\d+(?!\S)")
    shares: pd.Series = (counts > 1).groupby(greedy["model"]).mean()
    return shares


def claims() -> list[dict[str, Any]]:
    """The claims and their tests (``paper/claims.yml``)."""
    import yaml

    text = (resources.files("wrpo_lib.paper") / "claims.yml").read_text(encoding="utf-8")
    found: list[dict[str, Any]] = yaml.safe_load(text)
    return found


def status(found: Estimate) -> str:
    """``reproduced``: the 95 % interval lies above 0; ``direction only``: the value does."""
    if found.low > 0:
        return STATUSES[0]
    return STATUSES[1] if found.value > 0 else STATUSES[2]


def claims_table(profile: str = "nano") -> pd.DataFrame:
    """Each claim with our value, interval, n and status."""
    import pandas as pd

    found = quantities(profile)
    rows = []
    for claim in claims():
        estimate = found[claim["quantity"]]
        rows.append(
            {
                "claim": claim["claim"],
                "where": claim["where"],
                "paper": claim["paper"],
                "nano, 95 % interval": f"{estimate.text()} {claim['unit']}",
                "seeds": estimate.n,
                "status": status(estimate),
            }
        )
    return pd.DataFrame(rows)


def headroom_table(profile: str = "nano") -> pd.DataFrame:
    """Target, sources, Target-SFT: sampled, greedy, best of five, exact share; means over seeds."""
    scores = read_results(profile, "scores")
    models = [m for m in dict.fromkeys(scores["model"]) if m.startswith("source-")]
    models = ["target", "target_sft", *models]
    wide = scores.pivot_table(index="model", columns="decoding", values=["quality", "exact"])
    table = wide.loc[models]
    return table["quality"][["sampled", "greedy", "best_of_5"]].assign(
        **{"exact answers": table["exact"]["sampled"]}
    )


def methods_table(profile: str = "nano") -> pd.DataFrame:
    """Every policy of the target: quality of samples with interval, exact and check shares."""
    import pandas as pd

    scores = sampled_scores(profile)
    rows = []
    for model, name in NAMES.items():
        own = scores[scores["model"] == model]
        rows.append(
            {
                "policy": name,
                "quality, 95 % interval over seeds": level(scores, model).text(3),
                "exact": own["exact"].mean(),
                "check step": own["check"].mean(),
                "characters": own["characters"].mean(),
                "seeds": len(own),
                "answers a seed": int(own["n"].iloc[0]),
            }
        )
    return pd.DataFrame(rows)
