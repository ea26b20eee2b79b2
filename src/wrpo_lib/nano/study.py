"""The nano study: every stage from prompts to answers, each resumable, for several seeds.

A stage reads files and writes files under ``runs/nano/seed-<seed>/``; a finished file is never
made again, so an interrupted study goes on where it stopped.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wrpo_lib.io import read_rows, write_json, write_rows
from wrpo_lib.nano.reward import is_exact, quality, read, score_rows
from wrpo_lib.nano.tasks import Task
from wrpo_lib.nano.world import World, load_model, save_model
from wrpo_lib.recipes import load_recipe

if TYPE_CHECKING:
    import pandas as pd
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from wrpo_lib.generation import Sampling
    from wrpo_lib.quadruples import Pairing, Split

TARGET, TARGET_SFT = "target", "target_sft"
METHODS = ("dpo_off", "dpo_on_target", "dpo_on", "dpo_hybrid", "wrpo", "wrpo_alpha05")
"""Preference runs, each a recipe of the same name."""

QUIET: dict[str, Any] = {"disable_tqdm": True, "save_strategy": "no"}
"""Runs of seconds, two at a time: no progress bars, no checkpoints."""

DEVIATION_POLICIES = (TARGET, "dpo_off", "dpo_on_target")
DEVIATION_PROMPTS = 300


def policy_dir(world: World, name: str) -> Path:
    """Where a trained policy of the target lies; the raw target is a world model."""
    return world.model_dir(name) if name == TARGET else world.folder / "policies" / name


def model_dir(world: World, name: str) -> Path:
    """Where any model of the study lies: a source, the target or a trained policy."""
    return world.model_dir(name) if name in (*world.sources, TARGET) else policy_dir(world, name)


def split(world: World) -> Split:
    """The SFT third and the preference rest of the train prompts (paper section 4.1)."""
    from wrpo_lib.quadruples.split import make_split

    made = make_split([t.prompt_id for t in world.splits().train], world.seed)
    path = world.folder / "split.json"
    if not path.is_file():
        made.write(path)
    return made


def sft_and_preference(world: World) -> tuple[list[Task], list[Task]]:
    """The tasks of both parts of the split."""
    made, tasks = split(world), {t.prompt_id: t for t in world.splits().train}
    return [tasks[i] for i in made.sft], [tasks[i] for i in made.preference]


def rewards_file(world: World, name: str) -> Path:
    """The scored responses of a model, rows as ``wrpo score`` writes them."""
    return world.folder / "rewards" / f"{name}.jsonl"


def responses(world: World, name: str, tasks: list[Task]) -> pd.DataFrame:
    """Five scored samples of a model for each task (paper section 4.1), sampled once.

    The stages of ``wrpo sample`` and ``wrpo score``: rows in ``responses/`` and ``rewards/``.
    """
    import pandas as pd

    scored = rewards_file(world, name)
    finished = scored.with_suffix(".counts.json")
    if not finished.is_file():
        from wrpo_lib.generation import LocalEngine
        from wrpo_lib.generation.stage import sample_responses, score_responses

        path = world.folder / "responses" / f"{name}.jsonl"
        prompts = [(t.prompt_id, t.messages) for t in tasks]
        engine = LocalEngine(*load_model(model_dir(world, name)))
        made = sample_responses(prompts, engine, name, sampling(world, name), path)
        score_responses(read_rows(path), score_rows, "nano", scored, where=str(path))
        write_json(finished, dict(made))
    return pd.DataFrame(read_rows(scored))


def sampling(world: World, name: str) -> Sampling:
    """The recipe's sampling options with a seed of its own for each model."""
    from wrpo_lib.generation import Sampling

    options = world.recipe["sampling"]
    return Sampling(
        n=options["n"],
        temperature=options["temperature"],
        top_p=options["top_p"],
        max_tokens=options["max_new_tokens"],
        seed=int(world.rng(2, _number(name)).integers(2**31)),
    )


def _number(name: str) -> int:
    """A stable number of a name, to seed its own generator."""
    import zlib

    return zlib.crc32(name.encode())


def source_responses(world: World) -> pd.DataFrame:
    """Scored responses of all sources to all train prompts."""
    import pandas as pd

    tasks = world.splits().train
    return pd.concat([responses(world, s, tasks) for s in world.sources], ignore_index=True)


def quadruples(world: World, samples_of: str, rejected_from: str = "target") -> Path:
    """Quadruples of the preference prompts with y_wt, y_l from the samples of a policy."""
    path = world.folder / "quadruples" / f"{samples_of}-rejected-{rejected_from}.jsonl"
    if not path.is_file():
        from wrpo_lib.quadruples import Pairing

        responses(world, samples_of, sft_and_preference(world)[1])
        pairing = Pairing(target=samples_of, rejected_from=rejected_from)
        _pair(world, [*world.sources, samples_of], path, pairing, "preference")
    return path


def sft_rows(world: World) -> Path:
    """The SFT prompts with y_ws."""
    path = world.folder / "sft.jsonl"
    if not path.is_file():
        from wrpo_lib.quadruples import Pairing

        _pair(world, world.sources, path, Pairing(pairs="sft"), "sft")
    return path


def _pair(world: World, models: list[str], path: Path, pairing: Pairing, part: str) -> None:
    """The stage of ``wrpo pair``: from files of rewards to a file of rows."""
    from wrpo_lib.quadruples import read_responses, write_pairs

    source_responses(world)
    table = read_responses([rewards_file(world, name) for name in models])
    write_pairs(table, path, pairing, split(world), part)


def train_sft(world: World) -> Path:
    """Target-SFT: the target fine-tuned on y_ws of the SFT third."""
    folder = policy_dir(world, TARGET_SFT)
    if not (folder / "config.json").is_file():
        from datasets import Dataset

        from wrpo_lib.training.run import train

        model, tokenizer = load_model(policy_dir(world, TARGET))
        recipe = load_recipe("nano", "sft")
        data, log = Dataset.from_list(read_rows(sft_rows(world))), folder / "log"
        train(recipe, model, tokenizer, data, log, seed=world.seed, **QUIET)
        save_model(model, tokenizer, folder)
    return folder


def train_method(world: World, name: str, **overrides: Any) -> Path:
    """Train one preference method by its recipe; dynamics go to ``dynamics/<name>.jsonl``."""
    folder = policy_dir(world, name)
    if not (folder / "config.json").is_file():
        from wrpo_lib.quadruples import read_quadruples
        from wrpo_lib.training.run import train

        recipe = load_recipe("nano", name, **overrides)
        data = read_quadruples(quadruples(world, recipe.start_from, recipe.rejected_from))
        model, tokenizer = load_model(policy_dir(world, recipe.start_from))
        dynamics = world.folder / "dynamics" / f"{name}.jsonl"
        train(
            recipe, model, tokenizer, data, folder / "log",
            seed=world.seed, dynamics_file=dynamics, **QUIET,
        )  # fmt: skip
        save_model(model, tokenizer, folder)
    return folder


def first_turns(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, tasks: list[Task], **options: Any
) -> list[dict[str, Any]]:
    """First-turn answers with their truth, one row a sample."""
    from wrpo_lib.generation import sample

    drawn = sample(model, tokenizer, [t.messages for t in tasks], **options)
    return [
        {"prompt_id": t.prompt_id, "turn": 1, "sample": k, **row, **truth(t, row["text"])}
        for t, rows in zip(tasks, drawn, strict=True)
        for k, row in enumerate(rows)
    ]


def truth(task: Task, text: str, turn: int = 1) -> dict[str, Any]:
    """What is exactly known of an answer: quality, correctness, check step."""
    return {
        "quality": round(quality(task, text, turn), 4),
        "exact": is_exact(task, text, turn),
        "check": read(text).count is not None,
    }


def answers(world: World, name: str, split: str = "test") -> pd.DataFrame:
    """Answers of a model to a held-out split: greedy and five samples, two turns greedy."""
    import pandas as pd

    path = world.folder / "answers" / f"{name}-{split}.jsonl"
    if not path.is_file():
        model, tokenizer = load_model(model_dir(world, name))
        options = dict(world.recipe["sampling"])
        seed = int(world.rng(3, _number(name)).integers(2**31))
        greedy = {**options, "n": 1, "temperature": 0.0}
        tasks = getattr(world.splits(), split)
        rows = [{**r, "decoding": "greedy"} for r in first_turns(model, tokenizer, tasks, **greedy)]
        rows += [
            {**r, "decoding": "sampled"}
            for r in first_turns(model, tokenizer, tasks, seed=seed, **options)
        ]
        if split == "test":
            rows += _two_turns(model, tokenizer, world.splits().multi_turn, greedy)
        write_rows(({"model": name, "split": split, **row} for row in rows), path)
    return pd.DataFrame(read_rows(path))


def _two_turns(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    tasks: list[Task],
    greedy: dict[str, Any],
) -> list[dict[str, Any]]:
    """Both turns of two-turn tasks; the second sees the model's own first answer."""
    from wrpo_lib.generation import sample

    first = [r[0] for r in sample(model, tokenizer, [t.messages for t in tasks], **greedy)]
    history = [
        [
            *t.messages,
            {"role": "assistant", "content": r["text"]},
            {"role": "user", "content": t.follow_up},
        ]
        for t, r in zip(tasks, first, strict=True)
    ]
    second = [r[0] for r in sample(model, tokenizer, history, **greedy)]
    return [
        {"prompt_id": t.prompt_id, "turn": turn, "sample": 0, **row,
         **truth(t, row["text"], turn), "decoding": "two_turn"}
        for turn, rows in ((1, first), (2, second))
        for t, row in zip(tasks, rows, strict=True)
    ]  # fmt: skip


def deviation(world: World, policy: str) -> list[dict[str, Any]]:
    """Log-probability of source and own responses under a policy (paper Figure 1 a, b).

    The source response is y_ws; the own response is the raw target's first sample. Both are fixed
    before training, so before and after compare the same texts.
    """
    from wrpo_lib.logprobs import response_logprobs
    from wrpo_lib.quadruples.pair import best

    path = world.folder / "deviation" / f"{policy}.jsonl"
    if not path.is_file():
        tasks = sft_and_preference(world)[1][:DEVIATION_PROMPTS]
        own = responses(world, TARGET, sft_and_preference(world)[1])
        texts = {
            "source": best(source_responses(world))["text"],
            "own": own.sort_values("sample").groupby("prompt_id")["text"].first(),
        }
        model, tokenizer = load_model(policy_dir(world, policy))
        rows: list[dict[str, Any]] = []
        for kind, found in texts.items():
            chosen = [found[t.prompt_id] for t in tasks]
            scored = response_logprobs(model, tokenizer, [t.messages for t in tasks], chosen)
            rows += [
                {"policy": policy, "kind": kind, "prompt_id": t.prompt_id,
                 "logp": round(float(lp), 4), "n_tokens": int(n)}
                for t, lp, n in zip(tasks, scored.logps, scored.n_tokens, strict=True)
            ]  # fmt: skip
        write_rows(rows, path)
    return read_rows(path)


def in_parallel(
    jobs: list[tuple[str, Callable[..., Any], tuple[Any, ...]]],
    workers: int,
    say: Callable[[str], None],
) -> None:
    """Run jobs (label, function, arguments) in ``workers`` processes, one thread each."""
    import os

    from joblib import Parallel, delayed

    os.environ["TQDM_DISABLE"] = "1"  # the workers' bars would write over each other
    done = Parallel(n_jobs=workers, return_as="generator_unordered")(
        delayed(_quiet)(label, function, arguments) for label, function, arguments in jobs
    )
    for number, (label, seconds) in enumerate(done, 1):
        say(f"[{number}/{len(jobs)}] {label} ({seconds:.0f} s)")


def _quiet(
    label: str, function: Callable[..., Any], arguments: tuple[Any, ...]
) -> tuple[str, float]:
    """One job in a worker: one thread, no progress bars."""
    import time

    import datasets
    import torch
    import transformers

    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    datasets.disable_progress_bars()
    start = time.perf_counter()
    function(*arguments)
    return label, time.perf_counter() - start


def prepare(world: World) -> None:
    """Everything a preference run needs: samples, Target-SFT, its samples, quadruples."""
    train_sft(world)
    for recipe in {(r.start_from, r.rejected_from) for r in map(_recipe, METHODS)}:
        quadruples(world, *recipe)


def _recipe(name: str) -> Any:
    return load_recipe("nano", name)


def run_preparation(worlds: list[World], workers: int, say: Callable[[str], None]) -> None:
    """Pretraining, source samples, Target-SFT and quadruples of all worlds."""
    everyone = [*worlds[0].sources, TARGET]
    in_parallel(
        [(f"seed {w.seed}: pretrain {n}", w.train_model, (n,)) for w in worlds for n in everyone],
        workers,
        say,
    )
    in_parallel(
        [
            (f"seed {w.seed}: sample {n}", responses, (w, n, w.splits().train))
            for w in worlds
            for n in w.sources
        ],
        workers,
        say,
    )
    in_parallel([(f"seed {w.seed}: SFT, quadruples", prepare, (w,)) for w in worlds], workers, say)


def run_study(worlds: list[World], workers: int, say: Callable[[str], None]) -> None:
    """All stages of all worlds; finished files are kept."""
    run_preparation(worlds, workers, say)
    in_parallel(
        [(f"seed {w.seed}: train {m}", train_method, (w, m)) for w in worlds for m in METHODS],
        workers,
        say,
    )
    models = [*worlds[0].sources, TARGET, TARGET_SFT, *METHODS]
    in_parallel(
        [(f"seed {w.seed}: answers of {n}", answers, (w, n)) for w in worlds for n in models],
        workers,
        say,
    )
    in_parallel(
        [
            (f"seed {w.seed}: log-probabilities under {p}", deviation, (w, p))
            for w in worlds
            for p in DEVIATION_POLICIES
        ],
        workers,
        say,
    )


def dynamics(world: World, name: str) -> list[dict[str, Any]]:
    """The training dynamics of a method, a row a step."""
    return read_rows(world.folder / "dynamics" / f"{name}.jsonl")


def pairing_report(world: World, samples_of: str, rejected_from: str) -> dict[str, int]:
    """What pairing kept and left out."""
    path = quadruples(world, samples_of, rejected_from).with_suffix(".report.json")
    report: dict[str, int] = json.loads(path.read_text(encoding="utf-8"))
    return {name: report[name] for name in ("prompts", "kept", "tied", "identical", "missing")}
