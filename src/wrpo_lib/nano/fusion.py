"""From pretrained nano models to scored responses, for S worlds side by side or live for one.

Text is all that crosses from one model to another: a response is sampled in its model's
vocabulary, read as text, scored as text, and written in the target's vocabulary where it trains.
"""

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from filelock import FileLock
from torch import Tensor
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from wrpo_lib.io import file_hash, replacing
from wrpo_lib.nano.batch import PAD, Params, Shape, build, fit, sample, token_logps, tokenizer
from wrpo_lib.nano.world import Prompt, World, nano_recipe, quality, reward_noise, score_rows
from wrpo_lib.records import project_root

Texts = list[list[list[str]]]  # responses [S][N][n]
SAMPLES = 5  # of a model to a prompt, from which pairing chooses (paper section 4.1)


@dataclass(frozen=True)
class Model:
    """S members of one kind: their parameters, and the vocabulary they speak."""

    params: Params
    shape: Shape
    kind: str

    @property
    def prompt(self) -> int:
        """Tokens of a rendered prompt, of which all have one length in any vocabulary."""
        return int(self.prompt_ids([Prompt("blend", "ABCD")]).shape[1])

    def prompt_ids(self, prompts: list[Prompt]) -> Tensor:
        """Rendered prompts (N, T)."""
        turn = [{"role": "user", "content": "{}"}]
        how: dict[str, Any] = {"add_generation_prompt": True, "tokenize": False}
        rendered = tokenizer(self.kind).apply_chat_template(turn, **how)
        return self._ids([rendered.format(prompt.text) for prompt in prompts])

    def response_ids(self, responses: list[str], length: int) -> Tensor:
        """Responses with their end token (N, length), padded, or cut to ``length``."""
        texts, place = np.unique(responses, return_inverse=True)  # many say the same
        how = {"padding": "max_length", "truncation": True, "max_length": length}
        return self._ids([f"{text}<end>" for text in texts], **how)[torch.from_numpy(place)]

    def _ids(self, texts: list[str], **padding: Any) -> Tensor:
        only = dict.fromkeys(("return_attention_mask", "return_token_type_ids"), False)
        found = tokenizer(self.kind)(texts, add_special_tokens=False, **only, **padding)
        return torch.tensor(found["input_ids"])

    def responses(self, worlds: list[World], split: str, n: int, purpose: int) -> Texts:
        """``n`` samples [S][N][n] per prompt as the recipe's ``sampling`` has it, each purpose with
        noise of its own; greedy with ``n`` 0."""
        how = worlds[0].recipe["sampling"]
        prompts = torch.stack([self.prompt_ids(w.splits[split]) for w in worlds])
        sizes = (prompts.shape[1], n or 1, how["tokens"][self.kind])
        noise = np.stack([w.rng(7, purpose).random(sizes, np.float32) for w in worlds])
        options = {"temperature": how["temperature"] if n else 0, "top_p": how["top_p"]}
        parts = zip(prompts.split(256, 1), torch.from_numpy(noise).split(256, 1), strict=True)
        drawn = [sample(self.params, *(p, self.shape.heads, u), **options) for p, u in parts]
        ids = torch.cat(drawn, dim=1)
        texts = tokenizer(self.kind).batch_decode(ids.flatten(0, 2), skip_special_tokens=True)
        return np.array(texts, dtype=object).reshape(ids.shape[:3]).tolist()

    @torch.no_grad()
    def score(self, rows: Tensor, prompt: int | None = None) -> Tensor:
        """log π (S, N) of what follows ``prompt`` tokens in rows (S, N, T): of the responses, 512
        rows of each member at a time."""
        given = prompt or self.prompt, self.shape.heads
        parts = [token_logps(self.params, part, *given).sum(-1) for part in rows.split(512, 1)]
        return torch.cat(parts, dim=1)

    def export(self, member: int) -> tuple[LlamaForCausalLM, PreTrainedTokenizerFast]:
        """One member as a transformers model with its tokenizer; logits agree to 1e-5."""
        model = self.shape.llama()
        state = {name: value[member].detach().clone() for name, value in self.params.items()}
        model.load_state_dict(state | {"lm_head.weight": state["model.embed_tokens.weight"]})
        return model, tokenizer(self.kind)


def sft(model: Model, rows: Tensor, spec: dict[str, Any], rngs: list[Any]) -> Model:
    """A model trained on rows (S, N, T) by −log π per token, each member in an order of its own.

    ``spec``: what :func:`~wrpo_lib.nano.batch.fit` takes, ``batch``, and the weight of the prompt's
    tokens, ``on_prompt`` (0).
    """
    on_prompt = spec.get("on_prompt", 0.0)
    start = 1 if on_prompt else model.prompt

    def batches() -> Iterator[Tensor]:
        members = torch.arange(len(rngs))[:, None]
        while True:
            order = torch.from_numpy(np.stack([rng.permutation(rows.shape[1]) for rng in rngs]))
            for part in order.split(spec["batch"], dim=1):
                if part.shape[1] == spec["batch"]:
                    yield rows[members, part]

    def loss(params: Params, ids: Tensor, step: int) -> Tensor:
        logps = token_logps(params, ids, start, model.shape.heads)
        weights = (ids[..., start:] != PAD).float()
        weights[..., : model.prompt - start] = on_prompt
        return -(logps * weights).sum((1, 2)) / weights.sum((1, 2))

    return replace(model, params=fit(model.params, batches(), loss, spec)[0])


def pretrained(worlds: list[World], name: str) -> Model:
    """The target (``target``) or a source (``source_1`` and so on) of each world, from scratch."""
    recipe = worlds[0].recipe
    number = 0 if name == "target" else int(name.removeprefix("source_"))
    spec = recipe["sources"]["models"][number - 1] if number else recipe["target"]
    shape = Shape(len(tokenizer(spec["vocabulary"])), **spec["shape"])
    seeds = [int(w.rng(8, number).integers(2**31)) for w in worlds]
    model = Model(build(shape, seeds), shape, spec["vocabulary"])
    for k, phase in enumerate(spec["phases"]):
        rows = []
        for world in worlds:
            texts = world.source_texts(number, k) if number else world.target_texts(k)
            prompts, said = map(list, zip(*texts, strict=True))
            ids = model.response_ids(said, recipe["sampling"]["tokens"][model.kind])
            rows.append(torch.cat([model.prompt_ids(prompts), ids], dim=1))
        model = sft(model, torch.stack(rows), phase, [w.rng(9, number, k) for w in worlds])
    return model


@dataclass(frozen=True)
class Pool:
    """Scored responses to N prompts of S worlds in K slots per prompt: ``ids`` (S, N, K, L) in the
    target's vocabulary, ``quality`` and ``noise`` (S, N, K); ``slots`` of each model."""

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
        """Slot (S, N) of the best response of some models by reward, or the second, or the worst;
        of equals the first. ``names``: the models of each world, or one list for all."""
        slots = np.array([[k for name in own for k in self.slots[name]] for own in names])
        found = np.take_along_axis(self.rewards(sigma), slots[:, None], -1)
        order = np.argsort(found if lowest else -found, axis=-1, kind="stable")[..., rank - 1]
        return torch.from_numpy(np.take_along_axis(slots, order, -1))

    def right(self, slot: Tensor) -> np.ndarray:
        """Whether the response of a slot (S, N) is right."""
        return np.take_along_axis(self.quality, slot.numpy()[..., None], -1)[..., 0] == 1

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
        flat = target.response_ids([t for row in joined for t in row], length)
        ids.append(flat.view(len(prompts), -1, length))
        for prompt, row in zip(prompts, joined, strict=True):
            unique, place = np.unique(row, return_inverse=True)
            scores.append(np.array([quality(prompt, text) for text in unique])[place])
            errors.append(np.array(reward_noise(prompt, unique))[place])
    asked = torch.stack([target.prompt_ids(w.splits[split]) for w in worlds])
    size = *asked.shape[:2], -1
    return Pool(asked, torch.stack(ids), np.reshape(scores, size), np.reshape(errors, size), slots)


def keep(path: Path, make: Callable[[], Any]) -> Any:
    """What ``make`` returned when it was first called; a kill leaves no half of a file."""
    if not path.is_file():
        value = make()
        with replacing(path) as part:
            torch.save(value, part)
    return torch.load(path, weights_only=False)


def live_target() -> tuple[World, LlamaForCausalLM, PreTrainedTokenizerFast]:
    """The world of seed 0, which the study does not report, and its target for transformers: half a
    minute on one core, once per recipe and state of the testbed's code."""
    torch.set_num_threads(1)  # suits models this small
    world = World(0, nano_recipe())
    code = [file_hash(path) for path in sorted(Path(__file__).parent.glob("*.py"))]
    known = hashlib.sha256(f"{world.recipe} {code}".encode()).hexdigest()[:12]
    kept = project_root() / "runs" / "live" / f"{known}.pt"
    with FileLock(kept.with_suffix(".lock")):  # a notebook beside this one waits for its target
        model = keep(kept, lambda: pretrained([world], "target"))
    return world, *model.export(0)


def scripted_responses(world: World, prompts: list[Prompt]) -> pd.DataFrame:
    """Five scored responses of every source to each prompt, drawn as its training texts are, so
    that a notebook needs one model only."""
    rng, tables = world.rng(14), []
    for k in range(1, len(world.weak) + 1):
        texts = [[world.source_says(k, p, rng) for _ in range(SAMPLES)] for p in prompts]
        tables.append(scored(f"source_{k}", prompts, texts))
    return pd.concat(tables, ignore_index=True)


def scored(model: str, prompts: list[Prompt], texts: list[list[str]]) -> pd.DataFrame:
    """Responses of ``model``, a list for each prompt, with their rewards, as pairing reads them."""
    rows = [
        {"prompt_id": prompt.prompt_id, "model": model, "sample": k, "text": text}
        for prompt, own in zip(prompts, texts, strict=True)
        for k, text in enumerate(own)
    ]
    return pd.DataFrame(rows).assign(reward=[reward for _, reward in score_rows(rows)])
