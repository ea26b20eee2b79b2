"""``results/smol``: numbers of the real-text study, without any text.

Fixed before the first run was looked at: who wins y_ws (Wilson intervals), mean reward and length
of each model (t intervals over prompts), whether y_ws is longer than y_wt and y_wt than y_l,
the rank correlation of reward with length (bootstrap over prompts), what two models' responses to
one prompt share, the share that the token limit ended, and what options of pairing change.

Lengths are in tokens of the target's tokenizer, for all models alike, and in characters.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from wrpo_lib.analysis.statistics import (
    Estimate,
    bootstrap_interval,
    mean_interval,
    proportion_interval,
)
from wrpo_lib.quadruples import ResponseTable
from wrpo_lib.quadruples.overlap import words
from wrpo_lib.quadruples.schema import RESPONSES
from wrpo_lib.smol.study import TARGET, Study, paired, run

OPTIONS: dict[str, dict[str, Any]] = {
    "as it is": {},
    "gap of at least 1": {"min_gap": 1.0},
    "gap of at least 3": {"min_gap": 3.0},
    "no truncated response": {"drop_truncated": True},
    "second best source response": {"rank": 2},
}


def response_table(table: ResponseTable, count: Callable[[str], int]) -> pd.DataFrame:
    """A row per scored response; ``text`` is still there and never written."""
    rows = pd.DataFrame(table.fetch(np.arange(len(table))).values())
    rows["prompt_id"] = rows["prompt_id"].str[:12]
    rows["n_tokens"], rows["characters"] = rows["text"].map(count), rows["text"].str.len()
    rows["truncated"] = rows["finish_reason"] == "length"
    names = "prompt_id model sample reward n_tokens characters truncated text"
    return rows[names.split()]


def quadruple_table(rows: list[dict[str, Any]], responses: pd.DataFrame) -> pd.DataFrame:
    """A row per quadruple: rewards, lengths and truncation of its three responses."""
    made = pd.DataFrame(rows)
    made["prompt_id"] = made["prompt_id"].str[:12]
    known = responses.drop_duplicates(["prompt_id", "text"]).set_index(["prompt_id", "text"])
    found = made[["prompt_id", "source_model"]].copy()
    for role in RESPONSES:
        own = known.loc[list(zip(made["prompt_id"], made[role], strict=True))]
        found[f"{role}_reward"] = made[f"{role}_reward"]
        for name in ("n_tokens", "characters", "truncated"):
            found[f"{role}_{name}"] = own[name].to_numpy()
    return found


def _interval(name: str, found: Estimate) -> dict[str, float]:
    return {name: found.value, f"{name}_low": found.low, f"{name}_high": found.high}


def source_table(responses: pd.DataFrame, quadruples: pd.DataFrame) -> pd.DataFrame:
    """Per model: how often it gives y_ws, its mean reward and length, truncated responses."""
    rows, n = [], len(quadruples)
    for name, own in responses.groupby("model"):
        row: dict[str, Any] = {"source": name, "wins": None, "n": n}
        if name != TARGET:
            row["wins"] = int((quadruples["source_model"] == name).sum())
            row |= _interval("share", proportion_interval(row["wins"], n))
        row["responses"] = len(own)
        for field in ("reward", "n_tokens"):
            row |= _interval(field, mean_interval(own[field], own["prompt_id"]))
        rows.append({**row, "truncated": own["truncated"].mean()})
    return pd.DataFrame(rows).astype({"wins": "Int64"})


def length_table(responses: pd.DataFrame) -> pd.DataFrame:
    """Rank correlation of reward and tokens, over all responses and within a prompt."""
    rows = []
    for name, own in (
        ("sources", responses[responses["model"] != TARGET]),
        ("target", responses[responses["model"] == TARGET]),
    ):
        for ranked in ("over all", "within a prompt"):
            found = rank_correlation(own, ranked == "within a prompt")
            row = {"responses": name, "ranked": ranked, **_interval("correlation", found)}
            rows.append({**row, "n": found.n, "prompts": found.n_clusters})
    return pd.DataFrame(rows)


def rank_correlation(rows: pd.DataFrame, within: bool) -> Estimate:
    """Spearman's correlation of reward and tokens; ``within`` ranks and centres by prompt."""
    pair = rows[["reward", "n_tokens"]]
    by_prompt = rows["prompt_id"].to_numpy()
    ranks = pair.groupby(by_prompt).rank() if within else pair.rank()
    if within:
        ranks = ranks - ranks.groupby(by_prompt).transform("mean")
    x, y = ranks["reward"].to_numpy(), ranks["n_tokens"].to_numpy()

    def correlation(counts: np.ndarray) -> float:
        a, b = (v - np.average(v, weights=counts) for v in (x, y))
        spread = (counts * a * a).sum() * (counts * b * b).sum()
        return float((counts * a * b).sum() / np.sqrt(spread)) if spread else float("nan")

    return bootstrap_interval(correlation, by_prompt)


def overlap_table(responses: pd.DataFrame) -> pd.DataFrame:
    """What the first responses of two models to one prompt share: word 3-grams (Jaccard), text."""
    first = responses[responses["sample"] == 0]
    texts = first.pivot(index="prompt_id", columns="model", values="text").dropna()
    rewards = first.pivot(index="prompt_id", columns="model", values="reward").loc[texts.index]
    said = texts.map(words)
    grams = said.map(lambda w: frozenset(zip(w, w[1:], w[2:], strict=False)))
    rows = []
    for a, b in combinations(sorted(texts.columns), 2):
        both = zip(grams[a], grams[b], strict=True)
        shared = [100 * len(x & y) / max(len(x | y), 1) for x, y in both]
        row = {"first": a, "second": b, **_interval("shared", mean_interval(shared))}
        row["same_text"] = int((texts[a] == texts[b]).sum())
        row["reward_correlation"] = rewards[a].corr(rewards[b], method="spearman")
        rows.append({**row, "n": len(texts)})
    return pd.DataFrame(rows)


def option_table(table: ResponseTable, responses: pd.DataFrame) -> pd.DataFrame:
    """What options of pairing keep, and the rewards and lengths of what they keep."""
    rows = []
    for name, options in OPTIONS.items():
        made, counts = paired(table, **options)
        row: dict[str, Any] = {"option": name, **counts}
        if made:
            kept = quadruple_table(made, responses)
            longer = kept["source_chosen_n_tokens"] > kept["target_chosen_n_tokens"]
            row["y_ws_reward"] = kept["source_chosen_reward"].mean()
            row["y_wt_gap"] = (kept["target_chosen_reward"] - kept["rejected_reward"]).mean()
            row["y_ws_longer"] = longer.mean()
        rows.append(row)
    return pd.DataFrame(rows).fillna({"small_gap": 0}).astype({"small_gap": int})


def result_tables(table: ResponseTable, count: Callable[[str], int]) -> dict[str, pd.DataFrame]:
    """All tables of the study; ``count`` counts a text's tokens."""
    responses = response_table(table, count)
    quadruples = quadruple_table(paired(table)[0], responses)
    return {
        "rewards": responses.drop(columns="text"),
        "quadruples": quadruples,
        "sources": source_table(responses, quadruples),
        "lengths": length_table(responses),
        "overlap": overlap_table(responses),
        "pairing": option_table(table, responses),
    }


def make_results(study: Study, model: str | None = None) -> Path:
    """Run the study (finished rows are kept) and write ``results/smol``."""
    from wrpo_lib.figures.map import write_figure_map
    from wrpo_lib.generation import make_engine
    from wrpo_lib.io import file_hash
    from wrpo_lib.models import load_tokenizer, packaged_weights
    from wrpo_lib.records import commit, read_run, write_results

    made_at, place = commit(), model or str(packaged_weights())
    weights = file_hash(Path(place)) if Path(place).is_file() else place
    table = run(study, lambda: make_engine("transformers", place), weights)
    tokenizer = load_tokenizer(place)
    record = {
        "what": "quadruples of real text: a sampled target, published responses of the sources",
        "commit": made_at,
        "target": Path(place).name,
        "weights": weights,
        "sampled": json.loads(study.file(TARGET).with_suffix(".run.json").read_text()),
        "reward": json.loads(study.file("scored").with_suffix(".run.json").read_text())["settings"],
        "reference": study.reference,
        "published": {p.name: file_hash(p) for p in [study.reference_file, *study.source_files]},
        "prompts": study.prompts,
        "seed": study.seed,
    }
    found = result_tables(table, lambda t: len(tokenizer(t, add_special_tokens=False)["input_ids"]))
    folder = write_results("smol", found, record)
    write_figure_map(read_run("nano")["seeds"])
    return folder
