"""From pretrained nano models to a trained policy, for S worlds side by side.

Text is all that crosses from one model to another: a response is sampled in its model's
vocabulary, read as text, scored as text, and written in the target's vocabulary where it trains.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from wrpo_lib.nano import export
from wrpo_lib.nano.batch import PAD, Params, Shape, build, copy_of, fit, sample, token_logps
from wrpo_lib.nano.world import Prompt, World, quality, reward_noise

Texts = list[list[list[str]]]
"""Responses [S][N][n]."""


@dataclass(frozen=True)
class Model:
    """S members of one kind: their parameters, and the vocabulary they speak."""

    params: Params
    shape: Shape
    kind: str

    @property
    def tokenizer(self) -> Any:
        """The vocabulary's tokenizer."""
        return export.tokenizer(self.kind)

    @property
    def prompt(self) -> int:
        """Tokens of a rendered prompt."""
        return int(self.prompt_ids([Prompt("blend", "ABCD")]).shape[1])

    @property
    def broken(self) -> Tensor:
        """Which members (S,) have a parameter that is not finite."""
        whole = [p.isfinite().flatten(1).all(1) for p in self.params.values()]
        return ~torch.stack(whole).all(0)

    def prompt_ids(self, prompts: list[Prompt]) -> Tensor:
        """Rendered prompts (N, T)."""
        return export.prompt_ids(self.tokenizer, [p.text for p in prompts])

    def rows(self, texts: list[tuple[Prompt, str]], length: int) -> Tensor:
        """Prompts and responses as ids (N, T + length)."""
        answers = export.response_ids(self.tokenizer, [response for _, response in texts], length)
        return torch.cat([self.prompt_ids([prompt for prompt, _ in texts]), answers], dim=1)

    def responses(
        self, worlds: list[World], split: str, n: int, purpose: int, how: dict[str, Any]
    ) -> Texts:
        """Texts [S][N][n] for the prompts of a split; a purpose has noise of its own.

        ``how``: ``temperature``, ``top_p`` and ``tokens``, the most a response may have.
        """
        prompts = torch.stack([self.prompt_ids(w.splits[split]) for w in worlds])
        length = how["tokens"][self.kind]
        sizes = (prompts.shape[1], n, length)
        noise = np.stack([w.rng(7, purpose).random(sizes, np.float32) for w in worlds])
        options = {"temperature": how["temperature"], "top_p": how["top_p"]}
        parts = zip(prompts.split(256, 1), torch.from_numpy(noise).split(256, 1), strict=True)
        drawn = [sample(self.params, *(p, self.shape.heads, u), **options) for p, u in parts]
        ids = torch.cat(drawn, dim=1)
        texts = export.response_texts(self.tokenizer, ids.flatten(0, 2))
        table = np.array(texts, dtype=object).reshape(ids.shape[:3])
        return table.tolist()


def shuffled(rows: Tensor, batch: int, rngs: list[np.random.Generator]) -> Iterator[Tensor]:
    """Batches (S, batch, T) of rows (S, N, T) for ever, each member's order drawn by its own."""
    members = torch.arange(len(rngs))[:, None]
    while True:
        order = torch.from_numpy(np.stack([rng.permutation(rows.shape[1]) for rng in rngs]))
        for part in order.split(batch, dim=1):
            if part.shape[1] == batch:
                yield rows[members, part]


def sft(model: Model, rows: Tensor, spec: dict[str, Any], rngs: list[Any]) -> Model:
    """A model trained on rows (S, N, T) by −log π per token.

    ``spec``: steps, batch, learning_rate, the weight of the prompt's tokens (``on_prompt``, 0), and
    options of :func:`~wrpo_lib.nano.batch.fit`.
    """
    on_prompt = spec.get("on_prompt", 0.0)
    start = 1 if on_prompt else model.prompt

    def loss(params: Params, ids: Tensor, step: int) -> Tensor:
        logps = token_logps(params, ids, start, model.shape.heads)
        weights = (ids[..., start:] != PAD).float()
        weights[..., : model.prompt - start] = on_prompt
        return -(logps * weights).sum((1, 2)) / weights.sum((1, 2))

    params, batches = copy_of(model.params), shuffled(rows, spec["batch"], rngs)
    options = {name: spec[name] for name in ("warmup", "weight_decay", "beta2") if name in spec}
    fit(params, batches, loss, spec["steps"], spec["learning_rate"], **options)
    return replace(model, params=params)


def specification(recipe: dict[str, Any], name: str) -> dict[str, Any]:
    """The recipe's entry for the target or a source."""
    models = recipe["sources"]["models"]
    return recipe["target"] if name == "target" else models[int(name.removeprefix("source_")) - 1]


def pretrained(worlds: list[World], name: str) -> Model:
    """The target (``target``) or a source (``source_1`` and so on) of each world, from scratch."""
    recipe = worlds[0].recipe
    number = 0 if name == "target" else int(name.removeprefix("source_"))
    spec = specification(recipe, name)
    shape = Shape(len(export.tokenizer(spec["vocabulary"])), **spec["shape"])
    seeds = [int(w.rng(8, number).integers(2**31)) for w in worlds]
    model = Model(build(shape, seeds), shape, spec["vocabulary"])
    for k, phase in enumerate(spec["phases"]):
        texts = [w.source_texts(number, k) if number else w.target_texts(k) for w in worlds]
        length = recipe["sampling"]["tokens"][model.kind]
        rows = torch.stack([model.rows(t, length) for t in texts])
        model = sft(model, rows, phase, [w.rng(9, number, k) for w in worlds])
    return model


@dataclass(frozen=True)
class Pool:
    """Scored responses to N prompts of S worlds: K slots a prompt, named by their model.

    ``ids`` (S, N, K, L) in the target's vocabulary, ``quality`` and ``noise`` (S, N, K).
    """

    prompts: Tensor
    ids: Tensor
    quality: np.ndarray
    noise: np.ndarray
    slots: dict[str, list[int]]

    def rewards(self, sigma: float) -> np.ndarray:
        """The reward model's scores (S, N, K): the truth with noise of s.d. ``sigma``."""
        return self.quality + sigma * self.noise

    def best(
        self, names: list[list[str]], sigma: float, rank: int = 1, lowest: bool = False
    ) -> Tensor:
        """Slot (S, N) of the best response of some models by reward, or the second, or the worst.

        ``names``: the models of each world. Equal rewards: the first slot, as models and samples
        are numbered.
        """
        slots = np.array([[k for name in own for k in self.slots[name]] for own in names])
        found = np.take_along_axis(self.rewards(sigma), slots[:, None], -1)
        order = np.argsort(found if lowest else -found, axis=-1, kind="stable")[..., rank - 1]
        return torch.from_numpy(np.take_along_axis(slots, order, -1))

    def rows(self, slot: Tensor) -> Tensor:
        """Prompt and the response of a slot (S, N) as ids (S, N, T)."""
        index = slot[..., None, None].expand(-1, -1, 1, self.ids.shape[-1])
        return torch.cat([self.prompts, self.ids.gather(2, index)[:, :, 0]], dim=-1)


def pool(worlds: list[World], split: str, target: Model, texts: dict[str, Texts]) -> Pool:
    """Score responses [S][N][n] of several models to the prompts of a split."""
    length = worlds[0].recipe["sampling"]["tokens"][target.kind]
    slots: dict[str, list[int]] = {}
    for name, said in texts.items():
        first = sum(map(len, slots.values()))
        slots[name] = list(range(first, first + len(said[0][0])))
    ids, scores, errors = [], [], []
    for s, world in enumerate(worlds):
        prompts = world.splits[split]
        joined = [[t for of in texts.values() for t in of[s][k]] for k in range(len(prompts))]
        flat = export.response_ids(target.tokenizer, [t for row in joined for t in row], length)
        ids.append(flat.view(len(prompts), -1, length))
        scores.append([[quality(p, t) for t in r] for p, r in zip(prompts, joined, strict=True)])
        errors.append([reward_noise(p, r) for p, r in zip(prompts, joined, strict=True)])
    asked = torch.stack([target.prompt_ids(w.splits[split]) for w in worlds])
    return Pool(asked, torch.stack(ids), np.array(scores), np.array(errors), slots)
