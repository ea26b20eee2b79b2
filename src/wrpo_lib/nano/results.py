"""The nano study's tracked results: tables drawn from the finished runs."""

from __future__ import annotations

import json
import time

import pandas as pd

from wrpo_lib.errors import WRPOError
from wrpo_lib.figures.map import write_figure_map
from wrpo_lib.io import read_rows
from wrpo_lib.nano import study
from wrpo_lib.nano.tasks import World, open_world
from wrpo_lib.quadruples.pair import best
from wrpo_lib.quadruples.schema import RESPONSES
from wrpo_lib.recipes import load_recipe, read_yaml, recipe_path
from wrpo_lib.records import commit, write_results

SHOWN = 400
"""Quadruples that are tracked, and rewards of each model."""

ANSWERS = ["model", "decoding", "prompt_id", "turn", "text", "quality", "exact"]
DECODINGS = ("greedy", "sampled", "best_of_5")
REWARDS = "source_chosen target_chosen fused rejected margins accuracies source_accuracies"
DYNAMICS = [
    *("step", "alpha", "loss"),
    *(f"rewards/{name}" for name in (*REWARDS.split(), "target_accuracies")),
    *(f"logps/{name}" for name in RESPONSES),
    *("grad_norm", "learning_rate"),
]


def answer_tables(world: World) -> dict[str, pd.DataFrame]:
    """First-turn scores of every model and decoding, greedy ones by skill, what a judge reads."""
    models = study.all_models(world)
    answers = pd.concat([study.answers(world, name) for name in models], ignore_index=True)
    answers["model"] = pd.Categorical(answers["model"], models)  # in the order of the tables
    answers = answers.assign(
        characters=answers["text"].str.len(), skill=answers["prompt_id"].str.split("-").str[0]
    )
    greedy, sampled = (answers[answers["decoding"] == name] for name in ("greedy", "sampled"))
    chosen = sampled.groupby(["model", "prompt_id"], observed=True)["quality"].idxmax()
    scored = pd.concat([greedy, sampled, sampled.loc[chosen].assign(decoding="best_of_5")])
    scored["decoding"] = pd.Categorical(scored["decoding"], DECODINGS)
    means = {name: (name, "mean") for name in ("quality", "exact", "check", "characters")}
    counts = {"n_prompts": ("prompt_id", "nunique"), "n": ("prompt_id", "size")}
    found = {"n": ("quality", "size"), "quality": ("quality", "mean"), "exact": ("exact", "mean")}
    by_model = scored.groupby(["model", "decoding"], observed=True)
    return {
        "scores": by_model.agg(**counts, **means).reset_index(),
        "skills": greedy.groupby(["model", "skill"], observed=True).agg(**found).reset_index(),
        "answers": answers.loc[answers["decoding"] != "sampled", ANSWERS],
    }


def source_table(world: World) -> pd.DataFrame:
    """Each source's share of prompts won (Table 1), rewards and length."""
    responses = study.source_responses(world)
    wins = best(responses)["model"].value_counts()
    rows = []
    for name, own in responses.groupby("model", sort=False):
        size = json.loads((world.model_dir(str(name)) / "pretraining.json").read_text("utf-8"))
        row = {"source": name} | {k: size[k] for k in ("parameters", "vocabulary")}
        won = {"wins": wins.get(name, 0), "n": wins.sum(), "share": wins.get(name, 0) / wins.sum()}
        mean = {"reward": own["reward"].mean(), "characters": own["text"].str.len().mean()}
        rows.append(row | won | mean)
    return pd.DataFrame(rows)


def pairing_table(world: World) -> pd.DataFrame:
    """What pairing kept and left out for each kind of training data."""
    rows = []
    for samples_of, rejected_from in study.PAIRINGS:
        path = study.quadruples(world, samples_of, rejected_from).with_suffix(".report.json")
        report = json.loads(path.read_text(encoding="utf-8"))
        kept = {name: report[name] for name in ("prompts", "kept", "tied", "identical", "missing")}
        rows.append({"samples_of": samples_of, "rejected_from": rejected_from, **kept})
    return pd.DataFrame(rows)


def world_tables(world: World) -> dict[str, pd.DataFrame]:
    """All tables of one world; rewards are a random sample, for one picture."""
    sampled = (*world.sources, study.TARGET, study.TARGET_SFT)
    drawn = [study.responses(world, m).sample(SHOWN, random_state=world.seed) for m in sampled]
    rewards = pd.concat(drawn)
    rewards["characters"] = rewards["text"].str.len()
    quadruples = pd.DataFrame(read_rows(study.quadruples(world, study.TARGET_SFT))[:SHOWN])
    quadruples["prompt"] = [messages[-1]["content"] for messages in quadruples["prompt"]]
    dynamics = {m: pd.DataFrame(read_rows(study.dynamics_file(world, m))) for m in study.METHODS}
    steps = pd.concat(dynamics, names=["method"]).reset_index("method")
    return {
        **answer_tables(world),
        "sources": source_table(world),
        "pairing": pairing_table(world),
        "dynamics": steps[["method", *DYNAMICS]],
        "deviation": pd.concat([study.deviation(world, name) for name in study.DEVIATION_POLICIES]),
        "rewards": rewards[["model", "prompt_id", "sample", "reward", "characters", "n_tokens"]],
        "quadruples": quadruples,
    }


def result_tables(worlds: list[World]) -> dict[str, pd.DataFrame]:
    """All tables of the study; the first column is the seed, but for answers, a table a seed."""
    found = {world.seed: world_tables(world) for world in worlds}
    answers = {f"answers_seed{seed}": tables.pop("answers") for seed, tables in found.items()}
    tables = {
        name: pd.concat({seed: own[name] for seed, own in found.items()}, names=["seed"])
        for name in found[worlds[0].seed]
    }
    return {name: table.reset_index("seed") for name, table in tables.items()} | answers


def make_results(seeds: list[int] | None = None, workers: int = 2) -> None:
    """Run the nano study (finished stages are kept) and write ``results/nano``."""
    recipe = read_yaml(recipe_path("nano", "world"))
    seeds = seeds or list(recipe["seeds"])
    if len(seeds) < 2:
        raise WRPOError("intervals over seeds need at least two; name two or more seeds")
    start, made_at = time.perf_counter(), commit()
    worlds = [open_world(seed) for seed in seeds]
    study.run_study(worlds, workers)
    record = {
        "seeds": seeds,
        "commit": made_at,
        "seconds": round(time.perf_counter() - start),
        "workers": workers,
        "world": recipe,
        "training": {m: load_recipe("nano", m).training for m in ("sft", *study.METHODS)},
    }
    print(f"wrote {write_results('nano', result_tables(worlds), record)}")
    write_figure_map()
