"""The nano study: every stage from prompts to answers, and the tables of ``results/nano``.

A stage reads files and writes files under ``runs/nano/seed-<seed>/``; a finished file is never
made again, so an interrupted study goes on where it stopped.
"""

from __future__ import annotations

import json
import os
import time
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
from datasets import Dataset
from joblib import Parallel, delayed

from wrpo_lib.figures.map import write_figure_map
from wrpo_lib.generation import Sampling, TransformersEngine, sample
from wrpo_lib.generation.stage import sample_responses, score_responses
from wrpo_lib.io import read_rows, write_json, write_rows
from wrpo_lib.logprobs import response_logprobs
from wrpo_lib.nano.models import load_model, quiet, save_model, train_model
from wrpo_lib.nano.reward import quality, read, score_rows
from wrpo_lib.nano.tasks import Task, World, open_world
from wrpo_lib.quadruples import Pairing, read_quadruples, read_responses, write_pairs
from wrpo_lib.quadruples.pair import best
from wrpo_lib.recipes import load_recipe, read_yaml, recipe_path
from wrpo_lib.records import commit, write_results
from wrpo_lib.training.run import train

TARGET, TARGET_SFT = "target", "target_sft"
METHODS = ("dpo_off", "dpo_on_target", "dpo_on", "dpo_hybrid", "wrpo", "wrpo_alpha05")
"""Preference runs, each a recipe of the same name."""

PAIRINGS = ((TARGET, "source"), (TARGET, "target"), (TARGET_SFT, "target"))
"""Whose samples, and whose worst response is y_l, in each kind of training data."""

DEVIATION_POLICIES, DEVIATION_PROMPTS = (TARGET, "dpo_off", "dpo_on_target"), 300
SHOWN = 400
"""Quadruples that are tracked, and rewards of each model."""

ANSWERS = ["model", "decoding", "prompt_id", "turn", "text", "quality", "exact"]
DYNAMICS = r"^(method|step|alpha|loss|rewards/.*|logps/.*|grad_norm|learning_rate)$"


def all_models(world: World) -> list[str]:
    """Every model of the study, in the order of the tables."""
    return [*world.sources, TARGET, TARGET_SFT, *METHODS]


def sampling(world: World, name: str, purpose: int = 2) -> Sampling:
    """The recipe's sampling options with a seed of its own for each model and purpose."""
    how = world.recipe["sampling"]
    seed = int(world.rng(purpose, zlib.crc32(name.encode())).integers(2**31))
    return Sampling(how["n"], how["temperature"], how["top_p"], how["max_new_tokens"], seed=seed)


def responses(world: World, name: str) -> pd.DataFrame:
    """Scored samples of a model (paper section 4.1), as ``wrpo sample`` and ``score`` make them.

    Sources answer all train prompts, the target and Target-SFT those of the preference part.
    """
    scored = world.folder / "rewards" / f"{name}.jsonl"
    finished = scored.with_suffix(".counts.json")
    if not finished.is_file():
        tasks = world.splits()["train"] if name in world.sources else world.preference_tasks()
        path = world.folder / "responses" / f"{name}.jsonl"
        prompts = [(t.prompt_id, t.messages) for t in tasks]
        engine = TransformersEngine(*load_model(world.model_dir(name)))
        counts = sample_responses(prompts, engine, name, sampling(world, name), path)
        score_responses(read_rows(path), score_rows, "nano", scored)
        write_json(finished, dict(counts))
    return pd.DataFrame(read_rows(scored))


def source_responses(world: World) -> pd.DataFrame:
    """Scored responses of all sources to all train prompts."""
    return pd.concat([responses(world, s) for s in world.sources], ignore_index=True)


def quadruples(world: World, samples_of: str, rejected_from: str = "target") -> Path:
    """Quadruples of the preference prompts with y_wt, y_l from the samples of a policy."""
    path = world.folder / "quadruples" / f"{samples_of}-rejected-{rejected_from}.jsonl"
    pairing = Pairing(target=samples_of, rejected_from=rejected_from)
    return _pair(world, [*world.sources, samples_of], path, pairing, "preference")


def sft_rows(world: World) -> Path:
    """The SFT prompts with y_ws."""
    return _pair(world, world.sources, world.folder / "sft.jsonl", Pairing(pairs="sft"), "sft")


def _pair(world: World, models: list[str], path: Path, pairing: Pairing, part: str) -> Path:
    if not path.is_file():
        for name in models:
            responses(world, name)
        table = read_responses([world.folder / "rewards" / f"{name}.jsonl" for name in models])
        write_pairs(table, path, pairing, world.split(), part)
    return path


def train_policy(world: World, name: str) -> Path:
    """Train Target-SFT or a method by its recipe; dynamics go to ``dynamics/<name>.jsonl``."""
    folder = world.model_dir(name)
    if (folder / "config.json").is_file():
        return folder
    recipe, start = load_recipe("nano", "sft" if name == TARGET_SFT else name), TARGET
    options: dict[str, Any] = {"seed": world.seed, "disable_tqdm": True, "save_strategy": "no"}
    if name == TARGET_SFT:
        data = Dataset.from_list(read_rows(sft_rows(world)))
    else:
        start = recipe.start_from
        options["dynamics_file"] = world.folder / "dynamics" / f"{name}.jsonl"
        data = read_quadruples(quadruples(world, start, recipe.rejected_from))
    model, tokenizer = load_model(world.model_dir(start))
    train(recipe, model, tokenizer, data, folder / "log", **options)
    save_model(model, tokenizer, folder)
    return folder


def answers(world: World, name: str) -> pd.DataFrame:
    """Answers of a model to the test prompts: greedy and five samples; two turns, both greedy.

    One row per sample, with what is exactly known of it: quality, correctness, check step.
    """
    path = world.folder / "answers" / f"{name}.jsonl"
    if not path.is_file():
        model, tokenizer = load_model(world.model_dir(name))
        sampled = {**world.recipe["sampling"], "seed": sampling(world, name, purpose=3).seed}
        greedy = {**sampled, "n": 1, "temperature": 0.0}
        test, two = (world.splits()[part] for part in ("test", "multi_turn"))
        asked = [t.messages for t in test]
        first = sample(model, tokenizer, [t.messages for t in two], **greedy)
        second = [t.second_turn(said[0]["text"]) for t, said in zip(two, first, strict=True)]
        rows = [
            *_rows("greedy", test, sample(model, tokenizer, asked, **greedy)),
            *_rows("sampled", test, sample(model, tokenizer, asked, **sampled)),
            *_rows("two_turn", two, first),
            *_rows("two_turn", two, sample(model, tokenizer, second, **greedy), turn=2),
        ]
        write_rows(({"model": name, **row} for row in rows), path)
    return pd.DataFrame(read_rows(path))


def _rows(
    decoding: str, tasks: list[Task], drawn: list[list[dict[str, Any]]], turn: int = 1
) -> Iterator[dict[str, Any]]:
    for task, samples in zip(tasks, drawn, strict=True):
        for k, row in enumerate(samples):
            found, how = read(row["text"]), {"decoding": decoding, "turn": turn, "sample": k}
            truth = {
                "exact": found.letters == task.answer(turn),
                "check": found.counted is not None,
            }
            score = round(quality(task, row["text"], turn), 4)
            yield {"prompt_id": task.prompt_id, **how, **row, "quality": score, **truth}


def deviation(world: World, policy: str) -> pd.DataFrame:
    """Log-probability of y_ws and of the raw target's first sample under a policy (Figure 1)."""
    path = world.folder / "deviation" / f"{policy}.jsonl"
    if not path.is_file():
        tasks = world.preference_tasks()[:DEVIATION_PROMPTS]
        prompts: list[Any] = [t.messages for t in tasks]
        ids = [t.prompt_id for t in tasks]
        own = responses(world, TARGET).sort_values("sample").groupby("prompt_id").first()
        model, tokenizer = load_model(world.model_dir(policy))
        rows: list[Any] = []
        for kind, found in (("source", best(source_responses(world))), ("own", own)):
            texts = found.loc[ids, "text"].tolist()
            scored = response_logprobs(model, tokenizer, prompts, texts)
            table = pd.DataFrame({"policy": policy, "kind": kind, "prompt_id": ids})
            table = table.assign(logp=scored.logps.round(4), n_tokens=scored.n_tokens)
            rows += table.to_dict("records")
        write_rows(rows, path)
    return pd.DataFrame(read_rows(path))


def run_study(worlds: list[World], workers: int) -> None:
    """All stages of all worlds in ``workers`` processes; finished files are kept."""
    made = (*worlds[0].sources, TARGET)
    stages: list[tuple[Callable[..., Any], Iterable[Any]]] = [
        (train_model, zip(made)),
        (responses, zip(made)),
        (train_policy, [(TARGET_SFT,)]),
        (responses, [(TARGET_SFT,)]),
        (quadruples, PAIRINGS),
        (train_policy, zip(METHODS)),
        (answers, zip(all_models(worlds[0]))),
        (deviation, zip(DEVIATION_POLICIES)),
    ]
    os.environ["TQDM_DISABLE"] = "1"  # the workers' bars would write over each other
    for function, arguments in stages:
        print(function.__name__, flush=True)
        jobs = [delayed(_job)(function, world, *a) for a in arguments for world in worlds]
        Parallel(n_jobs=workers, verbose=5)(jobs)


def _job(function: Callable[..., Any], *arguments: Any) -> None:
    """One job in a worker: one thread, no progress bars; what it makes lies in files."""
    quiet()
    function(*arguments)


def answer_tables(world: World) -> dict[str, pd.DataFrame]:
    """First-turn scores of every model and decoding, and what a judge reads."""
    models = all_models(world)
    rows = pd.concat([answers(world, name) for name in models], ignore_index=True)
    rows["model"] = pd.Categorical(rows["model"], models)  # in the order of the tables
    rows["characters"] = rows["text"].str.len()
    greedy, sampled = (rows[rows["decoding"] == name] for name in ("greedy", "sampled"))
    chosen = sampled.groupby(["model", "prompt_id"], observed=True)["quality"].idxmax()
    scored = pd.concat([greedy, sampled, sampled.loc[chosen].assign(decoding="best_of_5")])
    scored["decoding"] = pd.Categorical(scored["decoding"], ["greedy", "sampled", "best_of_5"])
    means = {name: (name, "mean") for name in ("quality", "exact", "check", "characters")}
    counts = {"n_prompts": ("prompt_id", "nunique"), "n": ("prompt_id", "size")}
    by_model = scored.groupby(["model", "decoding"], observed=True)
    greedy = greedy.assign(skill=greedy["prompt_id"].str.split("-").str[0])
    by_skill = greedy.groupby(["model", "skill"], observed=True)
    return {
        "scores": by_model.agg(**counts, **means).reset_index(),
        "skills": by_skill[["quality", "exact"]].mean().reset_index(),
        "answers": rows.loc[rows["decoding"] != "sampled", ANSWERS],
    }


def source_table(world: World) -> pd.DataFrame:
    """Each source's share of prompts won (Table 1), its mean reward and length."""
    found = source_responses(world)
    found["characters"] = found["text"].str.len()
    means = found.groupby("model", sort=False)[["reward", "characters"]].mean()
    wins = best(found)["model"].value_counts().reindex(means.index, fill_value=0)
    table = pd.DataFrame({"wins": wins, "n": wins.sum(), "share": wins / wins.sum()})
    return table.join(means).rename_axis("source").reset_index()


def pairing_table(world: World) -> pd.DataFrame:
    """What pairing kept and left out for each kind of training data."""
    files = [quadruples(world, *how).with_suffix(".report.json") for how in PAIRINGS]
    reports = pd.DataFrame([json.loads(path.read_text("utf-8")) for path in files])
    table = pd.DataFrame(PAIRINGS, columns=["samples_of", "rejected_from"])
    return table.join(reports[["prompts", "kept", "tied", "identical", "missing"]])


def world_tables(world: World) -> dict[str, pd.DataFrame]:
    """All tables of one world; rewards are a random sample, for one picture."""
    sampled = (*world.sources, TARGET, TARGET_SFT)
    rewards = [responses(world, m).sample(SHOWN, random_state=world.seed) for m in sampled]
    pairs = pd.DataFrame(read_rows(quadruples(world, TARGET_SFT))[:SHOWN])
    pairs["prompt"] = [messages[-1]["content"] for messages in pairs["prompt"]]
    files = {name: world.folder / "dynamics" / f"{name}.jsonl" for name in METHODS}
    dynamics = {name: pd.DataFrame(read_rows(path)) for name, path in files.items()}
    steps = pd.concat(dynamics, names=["method"]).reset_index("method")
    return {
        **answer_tables(world),
        "sources": source_table(world),
        "pairing": pairing_table(world),
        "dynamics": steps.filter(regex=DYNAMICS),
        "deviation": pd.concat([deviation(world, name) for name in DEVIATION_POLICIES]),
        "rewards": pd.concat(rewards)[["model", "prompt_id", "sample", "reward", "n_tokens"]],
        "quadruples": pairs,
    }


def result_tables(worlds: list[World]) -> dict[str, pd.DataFrame]:
    """All tables of the study; the first column is the seed, but for answers, a table a seed."""
    found = {world.seed: world_tables(world) for world in worlds}
    said = {f"answers_seed{seed}": tables.pop("answers") for seed, tables in found.items()}
    tables = {
        name: pd.concat({seed: own[name] for seed, own in found.items()}, names=["seed"])
        for name in found[worlds[0].seed]
    }
    return {name: table.reset_index("seed") for name, table in tables.items()} | said


def make_results(workers: int = 2) -> Path:
    """Run the nano study (finished stages are kept) and write ``results/nano``."""
    recipe, start, made_at = read_yaml(recipe_path("nano", "world")), time.perf_counter(), commit()
    worlds = [open_world(seed) for seed in recipe["seeds"]]
    run_study(worlds, workers)
    record = {
        "seeds": recipe["seeds"],
        "commit": made_at,
        "seconds": round(time.perf_counter() - start),
        "workers": workers,
        "world": recipe,
        "training": {m: load_recipe("nano", m).training for m in ("sft", *METHODS)},
    }
    folder = write_results("nano", result_tables(worlds), record)
    write_figure_map()
    return folder
