"""The arms of the nano study: what each trains on, and what every policy answers.

A finished step is one file and is never made again, so a killed study goes on where it stopped.
"""

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from wrpo_lib.nano.batch import tokenizer
from wrpo_lib.nano.fusion import SAMPLES, Model, Pool, Texts, keep, pool, pretrained, sft
from wrpo_lib.nano.preference import Arm, Run
from wrpo_lib.nano.world import LENGTH, Prompt, World, letters, quality, reward_noise, source_style
from wrpo_lib.recipes import checked

ANSWERS = 8
"""Samples of every policy on a held-out prompt; the first five are for pass@5 and pairing."""

COLLECTIVE = ("sources_reward", "sources_pairwise", "sources_perplexity", "sources_vote")
"""Rows of Table 2 that train nothing; every source answers, and a rule chooses."""


@dataclass
class Answered:
    """A policy's held-out answers, and what its training cost."""

    sampled: Texts
    greedy: Texts
    cost: dict[str, Any]
    model: Any = None  # a Model; a collective row has none
    dynamics: list[dict[str, Any]] = field(default_factory=list)


class Stage:
    """S worlds of one recipe side by side, and the folder of what they have finished.

    ``arms``: the preference runs, each with its form's settings. ``names``: all that is compared.
    """

    def __init__(self, worlds: list[World], folder: Path) -> None:
        self.worlds, self.folder, self.recipe = worlds, folder, worlds[0].recipe
        self.sources = [f"source_{k + 1}" for k in range(len(self.recipe["sources"]["models"]))]
        self.arms: dict[str, Arm] = {}
        self.references: dict[tuple[str, bytes], Tensor] = {}
        for name, spec in self.recipe["arms"].items():
            known = checked(Arm, spec, "recipes/nano/world.yaml", f"arms.{name}.")
            settings = self.recipe["forms"][known.get("form", "dpo")] | known.get("settings", {})
            self.arms[name] = Arm(**{"id": name, **known, "settings": settings})
        self.names = ["target", *self.sources, *COLLECTIVE, *self.recipe["sft"], *self.arms]

    def answers(self, name: str) -> Answered:
        """A policy's or a collective row's answers, made once."""
        make = self._collective if name in COLLECTIVE else self._trained
        return keep(self.folder / "arms" / f"{name}.pt", lambda: make(name))

    def _trained(self, name: str) -> Answered:
        """A model that is trained; what its training needs is made before, not timed with it."""
        n, dynamics = len(self.worlds), list[dict[str, Any]]()
        train: Callable[[], Model]
        if name == "target" or name in self.sources:
            pairs, train = [0] * n, partial(pretrained, self.worlds, name)
        elif name in self.recipe["sft"]:
            target, rngs = self.answers("target").model, [w.rng(12) for w in self.worlds]
            texts = {source: self.samples(source, "sft") for source in self.sources}
            found = pool(self.worlds, "sft", target, texts)  # y_ws is trained on (section 4.1)
            rows = found.rows(found.best([self.sources], self.recipe["reward"]["sigma"]))
            spec = self.recipe["sft"][name]
            pairs, train = [rows.shape[1]] * n, partial(sft, target, rows, spec, rngs)
        else:
            arm = self.arms[name]
            pools = {part: self.pool(part, arm.own) for part in ("preference", "heldout")}
            given = self.answers(arm.start).model, pools, self.recipe["training"], self.references
            run = Run(self.worlds, arm, *given)
            pairs, train, dynamics = run.kept.tolist(), run.train, run.dynamics
        cpu, wall = time.process_time(), time.perf_counter()
        model = train()
        params = model.params.values()
        cost = {
            "train_seconds": (time.perf_counter() - wall) / n,
            "cpu_seconds": (time.process_time() - cpu) / n,
            "pairs": pairs,
            "models_held": 1,
            "diverged": [not all(p[s].isfinite().all() for p in params) for s in range(n)],
        }
        said = [model.responses(self.worlds, "heldout", k, 0) for k in (ANSWERS, 0)]
        return Answered(said[0], said[1], cost, model, dynamics)

    def _collective(self, name: str) -> Answered:
        """All sources answer; the rule chooses among their first, second ... responses."""
        found, familiar = [self.answers(source) for source in self.sources], []
        for of_source in found:  # in nats per prompt, since tokens differ between vocabularies
            model = of_source.model
            ids = torch.stack([model.prompt_ids(w.splits["heldout"]) for w in self.worlds])
            familiar.append(model.score(ids, 1).tolist())
        sigma, said = self.recipe["reward"]["sigma"], []
        for kind in ("sampled", "greedy"):
            texts: Texts = []
            for s, world in enumerate(self.worlds):
                texts.append([])
                for k, prompt in enumerate(world.splits["heldout"]):
                    known = [of_source[s][k] for of_source in familiar]
                    asked = zip(*(getattr(f, kind)[s][k] for f in found), strict=True)
                    chosen = [own[choose(name, prompt, own, sigma, known)] for own in asked]
                    texts[s].append(chosen)
            said.append(texts)
        cost = {"train_seconds": 0.0, "cpu_seconds": 0.0, "pairs": 0, "diverged": False}
        return Answered(said[0], said[1], cost | {"models_held": len(found)})

    def samples(self, name: str, split: str) -> Texts:
        """Samples that pairing chooses from: five per prompt, and five more of a policy."""
        if split == "heldout":
            return self.answers(name).sampled
        given = self.worlds, split, 2 * SAMPLES, 10
        if name in self.sources:
            given = self.worlds, split, SAMPLES, 11 + self.sources.index(name)
        path = self.folder / "samples" / f"{name}-{split}.pt"
        return keep(path, lambda: self.answers(name).model.responses(*given))

    def pool(self, split: str, own: str) -> Pool:
        """Scored responses of all sources and of ``own`` to the prompts of a split: the first five
        samples, and the rest of ``own``'s as its spare ones."""

        def make() -> Pool:
            said = {name: self.samples(name, split) for name in (*self.sources, own)}
            texts = {n: [[r[:SAMPLES] for r in world] for world in t] for n, t in said.items()}
            texts[f"{own}_spare"] = [[r[SAMPLES:] for r in world] for world in said[own]]
            return pool(self.worlds, split, self.answers("target").model, texts)

        return keep(self.folder / "pools" / f"{own}-{split}.pt", make)


def choose(
    rule: str, prompt: Prompt, texts: Sequence[str], sigma: float, familiar: list[float]
) -> int:
    """Whose answer a rule takes, of ``texts``, one per source (Table 2; how each errs is ours).

    The best by the reward model, whose noise has s.d. ``sigma``; the winner of most comparisons in
    pairs, each with its own noise; that of the source to which the prompt is the most probable
    (``familiar``, log-probabilities); the one that most give, in the words of the first.
    """
    if rule == "sources_perplexity":
        return int(np.argmax(familiar))
    if rule == "sources_vote":
        said = ["".join(letters(text)[:1]) for text in texts]
        return said.index(Counter(said).most_common(1)[0][0])
    scores = np.array([quality(prompt, text) for text in texts])
    if rule == "sources_reward":
        return int(np.argmax(scores + sigma * np.array(reward_noise(prompt, texts))))
    pairs = [f"{a}|{b}" for a in texts for b in texts]
    noise = np.reshape(reward_noise(prompt, pairs), (len(texts), -1))
    gaps = scores[:, None] - scores + sigma * (noise - noise.T)
    return int(np.argmax((gaps > 0).sum(1)))


def outcomes(stage: Stage, name: str) -> pd.DataFrame:
    """One row per held-out prompt: how many of a policy's answers are right, and how they read; at
    last the prompt and the greedy answer as text."""
    said, rows = stage.answers(name), []
    tok = tokenizer(stage.recipe["target"]["vocabulary"])
    for s, world in enumerate(stage.worlds):
        for k, prompt in enumerate(world.splits["heldout"]):
            texts, (greedy,) = said.sampled[s][k], said.greedy[s][k]
            right = [quality(prompt, t) == 1 for t in texts]
            rows.append(
                {
                    "arm": name,
                    "seed": world.seed,
                    "prompt": k,
                    "skill": sorted(world.classes).index(prompt.skill),
                    "class": world.classes[prompt.skill],
                    "greedy": int(quality(prompt, greedy) == 1),
                    "right": sum(right),
                    "n": len(right),
                    "any5": int(any(right[:SAMPLES])),
                    "style": sum(map(source_style, texts)),
                    "length": sum(map(len, tok(texts)["input_ids"])) + len(texts),
                    "repeats": sum(len("".join(letters(t))) > LENGTH for t in texts),
                    "prompt_text": prompt.text,
                    "response": greedy,
                }
            )
    return pd.DataFrame(rows)
