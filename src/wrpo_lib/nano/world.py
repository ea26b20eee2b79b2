"""One world of the nano testbed: its splits and its models, trained once and kept on disk.

A seed makes a whole world: the prompts, the split, every model's initial weights and corpus, and
all sampling. Three seeds are three independent replications of everything. It does not fix the
vocabulary of a WordPiece tokenizer, whose trainer breaks ties differently in each process; what is
made with that source differs between runs of one seed.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from wrpo_lib.errors import WRPOError
from wrpo_lib.io import write_json
from wrpo_lib.nano.scripted import ScriptedPolicy
from wrpo_lib.nano.tasks import Task, draw_tasks
from wrpo_lib.recipes import read_yaml, recipe_path
from wrpo_lib.records import project_root


@dataclass(frozen=True)
class Splits:
    """The prompts of a world; a third of ``train`` is for SFT, the rest for preferences."""

    test: list[Task]
    validation: list[Task]
    multi_turn: list[Task]
    train: list[Task]

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
        for name in Splits.__dataclass_fields__:
            taken = [t for tasks in drawn.values() for t in tasks]
            two_turn = float(name == "multi_turn")
            drawn[name] = draw_tasks(
                rng, sizes[name], two_turn=two_turn, exclude=taken, unique=True
            )
        return Splits(**drawn)

    @property
    def sources(self) -> list[str]:
        """Names of the source models."""
        return [s["name"] for s in self.recipe["sources"]]

    def spec(self, name: str) -> dict[str, Any]:
        """The recipe's entry of a model."""
        specs = {s["name"]: s for s in (self.recipe["target"], *self.recipe["sources"])}
        if name not in specs:
            raise WRPOError(f"the nano world has no model {name!r}; it has {', '.join(specs)}")
        return dict(specs[name])

    def scripted_policy(self, name: str) -> ScriptedPolicy:
        """The habits a model is trained with."""
        return ScriptedPolicy(**self.spec(name)["speaker"])

    def model_dir(self, name: str) -> Path:
        """Where a source, the target or a trained policy is kept."""
        return self.folder / "models" / name

    def train_model(self, name: str) -> Path:
        """Pretrain a model unless it is already there; returns its folder."""
        from wrpo_lib.nano.models import build_model, build_tokenizer, pretrain, save_model

        folder = self.model_dir(name)
        if (folder / "pretraining.json").is_file():
            return folder
        spec, options = self.spec(name), self.recipe["pretraining"]
        rng = self.rng(1, ["target", *self.sources].index(name))
        batch_size, held_out = options["batch_size"], self.splits().held_out
        corpus = self.scripted_policy(name).corpus(
            rng, spec["steps"] * batch_size, held_out, options["two_turn"]
        )
        text = [m["content"] for c in corpus[:4000] for m in c]
        tokenizer = build_tokenizer(spec["tokenizer"], spec["template"], text)
        seed = int(rng.integers(2**31))
        model = build_model(spec["model"], tokenizer, seed)
        loss = pretrain(model, tokenizer, corpus, folder, seed, spec["learning_rate"], batch_size)
        save_model(model, tokenizer, folder)
        size = {"parameters": model.num_parameters(), "vocabulary": len(tokenizer)}
        write_json(folder / "pretraining.json", {**size, "final_loss": loss})
        return folder


def open_world(seed: int, runs: Path | None = None) -> World:
    """The world of a seed, kept under ``runs/nano/seed-<seed>``."""
    recipe = read_yaml(recipe_path("nano", "world"))
    return World(recipe, seed, (runs or project_root() / "runs" / "nano") / f"seed-{seed}")
