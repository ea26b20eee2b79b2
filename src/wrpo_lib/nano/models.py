"""The nano models: training from scratch, and files.

Text is the only thing the models share, which is the point of implicit fusion.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

import datasets
import torch
import transformers
from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from wrpo_lib.nano.tasks import World, open_world
from wrpo_lib.recipes import load_recipe
from wrpo_lib.tiny import build_model, build_tokenizer
from wrpo_lib.training.run import train


def quiet() -> None:
    """No progress bars, no advice, and one thread, which suits models this small."""
    torch.set_num_threads(1)
    datasets.disable_progress_bars()
    transformers.logging.disable_progress_bar()
    transformers.logging.set_verbosity_error()


def train_model(world: World, name: str) -> Path:
    """Pretrain a model on its scripted policy's texts, unless it is there; returns its folder."""
    folder = world.model_dir(name)
    if (folder / "config.json").is_file():
        return folder
    spec, batch_size = world.spec(name), world.recipe["pretraining"]["batch_size"]
    rng = world.rng(1, ["target", *world.sources].index(name))
    corpus = world.corpus(name, spec["steps"] * batch_size, rng)
    text = [m["content"] for c in corpus[:4000] for m in c]
    tokenizer = build_tokenizer(spec["tokenizer"], spec["template"], text)
    seed = int(rng.integers(2**31))
    model = build_model(spec["model"], tokenizer, seed)
    own = {"learning_rate": spec["learning_rate"], "per_device_train_batch_size": batch_size}
    rows = [{"prompt": c[:-1], "source_chosen": c[-1]["content"]} for c in corpus]
    options: dict[str, Any] = {"seed": seed, "disable_tqdm": True, "save_strategy": "no"}
    recipe = load_recipe("nano", "pretrain", **own)
    train(recipe, model, tokenizer, Dataset.from_list(rows), folder / "log", **options)
    save_model(model, tokenizer, folder)
    return folder


def live_target(steps: int) -> tuple[World, PreTrainedModel, PreTrainedTokenizerBase]:
    """World 0 and its target, trained for ``steps`` steps, for the live cells of the notebooks."""
    quiet()
    with tempfile.TemporaryDirectory() as folder:
        world = open_world(0, Path(folder))
        world.recipe["target"]["steps"] = steps
        return world, *load_model(train_model(world, "target"))


def save_model(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Save model and tokenizer into ``folder``; a kill midway leaves no half-saved folder."""
    part = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    model.save_pretrained(part)
    tokenizer.save_pretrained(part)
    shutil.rmtree(folder, ignore_errors=True)
    part.rename(folder)


def load_model(folder: Path) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A saved model and its tokenizer, in float32 on the CPU."""
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype="float32")
    return model, transformers.AutoTokenizer.from_pretrained(folder)
