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
    ("dpo_hybrid", "target_sft"),
    ("wrpo", "target_sft"),
    ("dpo_hybrid", "dpo_on"),
    ("wrpo", "dpo_on"),
    ("wrpo_alpha05", "dpo_on"),
    ("wrpo", "dpo_hybrid"),
    ("dpo_off", "target"),
    ("dpo_on_target", "target"),
)
"""Model and baseline of each difference that a claim or a page is about."""


def sampled_scores(profile: str) -> pd.DataFrame:
    """One row per (seed, model): true quality of samples on the test split."""
    return read_results(profile, "scores").query("decoding == 'sampled'")


def deviation_by_seed(profile: str) -> pd.DataFrame:
    """Mean log-probability (nats per response) by seed, policy and kind of response."""
    rows = read_results(profile, "deviation")
    return rows.groupby(["seed", "policy", "kind"])["logp"].mean().unstack("kind").reset_index()


def quantities(profile: str) -> dict[str, Estimate]:
    """The differences that claims are about, each paired within the seed."""
    scores = sampled_scores(profile)
    before = deviation_by_seed(profile).query("policy == 'target'")
    own_minus_source = paired_difference(before["own"], before["source"])
    return {"own_minus_source_before": own_minus_source} | {
        f"{model}_minus_{baseline}": difference(scores, model, baseline)
        for model, baseline in PAIRS
    }


def numbers(profile: str = "nano") -> dict[str, Number]:
    """Values to glue: plain numbers, and ``value [low, high]`` texts (keys ending in ``_ci``)."""
    run, differences = read_run(profile), quantities(profile)
    splits = run["world"]["splits"]
    spread = sampled_scores(profile).query("model == 'dpo_on'")["quality"]
    found: dict[str, Number] = {
        "n_seeds": len(run["seeds"]),
        "n_test": int(splits["test"]),
        "n_train": int(splits["train"]),
        "n_sources": len(run["world"]["sources"]),
        "results_minutes": run["seconds"] / 60,
        "results_commit": run["commit"],
        "noise_dpo_on": float(spread.max() - spread.min()),
    }
    for name, estimate in differences.items():
        found |= {name: estimate.value, f"{name}_ci": estimate.text()}
    for claim in claims():
        found[f"status_{claim['id'].replace('-', '_')}"] = status(differences[claim["quantity"]])
    return found | _deviation_numbers(profile) | published_numbers()


def _deviation_numbers(profile: str) -> dict[str, Number]:
    """Log-probabilities of own and source responses, per response and per token."""
    means = deviation_by_seed(profile).groupby("policy")[["own", "source"]].mean()
    before = read_results(profile, "deviation").query("policy == 'target'")
    found: dict[str, Number] = {"n_deviation": len(before) // 2}
    totals = before.groupby("kind")[["logp", "n_tokens"]].sum()
    for kind in ("own", "source"):
        found |= {f"logp_{kind}_{policy}": float(v) for policy, v in means[kind].items()}
        logp, n_tokens = totals.loc[kind]
        found[f"logp_token_{kind}_target"] = float(logp / n_tokens)
    return found


def published_numbers() -> dict[str, Number]:
    """What published judgements of real models give; every key starts with ``published_``."""
    rows, mt_bench = (read_results("published", name) for name in ("alpaca_eval2", "mt_bench"))
    arena = read_results("published", "arena_hard").iloc[0]
    rated = rows.dropna(subset=["lc_low"])
    upstream = 1.96 * rated["lc_standard_error"]
    moved = (rows["lc_by_position"] - rows["lc"]).abs()
    seen = read_results("published", "detectable").set_index(["benchmark", "statistic"])["median"]
    return {
        "published_models": len(rated),
        "published_lc_ratio": float((_half_width(rated, "lc") / upstream).median()),
        "published_lc_moved": float(moved.max()),
        "published_lc_moved_model": str(rows.loc[moved.idxmax(), "model"]),
        "published_position": float(rated["position_effect"].mean()),
        "published_position_positive": int((rated["position_effect_low"] > 0).sum()),
        "published_mt_models": len(mt_bench),
        "published_mt_clustered": float(_half_width(mt_bench, "overall").mean()),
        "published_mt_naive": float(_half_width(mt_bench, "naive").mean()),
        "published_arena_score": float(arena["score"]),
        "published_arena_clustered": float(arena["score_high"] - arena["score"]),
        "published_arena_rows": float(_half_width(arena, "rows")),
        "published_detectable_lc": float(seen["alpaca-eval", "lc"]),
        "published_detectable_mt": float(seen["mt-bench", "mean"]),
    }


def _half_width(rows: Any, name: str) -> Any:
    return (rows[f"{name}_high"] - rows[f"{name}_low"]) / 2


def claims() -> list[dict[str, Any]]:
    """The claims and their tests (``paper/claims.yml``)."""
    import yaml

    text = (resources.files("wrpo_lib.paper") / "claims.yml").read_text(encoding="utf-8")
    found: list[dict[str, Any]] = yaml.safe_load(text)
    return found


def status(found: Estimate) -> str:
    """``reproduced``: the 95 % interval lies above 0; ``direction only``: the value does."""
    if found.low > 0:
        return "reproduced"
    return "direction only" if found.value > 0 else "not reproduced"


def claims_table(profile: str = "nano") -> pd.DataFrame:
    """Each claim with our value, interval, n and status."""
    import pandas as pd

    differences = quantities(profile)
    rows = []
    for claim in claims():
        found = differences[claim["quantity"]]
        ours = {
            "nano, 95 % interval": f"{found.text()} {claim['unit']}",
            "seeds": found.n,
            "status": status(found),
        }
        rows.append({name: claim[name] for name in ("claim", "where", "paper")} | ours)
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
                "answers per seed": int(own["n"].iloc[0]),
            }
        )
    return pd.DataFrame(rows)
