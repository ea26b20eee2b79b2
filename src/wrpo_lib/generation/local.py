"""Sampling and scoring with models in this process, in batches that fit.

A scorer is any callable from rows of responses to (position, reward) pairs, in any order.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from itertools import islice
from typing import Any, TypeVar

import torch
from transformers import (
    AutoModelForSequenceClassification,
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.models.llama import modeling_llama

from wrpo_lib.chat import Messages, Renderer, as_messages
from wrpo_lib.errors import WRPOError
from wrpo_lib.generation.request import Request, Response, Sampling
from wrpo_lib.io import Row
from wrpo_lib.models import load_causal_lm
from wrpo_lib.packing import padded
from wrpo_lib.replies import split_thought

T = TypeVar("T")
Rendered = list[tuple[Request, list[int]]]
Scorer = Callable[[list[Row]], Iterator[tuple[int, float]]]


class InProcess(ABC):
    """An engine with the model in this process, which draws ``window`` requests at a time."""

    renderer: Renderer
    context: int
    window = 1024  # what a kill can lose at most, where an engine answers a whole window at once

    def __call__(self, requests: Iterable[Request]) -> Iterator[Response]:
        """Responses window by window; a prompt that cannot be answered fails alone."""
        source = iter(requests)
        while window := list(islice(source, self.window)):
            rendered: Rendered = []
            for request in window:
                try:
                    rendered.append((request, self._ids(request)))
                except WRPOError as error:
                    yield Response(request.key, request.sample, "", 0, "error", 0, str(error))
            for made in self._generate(rendered) if rendered else ():
                thought, answer = split_thought(made.text)
                yield replace(made, text=answer, thought=thought)

    def _ids(self, request: Request) -> list[int]:
        ids = self.renderer.ids(request.messages)
        if len(ids) >= self.context:
            raise WRPOError(f"the prompt has {len(ids)} tokens, the context {self.context}")
        return ids

    @abstractmethod
    def _generate(self, rendered: Rendered) -> Iterator[Response]:
        """The responses to a window of requests, thoughts still in their texts."""


class TransformersEngine(InProcess):
    """``model.generate`` over batches sorted by length, one row per response.

    ``batch_tokens`` bounds rows times (longest prompt + max_tokens). Every batch has a seed derived
    from ``sampling.seed`` and the keys of its rows, which each response records: the same batch
    gives the same texts, but a run that is resumed makes the missing rows in other batches.
    """

    window = 10240  # requests held in memory and sorted by length together

    def __init__(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, batch_tokens: int = 32768
    ) -> None:
        self.renderer, self.context = Renderer(tokenizer), context_of(model)
        self.model, self.tokenizer, self.batch_tokens = model, tokenizer, int(batch_tokens)

    def _generate(self, rendered: Rendered) -> Iterator[Response]:
        alike = defaultdict(list)
        for request, ids in sorted(rendered, key=lambda r: (len(r[1]), r[0].key, r[0].sample)):
            limit = min(request.sampling.max_tokens, self.context - len(ids))
            alike[replace(request.sampling, max_tokens=limit)].append((request, ids))
        for sampling, rows in alike.items():
            lengths = [len(ids) + sampling.max_tokens for _, ids in rows]
            for batch in batches(rows, lengths, self.batch_tokens):
                names = "\n".join(f"{request.sample}|{request.key}" for request, _ in batch)
                seed = sampling.seed_of(names, batch[0][0].sample)
                with torch.random.fork_rng():
                    torch.manual_seed(seed)
                    made = generate(self.model, self.tokenizer, [ids for _, ids in batch], sampling)
                for (request, _), found in zip(batch, made, strict=True):
                    yield Response(request.key, request.sample, seed=seed, **found)


def context_of(model: PreTrainedModel) -> int:
    """How many tokens a model takes; without end where its configuration names no limit."""
    return getattr(model.config, "max_position_embeddings", None) or 10**9


def batches(rows: Iterable[T], lengths: Iterable[int], budget: int) -> Iterator[list[T]]:
    """Rows, sorted by length, in batches whose size times longest row is within the budget."""
    batch: list[T] = []
    for row, length in zip(rows, lengths, strict=True):
        if batch and (len(batch) + 1) * length > budget:
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch


def sample(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: list[Messages],
    *,
    n: int = 5,
    temperature: float = 0.8,
    top_p: float = 0.95,
    max_new_tokens: int = 256,
    seed: int = 0,
    batch_size: int = 256,
) -> list[list[dict[str, Any]]]:
    """``n`` responses to each prompt, ``batch_size`` prompts at a time, from one seed for all.

    Returns, per prompt and in the order given, a list of ``n`` rows with ``text``, ``n_tokens``
    (end token included) and ``finish_reason`` (``stop`` or ``length``). Temperature 0 is greedy.
    The global random state is left as it was.
    """
    sampling, renderer = Sampling(n, temperature, top_p, max_new_tokens, seed), Renderer(tokenizer)
    ids = [renderer.ids(messages) for messages in prompts]
    order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
    rows: list[list[dict[str, Any]]] = [[] for _ in ids]
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for start in range(0, len(order), batch_size):
            batch = [i for i in order[start : start + batch_size] for _ in range(n)]
            made = generate(model, tokenizer, [ids[i] for i in batch], sampling)
            for i, row in zip(batch, made, strict=True):
                rows[i].append(row)
    return rows


def generate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    ids: list[list[int]],
    sampling: Sampling,
) -> list[dict[str, Any]]:
    """One response to each prompt, in order: text, n_tokens, finish_reason.

    Draws from the global generator, without the model's own sampling defaults. The model is left
    in evaluation mode. A batch that does not fit into memory is a :class:`WRPOError`.
    """
    ends, drawn = _end_tokens(model, tokenizer), sampling.temperature > 0
    inputs = padded(ids, min(ends), "left", model.device)
    width = inputs["input_ids"].shape[1]
    settings = GenerationConfig(
        do_sample=drawn,
        temperature=sampling.temperature if drawn else 1.0,
        top_p=sampling.top_p if drawn else 1.0,
        top_k=0 if drawn else 50,
        max_new_tokens=sampling.max_tokens,
        eos_token_id=sorted(ends),
        pad_token_id=min(ends),
        # what is not said here comes from the model's defaults
        num_beams=1,
        repetition_penalty=1.0,
        use_cache=True,
        max_length=None,
    )
    try:
        with torch.inference_mode():
            output = model.eval().generate(**inputs, generation_config=settings)
    except torch.OutOfMemoryError as error:
        sizes = f"{len(ids)} responses of {sampling.max_tokens} tokens do not fit into memory"
        raise WRPOError(f"{sizes}; lower batch_tokens (or batch_size) or max_tokens") from error
    return [_read(tokenizer, tokens, ends) for tokens in output[:, width:].tolist()]


def _read(tokenizer: PreTrainedTokenizerBase, tokens: list[int], ends: set[int]) -> dict[str, Any]:
    """The response in new tokens, which may have padding after the end."""
    end = next((k for k, token in enumerate(tokens) if token in ends), None)
    text = tokenizer.decode(tokens[:end], skip_special_tokens=True)
    if end is None:
        return {"text": text, "n_tokens": len(tokens), "finish_reason": "length"}
    return {"text": text, "n_tokens": end + 1, "finish_reason": "stop"}


def _end_tokens(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """Every token that ends a turn: the tokenizer's and those of the generation configuration."""
    given = model.generation_config.eos_token_id if model.generation_config else None
    found = {tokenizer.eos_token_id, *(given if isinstance(given, list) else [given])} - {None}
    if not found:
        raise WRPOError("neither tokenizer nor model has an end token; set tokenizer.eos_token")
    return found


class RewardModel:
    """A sequence classifier with one output: Skywork-Reward, TRL's RewardTrainer, ArmoRM.

    Prompt and response are rendered together through the reward model's own chat template; batches
    hold at most ``batch_tokens`` tokens, padding included. A conversation longer than the context
    loses its beginning (``cut`` counts them). A score moves with the batch's shape by less than
    1e-5 in float32, by about 1e-2 in bfloat16.
    """

    def __init__(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, batch_tokens: int = 16384
    ) -> None:
        self.model, self.renderer, self.cut = model.eval(), Renderer(tokenizer), 0
        self.context = context_of(model)
        # by this token the model finds the last one of a row; one that names none takes single rows
        self.pad = model.config.get_text_config().pad_token_id
        self.batch_tokens = 0 if self.pad is None else batch_tokens

    def __call__(self, rows: list[Row]) -> Iterator[tuple[int, float]]:
        """(position, reward) of each row, batch by batch."""
        ids = [self._ids(row) for row in rows]
        order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
        for batch in batches(order, [len(ids[i]) for i in order], self.batch_tokens):
            yield from zip(batch, self._scores([ids[i] for i in batch]), strict=True)

    def _ids(self, row: Row) -> list[int]:
        prompt = as_messages(row.get("prompt"), f"prompt_id {row['prompt_id']!r}")
        ids = self.renderer.ids([*prompt, {"role": "assistant", "content": row["text"]}], ask=False)
        self.cut += len(ids) > self.context
        return ids[-self.context :]

    def _scores(self, ids: list[list[int]]) -> list[float]:
        inputs = padded(ids, self.pad or 0, "right", self.model.device)
        with torch.inference_mode():
            output = self.model(**inputs, return_dict=True)
        found = getattr(output, "score", None)  # ArmoRM's own output
        found = output.logits if found is None else found
        if found.numel() != len(ids):
            outputs = f"{found.numel() // len(ids)} outputs per row"
            raise WRPOError(f"the reward model has {outputs}; choose one with a single output")
        return list(found.flatten().float().tolist())


def load_reward_model(model: str, batch_tokens: int = 16384, **hub: Any) -> RewardModel:
    """A reward model; ``hub``: ``revision``, ``trust_remote_code``, ``dtype``."""
    # ArmoRM's code imports a docstring that transformers no longer has; an empty one serves
    vars(modeling_llama).setdefault("LLAMA_INPUTS_DOCSTRING", "")
    loaded = load_causal_lm(model, auto=AutoModelForSequenceClassification, **hub)
    return RewardModel(*loaded, batch_tokens)
