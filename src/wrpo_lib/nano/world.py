"""One world of the nano testbed: its splits and its models, trained once and kept on disk.

A seed makes a whole world: the prompts, the split, every model's initial weights and corpus, and
all sampling. Three seeds are three independent replications of everything.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from wrpo_lib.errors import WRPOError
from wrpo_lib.io import write_json
from wrpo_lib.nano.speakers import Speaker
from wrpo_lib.nano.tasks import Task, draw_tasks
from wrpo_lib.records import project_root

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True)
class Splits:
    """The prompts of a world: SFT and preference thirds of train, and the held-out ones."""

    train: list[Task]
    validation: list[Task]
    test: list[Task]
    multi_turn: list[Task]

    @property
    def held_out(self) -> list[Task]:
        """Tasks that no model may see in training."""
        return [*self.validation, *self.test, *self.multi_turn]


@dataclass(frozen=True)
class World:
    """A recipe (``recipes/nano/world.yaml``) and a seed; everything else follows from them."""

    recipe: dict[str, Any]
    seed: int
    folder: Path

    def rng(self, *purpose: int) -> np.random.Generator:
        """An independent generator for a purpose; the same purpose gives the same numbers."""
        return np.random.default_rng([self.seed, *purpose])

    def splits(self) -> Splits:
        """Draw all prompts; the splits share no (skill, letters)."""
        sizes, rng = self.recipe["splits"], self.rng(0)
        drawn: dict[str, list[Task]] = {}
        for name in ("test", "validation", "multi_turn", "train"):
            taken = [t for tasks in drawn.values() for t in tasks]
            drawn[name] = draw_tasks(
                rng,
                sizes[name],
                two_turn=1.0 if name == "multi_turn" else 0.0,
                exclude=taken,
                unique=True,
            )
        return Splits(**drawn)

    @property
    def sources(self) -> list[str]:
        """Names of the source models."""
        return [s["name"] for s in self.recipe["sources"]]

    def spec(self, name: str) -> dict[str, Any]:
        """The recipe's entry of a model."""
        for spec in (self.recipe["target"], *self.recipe["sources"]):
            if spec["name"] == name:
                return dict(spec)
        known = ", ".join([self.recipe["target"]["name"], *self.sources])
        raise WRPOError(f"the nano world has no model {name!r}; it has {known}")

    def speaker(self, name: str) -> Speaker:
        """The habits a model is trained with."""
        values: dict[str, Any] = self.spec(name)["speaker"]
        frozen: dict[str, Any] = {
            k: tuple(v) if isinstance(v, list) else v for k, v in values.items()
        }
        return Speaker(name, **frozen)

    def model_dir(self, name: str) -> Path:
        """Where a model of this world is kept."""
        return self.folder / "models" / name

    def train_model(self, name: str) -> Path:
        """Pretrain a model unless it is already there; returns its folder."""
        folder = self.model_dir(name)
        if (folder / "pretraining.json").is_file():
            return folder
        from wrpo_lib.nano.models import build_model, build_tokenizer, pretrain

        spec, options = self.spec(name), self.recipe["pretraining"]
        order = [self.recipe["target"]["name"], *self.sources].index(name)
        rng = self.rng(1, order)
        rows = spec["steps"] * options["batch_size"]
        corpus = self.speaker(name).corpus(rng, rows, self.splits().held_out, options["two_turn"])
        text = [m["content"] for c in corpus[:4000] for m in c]
        tokenizer = build_tokenizer(spec["tokenizer"], spec["template"], text)
        seed = int(rng.integers(2**31))
        model = build_model(spec["model"], tokenizer, seed)
        loss = pretrain(
            model, tokenizer, corpus, folder, seed, spec["learning_rate"], options["batch_size"]
        )
        save_model(model, tokenizer, folder)
        parameters = sum(p.numel() for p in model.parameters())
        record = {"parameters": parameters, "vocabulary": len(tokenizer), "final_loss": loss}
        write_json(folder / "pretraining.json", record)
        return folder


def save_model(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Save model and tokenizer into ``folder``; a kill midway leaves no half-saved folder."""
    part = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    model.save_pretrained(part)
    tokenizer.save_pretrained(part)
    shutil.rmtree(folder, ignore_errors=True)
    part.rename(folder)


def load_model(folder: Path) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A saved model and its tokenizer, in float32."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    if not (folder / "config.json").is_file():
        raise WRPOError(f"no model in {folder}; run `make results` to train it")
    model = AutoModelForCausalLM.from_pretrained(folder, dtype="float32")
    return model, AutoTokenizer.from_pretrained(folder)


def open_world(seed: int, runs: Path | None = None) -> World:
    """The world of a seed, kept under ``runs/nano/seed-<seed>``."""
    from wrpo_lib.recipes import read_yaml, recipe_path

    recipe = read_yaml(recipe_path("nano", "world"))
    folder = (runs or project_root() / "runs" / "nano") / f"seed-{seed}"
    return World(recipe, seed, folder)
