"""Quadruples of real text, by the stages of ``wrpo sample``, ``score`` and ``pair``.

The target is a real small model (SmolLM2-135M-Instruct), sampled here; the sources are published
responses of real models to AlpacaEval's prompts, one per prompt; the reward is sentence BLEU
against the published response of one more model. The stages' files lie under ``runs/smol/`` and
are never part of the project: the published texts are under CC BY-NC. ``results/smol`` holds
numbers without any text. Lengths are in tokens of the target's tokenizer, for all models alike.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from sacrebleu.metrics import BLEU

from wrpo_lib.analysis.statistics import (
    Estimate,
    bootstrap_interval,
    mean_interval,
    proportion_interval,
)
from wrpo_lib.errors import WRPOError
from wrpo_lib.figures.map import write_figure_map
from wrpo_lib.generation import make_engine
from wrpo_lib.generation.request import Engine, Sampling
from wrpo_lib.generation.stage import keep_record, sample_responses, score_responses
from wrpo_lib.io import Row, file_hash, iter_rows, parse_row, write_rows
from wrpo_lib.models import load_tokenizer, packaged_weights
from wrpo_lib.quadruples import Pairing, ResponseTable, build_rows, read_responses
from wrpo_lib.quadruples.convert import as_responses
from wrpo_lib.quadruples.prompts import read_prompts, words
from wrpo_lib.quadruples.schema import RESPONSES
from wrpo_lib.records import commit, write_results

TARGET = "target"
SAMPLING = Sampling(n=5, temperature=0.8, top_p=0.95, max_tokens=128, seed=0)
"""The paper's, but for the limit: 128 tokens are what a CPU makes in minutes."""

REFERENCE = "gpt4_1106_preview.json.gz"
"""The published file whose responses stand in for a right answer."""

SIZES = ("n_tokens", "characters", "truncated")
OPTIONS: dict[str, dict[str, Any]] = {
    "as it is": {},
    "gap of at least 1": {"min_gap": 1.0},
    "gap of at least 3": {"min_gap": 3.0},
    "no truncated response": {"drop_truncated": True},
    "second best source response": {"rank": 2},
}


@dataclass(frozen=True)
class Study:
    """Where the stages' files lie, and how many prompts are drawn with ``seed``.

    ``published``: a folder of alpaca_eval output files (``<model>.json.gz``), each a source but
    the reference.
    """

    folder: Path
    published: Path
    prompts: int = 120
    seed: int = 0
    sampling: Sampling = SAMPLING

    def hashes(self) -> dict[str, str]:
        """The published files, by name."""
        return {path.name: file_hash(path) for path in sorted(self.published.glob("*.json.gz"))}


def sources(study: Study, references: dict[str, Any]) -> Path:
    """One published response of each source to each prompt drawn.

    Drawn by the seed, from the prompts that the reference and every source answered once.
    """
    out, hashes = study.folder / "sources.jsonl", study.hashes()
    keep_record(out, {"prompts": study.prompts, "seed": study.seed, "published": hashes})
    if out.is_file():
        return out
    files = [study.published / name for name in hashes if name != REFERENCE]
    rows = [row for path in files for row in as_responses(iter_rows(path), str(path))]
    answers = Counter(row["prompt_id"] for row in rows)
    whole = sorted(i for i, n in answers.items() if n == len(files) and i in references)
    if len(whole) < study.prompts:
        raise WRPOError(
            f"{study.published} has {len(whole)} prompts that every file answers once, not "
            f"{study.prompts}; ask for fewer"
        )
    drawn = set(random.Random(study.seed).sample(whole, study.prompts))
    kept = (row for row in rows if row["prompt_id"] in drawn)
    write_rows(({**row, "model": f"source-{row['model']}"} for row in kept), out)
    return out


def run(study: Study, engine: Engine, weights: str) -> ResponseTable:
    """All stages; finished rows are kept. Returns the scored responses."""
    reference, own = study.published / REFERENCE, study.folder / "target.jsonl"
    references: dict[str, list[str]] = {}
    for row in as_responses(iter_rows(reference), str(reference)):
        references.setdefault(row["prompt_id"], []).append(row["text"])
    published = sources(study, references)
    prompts, known = read_prompts(published), {"weights": weights}
    sample_responses(prompts, engine, TARGET, study.sampling, own, settings=known)
    scorer, scored = Bleu(references), study.folder / "scored.jsonl"
    known = {"references": file_hash(reference)}
    for path in (published, own):
        score_responses(iter_rows(path), scorer, scorer.name, scored, settings=known)
    return read_responses([scored])


def paired(table: ResponseTable, **options: Any) -> tuple[list[dict[str, Any]], dict[str, int]]:
    """The quadruples under some options of pairing, and the counts of what was left out."""
    return build_rows(table, Pairing(target=TARGET, **options))


def response_table(table: ResponseTable, count: Callable[[str], int]) -> pd.DataFrame:
    """A row per scored response; ``text`` is still there and never written."""
    rows = pd.DataFrame(table.fetch(np.arange(len(table))).values())
    rows["prompt_id"] = rows["prompt_id"].str[:12]
    rows["n_tokens"], rows["characters"] = rows["text"].map(count), rows["text"].str.len()
    rows["truncated"] = rows["finish_reason"] == "length"
    return rows[["prompt_id", "model", "sample", "reward", *SIZES, "text"]]


def quadruple_table(rows: list[dict[str, Any]], responses: pd.DataFrame) -> pd.DataFrame:
    """A row per quadruple: rewards, lengths and truncation of its three responses."""
    made = pd.DataFrame(rows).assign(prompt_id=lambda d: d["prompt_id"].str[:12])
    known = responses.drop_duplicates(["prompt_id", "text"])[
        ["prompt_id", "text", "reward", *SIZES]
    ]
    found = made[["prompt_id", "source_model", *RESPONSES]]
    for role in RESPONSES:
        own = known.rename(columns={n: f"{role}_{n}" for n in ("reward", *SIZES)})
        found = found.merge(own.rename(columns={"text": role}), on=["prompt_id", role])
    return found.drop(columns=[*RESPONSES])


def source_table(responses: pd.DataFrame, quadruples: pd.DataFrame) -> pd.DataFrame:
    """Per model: how often it gives y_ws, its mean reward and length, truncated responses."""
    rows, n = [], len(quadruples)
    for name, own in responses.groupby("model"):
        row: dict[str, Any] = {"source": name, "wins": None, "n": n}
        if name != TARGET:
            row["wins"] = int((quadruples["source_model"] == name).sum())
            row |= proportion_interval(row["wins"], n).spread("share")
        row["responses"] = len(own)
        for field in ("reward", "n_tokens"):
            row |= mean_interval(own[field], own["prompt_id"]).spread(field)
        rows.append({**row, "truncated": own["truncated"].mean()})
    return pd.DataFrame(rows).astype({"wins": "Int64"})


def length_table(responses: pd.DataFrame) -> pd.DataFrame:
    """Rank correlation of reward and tokens, over all responses and within a prompt."""
    rows, target = [], responses["model"] == TARGET
    for name, own in (("sources", responses[~target]), ("target", responses[target])):
        for ranked in ("over all", "within a prompt"):
            found = rank_correlation(own, ranked == "within a prompt")
            row = {"responses": name, "ranked": ranked, **found.spread("correlation")}
            rows.append({**row, "n": found.n, "prompts": found.n_clusters})
    return pd.DataFrame(rows)


def rank_correlation(rows: pd.DataFrame, within: bool) -> Estimate:
    """Spearman's correlation of reward and tokens; ``within`` ranks and centres by prompt."""
    groups = rows["prompt_id"] if within else pd.Series(0, rows.index)
    ranks = rows[["reward", "n_tokens"]].groupby(groups).rank()
    x, y = (ranks - ranks.groupby(groups).transform("mean")).to_numpy().T

    def correlation(counts: np.ndarray) -> float:
        (xx, xy), (_, yy) = np.cov(x, y, fweights=counts.astype(int))
        return float(xy / np.sqrt(xx * yy)) if xx * yy else float("nan")

    return bootstrap_interval(correlation, rows["prompt_id"].to_numpy())


def overlap_table(responses: pd.DataFrame) -> pd.DataFrame:
    """What the first responses of two models to one prompt share: word 3-grams (Jaccard), text."""
    first = responses[responses["sample"] == 0]
    wide = first.pivot(index="prompt_id", columns="model", values=["text", "reward"]).dropna()
    texts, rewards = wide["text"], wide["reward"].astype(float)
    said = texts.map(words)
    grams = said.map(lambda w: frozenset(zip(w, w[1:], w[2:], strict=False)))
    rows = []
    for a, b in combinations(sorted(texts.columns), 2):
        both = zip(grams[a], grams[b], strict=True)
        shared = [100 * len(x & y) / max(len(x | y), 1) for x, y in both]
        row = {"first": a, "second": b, **mean_interval(shared).spread("shared")}
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
        rows.append({**row, "small_gap": counts.get("small_gap", 0)})
    return pd.DataFrame(rows)


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


def make_results(study: Study) -> Path:
    """Run the study (finished rows are kept) and write ``results/smol``."""
    made_at, model = commit(), packaged_weights()
    table = run(study, make_engine("transformers", str(model)), file_hash(model))
    tokenizer = load_tokenizer(str(model))
    sampled, reward = (
        parse_row((study.folder / name).read_bytes(), name)
        for name in ("target.run.json", "scored.run.json")
    )
    record = {
        "what": "quadruples of real text: a sampled target, published responses of the sources",
        "commit": made_at,
        "target": model.name,
        "weights": file_hash(model),
        "sampled": sampled,
        "reward": reward["settings"],
        "reference": REFERENCE.removesuffix(".json.gz"),
        "published": study.hashes(),
        "prompts": study.prompts,
        "seed": study.seed,
    }
    found = result_tables(table, lambda t: len(tokenizer(t, add_special_tokens=False)["input_ids"]))
    folder = write_results("smol", found, record)
    write_figure_map()
    return folder


class Bleu:
    """Sentence BLEU (sacrebleu, 0 to 100) against one or more reference texts per prompt.

    It rewards the reference's words and length, not quality: a good answer in other words scores
    near 0, and single sentences are noisy.
    """

    def __init__(self, references: dict[str, list[str]]) -> None:
        self.references, self.bleu = references, BLEU(effective_order=True)
        # the signature, which names version and settings, exists after a first score
        self.bleu.sentence_score("a", ["a"])
        self.name = f"bleu|{self.bleu.get_signature()}"

    def __call__(self, rows: list[Row]) -> Iterator[tuple[int, float]]:
        """(position, reward) of each row; every prompt needs a reference."""
        for k, row in enumerate(rows):
            yield k, self.bleu.sentence_score(row["text"], self.references[row["prompt_id"]]).score
