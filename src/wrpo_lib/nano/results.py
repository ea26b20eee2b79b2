"""The nano study's tracked results: tables drawn from the finished runs."""

from __future__ import annotations

import json
import time
from collections.abc import Callable

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

DECODINGS = ("greedy", "sampled", "best_of_5")
REWARDS = (
    *("source_chosen", "target_chosen", "fused", "rejected"),
    *("margins", "accuracies", "source_accuracies", "target_accuracies"),
)
DYNAMICS = [
    *("step", "alpha", "loss"),
    *(f"rewards/{name}" for name in REWARDS),
    *(f"logps/{name}" for name in RESPONSES),
    *("grad_norm", "learning_rate"),
]


def all_answers(world: World) -> pd.DataFrame:
    """Answers of every model, the models in the order of the tables."""
    table = pd.concat([study.answers(world, m) for m in study.all_models(world)], ignore_index=True)
    models = pd.Categorical(table["model"], study.all_models(world))
    return table.assign(model=models, characters=table["text"].str.len())


def score_table(world: World) -> pd.DataFrame:
    """First-turn scores of every model: greedy, mean of samples, best of five."""
    answers = all_answers(world)
    sampled = answers[answers["decoding"] == "sampled"]
    chosen = sampled.groupby(["model", "prompt_id"], observed=True)["quality"].idxmax()
    table = pd.concat([answers, sampled.loc[chosen].assign(decoding="best_of_5")])
    table["decoding"] = pd.Categorical(table["decoding"], DECODINGS)  # two-turn answers drop out
    means = {name: (name, "mean") for name in ("quality", "exact", "check", "characters")}
    counts = {"n_prompts": ("prompt_id", "nunique"), "n": ("prompt_id", "size")}
    by_model = table.groupby(["model", "decoding"], observed=True)
    return by_model.agg(**counts, **means).reset_index()


def skill_table(world: World) -> pd.DataFrame:
    """Greedy scores of every model by skill."""
    greedy = all_answers(world).query("decoding == 'greedy'")
    by_skill = greedy.groupby(["model", greedy["prompt_id"].str.split("-").str[0]], observed=True)
    found = {"n": ("quality", "size"), "quality": ("quality", "mean"), "exact": ("exact", "mean")}
    return by_skill.agg(**found).rename_axis(index={"prompt_id": "skill"}).reset_index()


def answer_table(world: World) -> pd.DataFrame:
    """Greedy and two-turn answers of every model: what a judge reads."""
    columns = ["model", "decoding", "prompt_id", "turn", "text", "quality", "exact"]
    return all_answers(world).query("decoding != 'sampled'")[columns]


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


def reward_table(world: World) -> pd.DataFrame:
    """A random sample of scored responses of every sampled model, for one picture."""
    tables = [study.responses(world, m) for m in (*world.sources, study.TARGET, study.TARGET_SFT)]
    table = pd.concat([t.sample(SHOWN, random_state=world.seed) for t in tables])
    table["characters"] = table["text"].str.len()
    return table[["model", "prompt_id", "sample", "reward", "characters", "n_tokens"]]


def quadruple_table(world: World) -> pd.DataFrame:
    """Quadruples that WRPO was trained on, as they are on disk but for the messages."""
    rows = read_rows(study.quadruples(world, study.TARGET_SFT))[:SHOWN]
    return pd.DataFrame([{**r, "prompt": r["prompt"][-1]["content"]} for r in rows])


def pairing_table(world: World) -> pd.DataFrame:
    """What pairing kept and left out for each kind of training data."""
    rows = []
    for samples_of, rejected_from in study.PAIRINGS:
        path = study.quadruples(world, samples_of, rejected_from).with_suffix(".report.json")
        report = json.loads(path.read_text(encoding="utf-8"))
        kept = {name: report[name] for name in ("prompts", "kept", "tied", "identical", "missing")}
        rows.append({"samples_of": samples_of, "rejected_from": rejected_from, **kept})
    return pd.DataFrame(rows)


def dynamics_table(world: World) -> pd.DataFrame:
    """Training dynamics of every method."""
    tables = {m: pd.DataFrame(read_rows(study.dynamics_file(world, m))) for m in study.METHODS}
    return pd.concat(tables, names=["method"]).reset_index("method")[["method", *DYNAMICS]]


def deviation_table(world: World) -> pd.DataFrame:
    """Log-probabilities of source and own responses before and after training (Figure 1)."""
    return pd.concat([study.deviation(world, name) for name in study.DEVIATION_POLICIES])


TABLES: dict[str, Callable[[World], pd.DataFrame]] = {
    "scores": score_table,
    "skills": skill_table,
    "sources": source_table,
    "pairing": pairing_table,
    "dynamics": dynamics_table,
    "deviation": deviation_table,
    "rewards": reward_table,
    "quadruples": quadruple_table,
}


def result_tables(worlds: list[World]) -> dict[str, pd.DataFrame]:
    """All tables of the study; the first column is the seed."""
    tables = {}
    for name, table_of in TABLES.items():
        found = pd.concat({w.seed: table_of(w) for w in worlds}, names=["seed"])
        tables[name] = found.reset_index("seed")
    return tables | {f"answers_seed{w.seed}": answer_table(w) for w in worlds}


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
    write_figure_map(seeds)
