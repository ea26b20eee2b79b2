"""The nano study: every stage from prompts to answers, each resumable, for several seeds.

A stage reads files and writes files under ``runs/nano/seed-<seed>/``; a finished file is never
made again, so an interrupted study goes on where it stopped.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
from datasets import Dataset
from joblib import Parallel, delayed

from wrpo_lib.generation import Sampling, TransformersEngine, sample
from wrpo_lib.generation.stage import sample_responses, score_responses
from wrpo_lib.io import read_rows, write_json, write_rows
from wrpo_lib.logprobs import response_logprobs
from wrpo_lib.nano.models import load_model, quiet, save_model, train_model
from wrpo_lib.nano.reward import quality, read, score_rows
from wrpo_lib.nano.tasks import Task, World
from wrpo_lib.quadruples import Pairing, Split, read_quadruples, read_responses, write_pairs
from wrpo_lib.quadruples.pair import best
from wrpo_lib.quadruples.prompts import make_split
from wrpo_lib.recipes import load_recipe
from wrpo_lib.training.run import train

TARGET, TARGET_SFT = "target", "target_sft"
METHODS = ("dpo_off", "dpo_on_target", "dpo_on", "dpo_hybrid", "wrpo", "wrpo_alpha05")
"""Preference runs, each a recipe of the same name."""

PAIRINGS = ((TARGET, "source"), (TARGET, "target"), (TARGET_SFT, "target"))
"""Whose samples, and whose worst response is y_l, in each kind of training data."""

DEVIATION_POLICIES, DEVIATION_PROMPTS = (TARGET, "dpo_off", "dpo_on_target"), 300


def all_models(world: World) -> list[str]:
    """Every model of the study, in the order of the tables."""
    return [*world.sources, TARGET, TARGET_SFT, *METHODS]


def split(world: World) -> Split:
    """The SFT third and the preference rest of the train prompts (paper section 4.1)."""
    return make_split([t.prompt_id for t in world.splits()["train"]], world.seed)


def preference_tasks(world: World) -> list[Task]:
    """The tasks of the preference part of the split."""
    tasks = {t.prompt_id: t for t in world.splits()["train"]}
    return [tasks[i] for i in split(world).preference]


def responses(world: World, name: str) -> pd.DataFrame:
    """Scored samples of a model (paper section 4.1), as ``wrpo sample`` and ``score`` make them.

    Sources answer all train prompts, the target and Target-SFT those of the preference part.
    """
    scored = world.folder / "rewards" / f"{name}.jsonl"
    finished = scored.with_suffix(".counts.json")
    if not finished.is_file():
        tasks = world.splits()["train"] if name in world.sources else preference_tasks(world)
        path = world.folder / "responses" / f"{name}.jsonl"
        prompts = [(t.prompt_id, t.messages) for t in tasks]
        engine = TransformersEngine(*load_model(world.model_dir(name)))
        counts = sample_responses(prompts, engine, name, sampling(world, name), path)
        score_responses(read_rows(path), score_rows, "nano", scored)
        write_json(finished, dict(counts))
    return pd.DataFrame(read_rows(scored))


def sampling(world: World, name: str) -> Sampling:
    """The recipe's sampling options with a seed of its own for each model."""
    how, seed = world.recipe["sampling"], _seed(world, 2, name)
    return Sampling(how["n"], how["temperature"], how["top_p"], how["max_new_tokens"], seed=seed)


def _seed(world: World, purpose: int, name: str) -> int:
    return int(world.rng(purpose, zlib.crc32(name.encode())).integers(2**31))


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
    """The stage of ``wrpo pair``: from files of rewards to a file of rows."""
    if not path.is_file():
        for name in models:
            responses(world, name)
        table = read_responses([world.folder / "rewards" / f"{name}.jsonl" for name in models])
        write_pairs(table, path, pairing, split(world), part)
    return path


def train_policy(world: World, name: str) -> Path:
    """Train Target-SFT or a method by its recipe; dynamics go to ``dynamics/<name>.jsonl``."""
    folder = world.model_dir(name)
    if (folder / "config.json").is_file():
        return folder
    recipe = load_recipe("nano", "sft" if name == TARGET_SFT else name)
    start, dynamics = TARGET, None
    if name == TARGET_SFT:
        data = Dataset.from_list(read_rows(sft_rows(world)))
    else:
        start, dynamics = recipe.start_from, dynamics_file(world, name)
        data = read_quadruples(quadruples(world, start, recipe.rejected_from))
    model, tokenizer = load_model(world.model_dir(start))
    log = folder / "log"
    options: dict[str, Any] = {"disable_tqdm": True, "save_strategy": "no"}
    train(recipe, model, tokenizer, data, log, seed=world.seed, dynamics_file=dynamics, **options)
    save_model(model, tokenizer, folder)
    return folder


def dynamics_file(world: World, name: str) -> Path:
    """The training dynamics of a method, a row per step."""
    return world.folder / "dynamics" / f"{name}.jsonl"


def answers(world: World, name: str) -> pd.DataFrame:
    """Answers of a model to the test prompts: greedy and five samples; two turns, both greedy."""
    path = world.folder / "answers" / f"{name}.jsonl"
    if not path.is_file():
        model, tokenizer = load_model(world.model_dir(name))
        sampled = {**world.recipe["sampling"], "seed": _seed(world, 3, name)}
        greedy = {**sampled, "n": 1, "temperature": 0.0}
        test, two = (world.splits()[part] for part in ("test", "multi_turn"))
        asked = [t.messages for t in test]
        first = sample(model, tokenizer, [t.messages for t in two], **greedy)
        second = [t.second_turn(said[0]["text"]) for t, said in zip(two, first, strict=True)]
        rows = [
            *_answer_rows("greedy", test, sample(model, tokenizer, asked, **greedy)),
            *_answer_rows("sampled", test, sample(model, tokenizer, asked, **sampled)),
            *_answer_rows("two_turn", two, first),
            *_answer_rows("two_turn", two, sample(model, tokenizer, second, **greedy), turn=2),
        ]
        write_rows(({"model": name, **row} for row in rows), path)
    return pd.DataFrame(read_rows(path))


def _answer_rows(
    decoding: str, tasks: list[Task], drawn: list[list[dict[str, Any]]], turn: int = 1
) -> list[dict[str, Any]]:
    """One row per sample, with what is exactly known of it: quality, correctness, check step."""
    return [
        {
            **{"prompt_id": task.prompt_id, "decoding": decoding, "turn": turn, "sample": k},
            **row,
            "quality": round(quality(task, row["text"], turn), 4),
            "exact": read(row["text"]).letters == task.answer(turn),
            "check": read(row["text"]).counted is not None,
        }
        for task, rows in zip(tasks, drawn, strict=True)
        for k, row in enumerate(rows)
    ]


def deviation(world: World, policy: str) -> pd.DataFrame:
    """Log-probability of source and own responses under a policy (paper Figure 1 a, b).

    The source response is y_ws; the own response is the raw target's first sample. Both are fixed
    before training, so before and after compare the same texts.
    """
    path = world.folder / "deviation" / f"{policy}.jsonl"
    if not path.is_file():
        tasks = preference_tasks(world)[:DEVIATION_PROMPTS]
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
    sources = worlds[0].sources
    stages: list[tuple[str, Callable[..., Any], list[Any]]] = [
        ("pretrain", train_model, [(name,) for name in (*sources, TARGET)]),
        ("sample", responses, [(name,) for name in (*sources, TARGET)]),
        ("train Target-SFT", train_policy, [(TARGET_SFT,)]),
        ("sample Target-SFT", responses, [(TARGET_SFT,)]),
        ("pair", quadruples, list(PAIRINGS)),
        ("train", train_policy, [(name,) for name in METHODS]),
        ("answer", answers, [(name,) for name in all_models(worlds[0])]),
        ("log-probabilities", deviation, [(name,) for name in DEVIATION_POLICIES]),
    ]
    os.environ["TQDM_DISABLE"] = "1"  # the workers' bars would write over each other
    for stage, function, arguments in stages:
        print(stage, flush=True)
        jobs = [delayed(_job)(function, world, *a) for world in worlds for a in arguments]
        Parallel(n_jobs=workers, verbose=5)(jobs)


def _job(function: Callable[..., Any], *arguments: Any) -> None:
    """One job in a worker: one thread, no progress bars; what it makes lies in files."""
    quiet()
    function(*arguments)
