"""What runs live on the nano world: a target for the notebooks, scripted sources, the reward.

The study trains its sources; here their responses are drawn as their training texts are, so that a
notebook needs one model only. ``wrpo score --nano`` gives any file of responses the same reward.
"""

import hashlib
from collections.abc import Iterable, Iterator
from functools import partial
from math import inf
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from filelock import FileLock
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from wrpo_lib.io import file_hash
from wrpo_lib.nano.arms import FIRST, Stage
from wrpo_lib.nano.fusion import pretrained
from wrpo_lib.nano.world import Prompt, World, nano_recipe, quality, read_prompt, reward_noise
from wrpo_lib.records import project_root

SEED = 0
"""Of the live world; the study reports others."""


def live_target(steps: float = inf) -> tuple[World, LlamaForCausalLM, PreTrainedTokenizerFast]:
    """The live world and its target as a transformers model; half a minute on one core.

    It is trained once per recipe and state of the testbed's code, and kept in ``runs/live``.
    ``steps``: the most that each phase of its pretraining takes, for a worse one in less time.
    """
    torch.set_num_threads(1)  # suits models this small
    recipe = nano_recipe()
    for phase in recipe["target"]["phases"]:
        phase["steps"] = min(phase["steps"], steps)
    code = [file_hash(path) for path in sorted(Path(__file__).parent.glob("*.py"))]
    known = hashlib.sha256(f"{recipe} {code}".encode()).hexdigest()[:12]
    stage = Stage([World(SEED, recipe)], project_root() / "runs" / "live" / known)
    stage.folder.mkdir(parents=True, exist_ok=True)
    with FileLock(stage.folder / ".lock"):  # a notebook beside this one waits for its target
        model = stage.keep("target", partial(pretrained, stage.worlds, "target"))
    return stage.worlds[0], *model.export(0)


def scored(model: str, prompts: list[Prompt], texts: list[list[str]]) -> pd.DataFrame:
    """Responses of ``model``, a list for each prompt, with their rewards, as pairing reads them."""
    rows = [
        {"prompt_id": prompt.prompt_id, "model": model, "sample": k, "text": text}
        for prompt, own in zip(prompts, texts, strict=True)
        for k, text in enumerate(own)
    ]
    return pd.DataFrame(rows).assign(reward=[reward for _, reward in score_rows(rows)])


def scripted_responses(world: World, prompts: list[Prompt]) -> pd.DataFrame:
    """Five scored responses of every source to each prompt, drawn as its training texts are."""
    rng, tables = world.rng(14), []
    for k in range(1, len(world.weak) + 1):
        texts = [[world.source_says(k, p, rng) for _ in range(FIRST)] for p in prompts]
        tables.append(scored(f"source_{k}", prompts, texts))
    return pd.concat(tables, ignore_index=True)


def score_rows(rows: Iterable[dict[str, Any]]) -> Iterator[tuple[dict[str, Any], float]]:
    """Response rows whose prompt_id is that of a :class:`Prompt`, each with its reward.

    The reward is the truth with the text's own noise.

    :raises WRPOError: for a prompt_id of another kind.
    """
    sigma = nano_recipe()["reward"]["sigma"]
    for row in rows:
        prompt = read_prompt(row["prompt_id"].replace("-", " "))
        noise = reward_noise(prompt, [row["text"]])[0]
        yield row, quality(prompt, row["text"]) + sigma * noise
