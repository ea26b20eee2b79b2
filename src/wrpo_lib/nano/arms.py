"""The arms of the nano study: what each trains on, and what every policy answers.

Worlds are run a few at a time (:class:`Stage`). A finished step is one file and is never made
again, so a study that was killed goes on where it stopped.
"""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from wrpo_lib.errors import WRPOError
from wrpo_lib.nano import export
from wrpo_lib.nano.collective import COLLECTIVE, choose
from wrpo_lib.nano.fusion import Model, Pool, Texts, pool, pretrained, sft, specification
from wrpo_lib.nano.preference import Arm, Run
from wrpo_lib.nano.world import World, quality, repeats, source_style
from wrpo_lib.recipes import checked

Row = dict[str, Any]
ANSWERS, FIRST = 8, 5
"""Samples of every policy on a held-out prompt; the first of them are for pass@5 and pairing."""


@dataclass
class Answered:
    """What a policy said to the held-out prompts, and what it took to make it."""

    sampled: Texts
    greedy: Texts
    cost: dict[str, Any]
    model: Model | None = None
    dynamics: list[Row] = field(default_factory=list)


@dataclass
class Stage:
    """S worlds side by side, and the folder of what they have finished."""

    worlds: list[World]
    folder: Path

    @cached_property
    def recipe(self) -> dict[str, Any]:
        """The recipe, the same for all worlds."""
        return self.worlds[0].recipe

    @cached_property
    def arms(self) -> dict[str, Arm]:
        """The preference runs."""
        return {name: self.arm(name, spec) for name, spec in self.recipe["arms"].items()}

    def arm(self, name: str, spec: dict[str, Any]) -> Arm:
        """A run by its entry in the recipe, with the settings of its form."""
        spec = checked(Arm, spec or {}, "recipes/nano/world.yaml", f"arms.{name}.")
        form = self.recipe["forms"][spec.get("form", "dpo")]
        return Arm(**{"id": name, **spec, "settings": form | spec.get("settings", {})})

    @cached_property
    def names(self) -> list[str]:
        """Every policy and collective row, in the order they can be made."""
        return ["target", *self.sources, *COLLECTIVE, *self.recipe["sft"], *self.arms]

    @cached_property
    def sources(self) -> list[str]:
        """Names of the sources."""
        return [f"source_{k + 1}" for k in range(len(self.recipe["sources"]["models"]))]

    def keep(self, name: str, make: Callable[[], Any]) -> Any:
        """What ``make`` returned when it was first called; a kill leaves no half of a file."""
        path = self.folder / f"{name}.pt"
        if not path.is_file():
            value, part = make(), path.with_suffix(".part")
            path.parent.mkdir(parents=True, exist_ok=True)
            torch.save(value, part)
            os.replace(part, path)
        return torch.load(path, weights_only=False)

    def make(self, names: list[str]) -> None:
        """Make the answers of some policies, saying what is done and how long the rest may take."""
        start, done = time.monotonic(), 0
        todo = [n for n in names if not (self.folder / f"arms/{n}.pt").is_file()]
        total = sum(map(self._rows, todo))
        for k, name in enumerate(todo, 1):
            self.answers(name)
            done += self._rows(name)
            left = (time.monotonic() - start) / done * (total - done) / 60
            said = f"{name}, {k} of {len(todo)}, {left:.0f} min left"
            print(f"{self.folder.name}: {said}", flush=True)

    def _rows(self, name: str) -> int:
        """Rows that a policy trains on and answers, to which its time is about proportional."""
        roles, phases = 1, []
        if name in self.arms:
            roles, phases = len(self.arms[name].roles), [self.recipe["training"]]
        elif name in self.recipe["sft"]:
            phases = [self.recipe["sft"][name]]
        elif name not in COLLECTIVE:
            phases = specification(self.recipe, name)["phases"]
        trained = sum(phase["steps"] * phase["batch"] for phase in phases)
        return roles * trained + self.recipe["splits"]["heldout"] * (ANSWERS + 1)

    def model(self, name: str) -> Model:
        """The target, a source, or a policy trained from the target."""
        model = self.answers(name).model
        if model is None:
            raise WRPOError(f"{name} is no model but a choice among the sources; name a model")
        return model

    def answers(self, name: str) -> Answered:
        """A policy's or a collective row's answers, made once."""
        return self.keep(f"arms/{name}", lambda: self._make(name))

    def _make(self, name: str) -> Answered:
        if name in COLLECTIVE:
            return self._collective(name)
        train, pairs = self._training(name)
        cpu, wall = time.process_time(), time.perf_counter()
        model, dynamics = train()
        n = len(self.worlds)
        cost = {
            "train_seconds": (time.perf_counter() - wall) / n,
            "cpu_seconds": (time.process_time() - cpu) / n,
            "pairs": pairs,
            "models_held": 1,
            "diverged": model.broken.tolist(),
        }
        sampled, greedy = self.say(model, "heldout", ANSWERS), self.say(model, "heldout", 0)
        return Answered(sampled, greedy, cost, model, dynamics)

    def _training(self, name: str) -> tuple[Callable[[], tuple[Model, list[Row]]], list[int]]:
        """What trains a policy and gives its dynamics, and the pairs it has in each world.

        What the training needs is made before, so that it is not timed with it.
        """
        if name == "target" or name in self.sources:
            return lambda: (pretrained(self.worlds, name), []), [0] * len(self.worlds)
        if name in self.recipe["sft"]:
            target, rows = self.model("target"), self.sft_rows
            spec, rngs = self.recipe["sft"][name], [w.rng(12) for w in self.worlds]
            return lambda: (sft(target, rows, spec, rngs), []), [rows.shape[1]] * len(rows)
        arm = self.arms[name]
        pools = {part: self.pool(part, arm.own) for part in ("preference", "heldout")}
        run = Run(self.worlds, arm, self.model(arm.start), pools, self.recipe["training"])
        return lambda: (run.train()[0], run.dynamics), run.kept.tolist()

    def _collective(self, name: str) -> Answered:
        """A row that trains nothing: all sources answer, and a rule chooses."""
        said = [self.answers(source) for source in self.sources]
        models = [self.model(source) for source in self.sources]
        chosen = [
            choose(name, self.worlds, models, [getattr(s, kind) for s in said])
            for kind in ("sampled", "greedy")
        ]
        cost = {"train_seconds": 0.0, "cpu_seconds": 0.0, "pairs": 0, "diverged": False}
        return Answered(chosen[0], chosen[1], cost | {"models_held": len(said)})

    def say(self, model: Model, split: str, n: int, purpose: int = 0) -> Texts:
        """``n`` samples of a model a prompt, or its greedy answer (``n`` 0)."""
        how = self.recipe["sampling"] | ({} if n else {"temperature": 0})
        return model.responses(self.worlds, split, n or 1, purpose, how)

    @property
    def sft_rows(self) -> Tensor:
        """The SFT prompts with y_ws (paper section 4.1): rows (S, N, T)."""
        texts = {source: self.samples(source, "sft") for source in self.sources}
        found = pool(self.worlds, "sft", self.model("target"), texts)
        names = [self.sources] * len(self.worlds)
        return found.rows(found.best(names, self.recipe["reward"]["sigma"]))

    def samples(self, name: str, split: str) -> Texts:
        """Samples that pairing chooses from: five a prompt, and some more of a policy."""
        if split == "heldout":
            return self.answers(name).sampled
        of_source = name in self.sources
        n = FIRST if of_source else 2 * FIRST
        purpose = 11 + self.sources.index(name) if of_source else 10
        return self.keep(
            f"samples/{name}-{split}", lambda: self.say(self.model(name), split, n, purpose)
        )

    def pool(self, split: str, own: str) -> Pool:
        """Scored responses of all sources and of ``own`` to the prompts of a split: the first five
        samples, and the rest of ``own``'s as its spare ones."""
        said = {name: self.samples(name, split) for name in (*self.sources, own)}
        texts = {n: [[r[:FIRST] for r in world] for world in t] for n, t in said.items()}
        texts[f"{own}_spare"] = [[r[FIRST:] for r in world] for world in said[own]]
        return self.keep(
            f"pools/{own}-{split}", lambda: pool(self.worlds, split, self.model("target"), texts)
        )


def outcomes(stage: Stage, name: str) -> pd.DataFrame:
    """One row a held-out prompt: how many of a policy's answers are right, and how they read."""
    said, rows = stage.answers(name), []
    tok = export.tokenizer(stage.recipe["target"]["vocabulary"])
    for s, world in enumerate(stage.worlds):
        for k, prompt in enumerate(world.splits["heldout"]):
            texts = said.sampled[s][k]
            right = [quality(prompt, t) == 1 for t in texts]
            rows.append(
                {
                    "arm": name,
                    "seed": world.seed,
                    "prompt": k,
                    "skill": sorted(world.classes).index(prompt.skill),
                    "class": world.classes[prompt.skill],
                    "greedy": int(quality(prompt, said.greedy[s][k][0]) == 1),
                    "right": sum(right),
                    "n": len(right),
                    "any5": int(any(right[:FIRST])),
                    "style": sum(map(source_style, texts)),
                    "length": sum(len(tok.tokenize(t)) + 1 for t in texts),
                    "repeats": sum(map(repeats, texts)),
                }
            )
    return pd.DataFrame(rows)
