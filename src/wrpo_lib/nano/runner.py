"""``wrpo results nano``: all worlds, all arms, and the files of ``results/nano``.

``outcomes.parquet`` has one row per arm, world and held-out prompt: all means and intervals are
recomputed from it.
"""

import hashlib
import json
import time
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from joblib import Parallel, delayed

from wrpo_lib.io import file_hash
from wrpo_lib.nano.arms import Stage, outcomes
from wrpo_lib.nano.batch import PAD, score
from wrpo_lib.nano.collective import COLLECTIVE
from wrpo_lib.nano.development import develop, for_development, headroom
from wrpo_lib.nano.judge import judged
from wrpo_lib.nano.world import World, quality
from wrpo_lib.paper import PLAN
from wrpo_lib.recipes import read_yaml, recipe_path
from wrpo_lib.records import project_root, results_dir, write_results

PER_ARM = ("outcomes.parquet", "dynamics.csv.gz", "arms", "responses.csv.gz", "answers.csv.gz")
DEVIATION = ("target", "target_sft", "target_dpo_on", "dpo_off", "dpo_on", "wrpo")
SHOWN = 4
"""Held-out prompts of each world, in their random order, that every arm's answers are kept of."""
TOLERANCE = 0.02
"""A mean exactness that moved by more, between two runs of the study, is reported."""


def nano_recipe() -> dict[str, Any]:
    """The ``testbed`` section of ``recipes/nano/world.yaml``."""
    return dict(read_yaml(recipe_path("nano", "world"))["testbed"])


def stages(recipe: dict[str, Any], folder: Path | None = None) -> list[Stage]:
    """The worlds of a recipe's seeds, a few side by side, kept under ``runs/nano``.

    What was kept of another recipe is not taken up: the folder is named after the recipe.
    """
    known = hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()
    folder = folder or project_root() / "runs" / "nano" / known[:12]
    seeds, n = recipe["seeds"], recipe["at_once"]
    parts = [seeds[k : k + n] for k in range(0, len(seeds), n)]
    return [
        Stage([World(seed, recipe) for seed in part], folder / "-".join(map(str, part)))
        for part in parts
    ]


def in_parallel(
    job: Callable[[Stage], dict[str, pd.DataFrame]], recipe: dict[str, Any], workers: int
) -> tuple[dict[str, pd.DataFrame], dict[str, Any]]:
    """Tables of all worlds, a stage to a process, and what the run record says of them."""
    start = time.perf_counter()
    done = Parallel(n_jobs=workers)(delayed(job)(stage) for stage in stages(recipe))
    tables = {name: pd.concat([d[name] for d in done], ignore_index=True) for name in done[0]}
    record = {"seeds": recipe["seeds"], "world": recipe, "workers": workers}
    return tables, record | {"seconds": round(time.perf_counter() - start)}


def run(stage: Stage) -> dict[str, pd.DataFrame]:
    """Every arm of a stage, and the tables of its worlds."""
    torch.set_num_threads(1)
    stage.make(stage.names)
    found: dict[str, list[pd.DataFrame]] = {name: [] for name in PER_ARM}
    for name in stage.names:
        of_arm = outcomes(stage, name)
        found["outcomes.parquet"].append(of_arm)
        found["dynamics.csv.gz"].append(pd.DataFrame(stage.answers(name).dynamics))
        found["arms"].append(costs(stage, name, of_arm))
        said = greedy(stage, name)
        found["responses.csv.gz"].append(said[said["prompt"] < SHOWN])
        if name in stage.recipe["evaluation"]["models"]:
            found["answers.csv.gz"].append(said)
    return {name: pd.concat(parts, ignore_index=True) for name, parts in found.items()} | {
        "deviation.csv.gz": deviation(stage),
        "headroom": headroom(stage),
        "sources": source_table(stage),
    }


def costs(stage: Stage, name: str, answered: pd.DataFrame) -> pd.DataFrame:
    """What an arm took in each world; ``tokens_generated``: by all models that it holds, for the
    samples of the held-out prompts, in the target's tokens."""
    cost = stage.answers(name).cost
    tokens = answered.groupby("seed")["length"].sum()
    if name in COLLECTIVE:
        tokens = sum(outcomes(stage, s).groupby("seed")["length"].sum() for s in stage.sources)
    table = pd.DataFrame({"arm": name, "seed": tokens.index, "tokens_generated": tokens.to_numpy()})
    return table.assign(**cost).round(3)


def deviation(stage: Stage) -> pd.DataFrame:
    """log π of y_ws and of the raw target's first sample under several policies (Figure 1)."""
    found, rows = stage.pool("heldout", "target"), []
    sigma, n = stage.recipe["reward"]["sigma"], len(stage.worlds)
    first = torch.full(found.quality.shape[:2], found.slots["target"][0])
    whose = {"source": found.best([stage.sources] * n, sigma), "own": first}
    seeds = np.array([[w.seed] * first.shape[1] for w in stage.worlds])
    for (kind, slots), name in product(whose.items(), DEVIATION):
        model, ids = stage.model(name), found.rows(slots)
        right = np.take_along_axis(found.quality, slots.numpy()[..., None], -1)[..., 0] == 1
        columns = {
            "seed": seeds,
            "response": np.broadcast_to(np.arange(first.shape[1]), first.shape),
            "logp": score(model.params, ids, model.prompt, model.shape.heads).numpy(),
            "tokens": (ids[..., model.prompt :] != PAD).sum(-1).numpy(),
            "right": right.astype(int),
        }
        flat = pd.DataFrame({column: value.ravel() for column, value in columns.items()})
        rows.append(flat.assign(model=name, whose=kind))
    return pd.concat(rows)


def greedy(stage: Stage, name: str) -> pd.DataFrame:
    """An arm's greedy answers to the held-out prompts, as text."""
    rows = []
    for world, texts in zip(stage.worlds, stage.answers(name).greedy, strict=True):
        for k, (prompt, (text,)) in enumerate(zip(world.splits["heldout"], texts, strict=True)):
            of, right = world.classes[prompt.skill], int(quality(prompt, text) == 1)
            rows.append((name, world.seed, k, prompt.text, of, text, right))
    columns = ["arm", "seed", "prompt", "prompt_text", "class", "response", "right"]
    return pd.DataFrame(rows, columns=columns)


def source_table(stage: Stage) -> pd.DataFrame:
    """The share of the preference prompts that each source wins (Table 1), and how good it is."""
    pool, sigma = stage.pool("preference", "target_sft"), stage.recipe["reward"]["sigma"]
    best, rewards = pool.best([stage.sources] * len(stage.worlds), sigma), pool.rewards(sigma)
    rows = []
    for name in stage.sources:
        slots = pool.slots[name]
        share = torch.isin(best, torch.tensor(slots)).float().mean(1)
        for s, world in enumerate(stage.worlds):
            right = (pool.quality[s][:, slots] == 1).mean()
            rows.append((world.seed, name, float(share[s]), right, rewards[s][:, slots].mean()))
    return pd.DataFrame(rows, columns=["seed", "source", "share", "right", "reward"])


def moved(before: pd.DataFrame, after: pd.DataFrame) -> list[str]:
    """Which arms' mean sampled exactness moved beyond the tolerance since the tracked run."""
    means = [
        d.assign(share=d["right"] / d["n"]).groupby("arm")["share"].mean() for d in (before, after)
    ]
    change = (means[1] - means[0]).dropna()
    return [
        f"{name}: {means[0][name]:.3f} -> {means[1][name]:.3f}"
        for name in change.index[change.abs() > TOLERANCE]
    ]


def make_development(workers: int = 2) -> Path:
    """Run the grids and the rules on the development seeds and write ``results/development``."""
    found, record = in_parallel(develop, for_development(nano_recipe()), workers)
    return write_results("development", found, record)


def make_results(workers: int = 2) -> Path:
    """Run the study of the recipe's seeds (finished arms are kept) and write ``results/nano``."""
    recipe = nano_recipe()
    found, record = in_parallel(run, recipe, workers)
    for column in ("arm", "class"):
        found["outcomes.parquet"][column] = found["outcomes.parquet"][column].astype("category")
    tracked, changed = results_dir("nano") / "outcomes.parquet", []
    if tracked.is_file():
        changed = moved(pd.read_parquet(tracked), found["outcomes.parquet"])
    found["judged.csv.gz"] = judged(found["answers.csv.gz"], recipe["evaluation"])
    folder = write_results("nano", found, record | {"plan": file_hash(PLAN)})
    print("\n".join([f"{len(changed)} tracked means moved by more than {TOLERANCE}", *changed]))
    return folder
