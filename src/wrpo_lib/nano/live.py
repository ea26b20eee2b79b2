"""A smaller nano world that trains in seconds, for the live cells of the notebooks.

The target is trained briefly; the sources are scripted policies, whose texts the study's source
models are trained on. What a live cell shows is the code at work, not a result.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from wrpo_lib.nano.reward import reward
from wrpo_lib.nano.tasks import Task
from wrpo_lib.nano.world import World, open_world

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def quiet() -> None:
    """No progress bars, no advice, and one thread, which suits models this small."""
    import datasets
    import torch
    import transformers

    torch.set_num_threads(1)
    datasets.disable_progress_bars()
    transformers.logging.disable_progress_bar()
    transformers.logging.set_verbosity_error()


def live_target(
    steps: int = 200, seed: int = 0
) -> tuple[World, PreTrainedModel, PreTrainedTokenizerBase]:
    """A world and its target, trained for ``steps`` steps in a temporary folder."""
    from wrpo_lib.nano.models import load_model

    quiet()
    with tempfile.TemporaryDirectory() as folder:
        world = open_world(seed, Path(folder))
        world.recipe["target"]["steps"] = steps
        model, tokenizer = load_model(world.train_model("target"))
    return world, model, tokenizer


def scripted_responses(world: World, tasks: list[Task], n: int = 5) -> pd.DataFrame:
    """``n`` scored responses of every source's scripted policy to each task."""
    rng = world.rng(9)
    return pd.DataFrame(
        [
            _scored(task, name, k, world.scripted_policy(name).respond(task, rng))
            for name in world.sources
            for task in tasks
            for k in range(n)
        ]
    )


def target_responses(
    world: World, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, tasks: list[Task]
) -> pd.DataFrame:
    """Five scored samples of the target for each task."""
    from wrpo_lib.generation import sample

    prompts, options = [t.messages for t in tasks], world.recipe["sampling"]
    drawn = sample(model, tokenizer, prompts, seed=world.seed, **options)
    return pd.DataFrame(
        [
            _scored(task, "target", k, row["text"])
            for task, rows in zip(tasks, drawn, strict=True)
            for k, row in enumerate(rows)
        ]
    )


def _scored(task: Task, model: str, number: int, text: str) -> dict[str, Any]:
    """One response with its reward, as pairing reads it."""
    names = {"prompt_id": task.prompt_id, "model": model, "sample": number}
    return {**names, "text": text, "reward": reward(task, text)}


def live_quadruples(
    world: World, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, n: int = 160
) -> Dataset:
    """Quadruples of the first ``n`` train prompts: scripted sources, samples of the target."""
    from datasets import Dataset

    from wrpo_lib.quadruples import build_quadruples

    tasks = world.splits().train[:n]
    rows, _ = build_quadruples(
        {t.prompt_id: t.messages for t in tasks},
        scripted_responses(world, tasks),
        target_responses(world, model, tokenizer, tasks),
    )
    return Dataset.from_list(rows)
