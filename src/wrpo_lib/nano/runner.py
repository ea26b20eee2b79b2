"""``wrpo results nano`` and ``development``: all worlds, all arms, and the files of their results.

``outcomes.parquet`` has one row per arm, world and held-out prompt; all means and intervals come
from it. ``results/development`` has what was settled on development seeds alone.
"""

import hashlib
import json
import time
from collections import defaultdict
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from joblib import Parallel, delayed
from tqdm import tqdm

from wrpo_lib.analysis.outcomes import Results, verdict_table, verdicts
from wrpo_lib.io import file_hash, write_atomically
from wrpo_lib.nano.arms import COLLECTIVE, Stage, outcomes
from wrpo_lib.nano.batch import PAD
from wrpo_lib.nano.judge import judged
from wrpo_lib.nano.world import KNOBS, World, nano_recipe
from wrpo_lib.paper import PLAN
from wrpo_lib.records import project_root, results_dir, write_results

DEVIATION = ("target", "target_sft", "target_dpo_on", "dpo_off", "dpo_on", "wrpo")
TEXTS = ["arm", "seed", "prompt", "prompt_text", "class", "response", "greedy"]
SHOWN = 4  # held-out prompts of each world, in random order, that every arm's answers are kept of
TOLERANCE = 0.02  # a mean exactness that moved by more, between two runs of the study, is reported


def stages(recipe: dict[str, Any], folder: Path | None = None) -> list[Stage]:
    """The worlds of a recipe's seeds, a few side by side, kept in a folder named after the recipe
    under ``runs/nano``."""
    known = hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()
    folder = folder or project_root() / "runs" / "nano" / known[:12]
    seeds, n = recipe["seeds"], recipe["at_once"]
    parts = [seeds[k : k + n] for k in range(0, len(seeds), n)]
    return [
        Stage([World(seed, recipe) for seed in part], folder / "-".join(map(str, part)))
        for part in parts
    ]


def run(stage: Stage) -> dict[str, pd.DataFrame]:
    """Every arm of a stage, and the tables of its worlds."""
    torch.set_num_threads(1)
    found = defaultdict[str, list[pd.DataFrame]](list)
    for name in tqdm(stage.names, f"worlds {stage.folder.name}", mininterval=5):
        of_arm, answered = outcomes(stage, name), stage.answers(name)
        said = of_arm[TEXTS].rename(columns={"greedy": "right"})
        found["outcomes.parquet"].append(of_arm.drop(columns=["prompt_text", "response"]))
        found["dynamics.csv.gz"].append(pd.DataFrame(answered.dynamics))
        if name in COLLECTIVE:  # samples of all models that a row holds, in the target's tokens
            of_arm = pd.concat(found["outcomes.parquet"][1 : 1 + len(stage.sources)])
        tokens = of_arm.groupby("seed")["length"].sum()
        spent = {"arm": name, "seed": tokens.index, "tokens_generated": tokens.to_numpy()}
        found["arms"].append(pd.DataFrame(spent).assign(**answered.cost).round(3))
        found["responses.csv.gz"].append(said[said["prompt"] < SHOWN])
        if name in stage.recipe["evaluation"]["models"]:
            found["answers.csv.gz"].append(said)
    return {name: pd.concat(parts, ignore_index=True) for name, parts in found.items()} | {
        "deviation.csv.gz": deviation(stage),
        "headroom": headroom(stage),
        "sources": source_table(stage),
    }


def deviation(stage: Stage) -> pd.DataFrame:
    """log π of y_ws and of the raw target's first sample under several policies (Figure 1)."""
    found, rows = stage.pool("heldout", "target"), []
    first = torch.full(found.quality.shape[:2], found.slots["target"][0])
    source = found.best([stage.sources], stage.recipe["reward"]["sigma"])
    seeds = np.array([[w.seed] * first.shape[1] for w in stage.worlds])
    for (whose, slots), name in product({"source": source, "own": first}.items(), DEVIATION):
        model, ids = stage.answers(name).model, found.rows(slots)
        columns = {
            "seed": seeds,
            "response": np.broadcast_to(np.arange(first.shape[1]), first.shape),
            "logp": model.score(ids).numpy(),
            "tokens": (ids[..., model.prompt :] != PAD).sum(-1).numpy(),
            "right": found.right(slots).astype(int),
        }
        flat = pd.DataFrame({column: value.ravel() for column, value in columns.items()})
        rows.append(flat.assign(model=name, whose=whose))
    return pd.concat(rows)


def source_table(stage: Stage) -> pd.DataFrame:
    """The share of the preference prompts that each source wins (Table 1), and how good it is."""
    pool, sigma = stage.pool("preference", "target_sft"), stage.recipe["reward"]["sigma"]
    best, rewards = pool.best([stage.sources], sigma), pool.rewards(sigma)
    rows = []
    for name in stage.sources:
        slots = pool.slots[name]
        share = torch.isin(best, torch.tensor(slots)).float().mean(1)
        for s, world in enumerate(stage.worlds):
            right = (pool.quality[s][:, slots] == 1).mean()
            rows.append((world.seed, name, float(share[s]), right, rewards[s][:, slots].mean()))
    return pd.DataFrame(rows, columns=["seed", "source", "share", "right", "reward"])


def headroom(stage: Stage) -> pd.DataFrame:
    """What the rules of ``recipes/nano/world.yaml`` ask, a row per world."""
    found = pd.concat(
        [outcomes(stage, name) for name in (*stage.sources, "target", "target_sft", "sft_true")]
    )
    found["sampled"] = found["right"] / found["n"]
    exact = found.groupby(["seed", "arm"])[["greedy", "sampled"]].mean().unstack("arm")
    of_b = found[found["class"] == "B"].groupby(["seed", "arm"])[["sampled", "any5"]].mean()
    of_b, greedy = of_b.unstack("arm"), exact["greedy"]
    pool, model = stage.pool("preference", "target_sft"), stage.answers("target_sft").model
    sigma = stage.recipe["reward"]["sigma"]
    ws, wt = (pool.best([names], sigma) for names in (stage.sources, ["target_sft"]))
    b = [[w.classes[p.skill] == "B" for p in w.splits["preference"]] for w in stage.worlds]
    rows = [pool.rows(slots) for slots in (ws, wt)]
    tokens = [(x[..., model.prompt :] != PAD).sum((1, 2)) for x in rows]
    spearman = []  # of rewards (N, K) with the truth, the mean over prompts
    for pair in zip(pool.quality, pool.rewards(sigma), strict=True):
        x, y = (pd.DataFrame(values.T).rank() for values in pair)
        spearman.append(x.corrwith(y).mean())
    table = pd.DataFrame(
        {
            "target_greedy": greedy["target"],
            "sft_greedy": greedy["target_sft"],
            "sft_sampled": exact["sampled"]["target_sft"],
            "source_lead": greedy[stage.sources].min(axis=1) - greedy["target"],
            "b_pass5": of_b["any5"]["target_sft"],
            "b_learnable": of_b["sampled"]["sft_true"] - of_b["sampled"]["target_sft"],
            "b_source_right": [r[of].mean() for r, of in zip(pool.right(ws), b, strict=True)],
            "gap_nats": (model.score(rows[1]) - model.score(rows[0])).mean(1).numpy(),
            "length_ratio": (tokens[0] / tokens[1]).numpy(),
            "rank_correlation": spearman,
        },
        index=pd.Index([w.seed for w in stage.worlds], name="seed"),
    )
    return table.reset_index()


def for_development(recipe: dict[str, Any]) -> dict[str, Any]:
    """The recipe with development seeds, and in place of its arms what δ and the rules need, the
    grids of learning rate by β (or τ), as many points for every method, and that of α."""
    asked, arms = recipe["development"], recipe["arms"]
    found = {name: arms[name] for name in ("dpo_on", "sft_true")}
    for arm, values in asked["grid"].items():
        spec = arms[arm] | ({"alpha": asked["grid_alpha"]} if arm.startswith("wrpo") else {})
        knob = KNOBS[spec.get("form", "dpo")]
        for rate, value in product(values["learning_rate"], values[knob]):
            settings = spec.get("settings", {}) | {"learning_rate": rate, knob: value}
            found[f"{arm}/{rate:g}/{value:g}"] = spec | {"settings": settings}
    found |= {f"alpha/{a:g}": arms["wrpo"] | {"alpha": a} for a in asked["alpha"]}
    return recipe | {"arms": found, "seeds": asked["seeds"]}


def develop(stage: Stage) -> dict[str, pd.DataFrame]:
    """The rules' table, and the exactness of every arm of the grids, a row per arm and world."""
    torch.set_num_threads(1)
    arms, rows = stage.arms, []
    for name in tqdm(["target_sft", *arms], f"worlds {stage.folder.name}", mininterval=5):
        answered = outcomes(stage, name)
        answered["sampled"] = answered["right"] / answered["n"]
        means = answered.groupby("seed")[["greedy", "sampled"]].mean().reset_index()
        how = {"alpha": arms[name].alpha, **arms[name].settings} if name in arms else {}
        rows.append(means.assign(arm=name, method=name.partition("/")[0], **how))
    return {"headroom": headroom(stage), "grid": pd.concat(rows, ignore_index=True)}


def make_results(profile: str, workers: int) -> Path:
    """Run the study, or the grids and rules of ``development``, a stage in each process, and write
    its results."""
    start, recipe, job = time.perf_counter(), nano_recipe(), run
    if profile == "development":
        recipe, job = for_development(recipe), develop
    done = Parallel(n_jobs=workers)(delayed(job)(stage) for stage in stages(recipe))
    found = {name: pd.concat([d[name] for d in done], ignore_index=True) for name in done[0]}
    record = {"seeds": recipe["seeds"], "world": recipe, "workers": workers}
    record["seconds"] = round(time.perf_counter() - start)
    if profile == "development":
        return write_results(profile, found, record)
    made, tracked = found["outcomes.parquet"], results_dir("nano") / "outcomes.parquet"
    before = pd.read_parquet(tracked) if tracked.is_file() else made
    old, new = ((d["right"] / d["n"]).groupby(d["arm"].astype(str)).mean() for d in (before, made))
    moved = (new - old).abs()[lambda change: change > TOLERANCE].index
    found["outcomes.parquet"] = made.astype({"arm": "category", "class": "category"})
    found["judged.csv.gz"] = judged(found["answers.csv.gz"], recipe["evaluation"])
    folder = write_results("nano", found, record | {"plan": file_hash(PLAN)})
    rows = verdict_table(verdicts(Results())).to_csv(index=False, lineterminator="\n")
    write_atomically(folder / "verdicts.csv", rows)
    print(f"{len(moved)} tracked means moved by more than {TOLERANCE}")
    print(*(f"{name}: {old[name]:.3f} -> {new[name]:.3f}" for name in moved), sep="\n")
    return folder
