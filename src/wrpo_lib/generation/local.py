"""Sampling and scoring with models in this process, in batches that fit."""

from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any, TypeVar

import psutil
import torch
from transformers import (
    AutoModelForSequenceClassification,
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.models.llama import modeling_llama

from wrpo_lib.chat import Messages, Renderer, as_messages
from wrpo_lib.errors import WRPOError, explained
from wrpo_lib.generation.stage import Request, Response, Sampling, windows
from wrpo_lib.io import Row
from wrpo_lib.models import load_causal_lm
from wrpo_lib.replies import split_thought
from wrpo_lib.sharing import padded

T = TypeVar("T")
Rendered = list[tuple[Request, list[int]]]
WINDOW = 10240  # requests or rows held in memory and sorted by length together
UNLIMITED = 10**9  # the context of a model whose configuration names none


class InProcess(ABC):
    """An engine with the model in this process, which draws ``window`` requests at a time."""

    renderer: Renderer
    context: int
    window = 1024  # what a kill can lose at most, where an engine answers a whole window at once

    def __call__(self, requests: Iterable[Request]) -> Iterator[Response]:
        """Responses window by window; a prompt that cannot be answered fails alone."""
        for window in windows(requests, self.window):
            rendered: Rendered = []
            for request in window:
                try:
                    ids = self.renderer.ids(request.messages)
                    if len(ids) >= self.context:
                        sizes = f"{len(ids)} tokens, the context {self.context}"
                        raise WRPOError(f"the prompt has {sizes}")
                    rendered.append((request, ids))
                except WRPOError as error:
                    yield Response(request.key, request.sample, "", 0, "error", 0, str(error))
            for made in self._generate(rendered) if rendered else ():
                thought, answer = split_thought(made.text)
                yield replace(made, text=answer, thought=thought)

    @abstractmethod
    def _generate(self, rendered: Rendered) -> Iterator[Response]:
        """The responses to a window of requests, thoughts still in their texts."""


class TransformersEngine(InProcess):
    """``model.generate`` over batches sorted by length, one row per response.

    ``batch_tokens`` and the free memory bound rows times (longest prompt + max_tokens). Every batch
    has a seed derived from ``sampling.seed`` and the keys of its rows, which each response records;
    a resumed run makes the missing rows in other batches.
    """

    window = WINDOW

    def __init__(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, batch_tokens: int = 32768
    ) -> None:
        self.renderer = Renderer(tokenizer)
        self.context = getattr(model.config, "max_position_embeddings", None) or UNLIMITED
        self.model, self.tokenizer = model, tokenizer
        self.batch_tokens = min(int(batch_tokens), tokens_that_fit(model))

    def _generate(self, rendered: Rendered) -> Iterator[Response]:
        alike = defaultdict(list)
        for request, ids in sorted(rendered, key=lambda row: (row[0].key, row[0].sample)):
            limit = min(request.sampling.max_tokens, self.context - len(ids))
            alike[replace(request.sampling, max_tokens=limit)].append((request, ids))
        for sampling, rows in alike.items():
            for batch in batches(rows, self.batch_tokens, sampling.max_tokens):
                names = "\n".join(f"{request.sample}|{request.key}" for request, _ in batch)
                seed = sampling.seed_of(names, batch[0][0].sample)
                with torch.random.fork_rng():
                    torch.manual_seed(seed)
                    prompts = [ids for _, ids in batch]
                    made = list(generate(self.model, self.tokenizer, prompts, sampling))
                for (request, _), found in zip(batch, made, strict=True):
                    yield Response(request.key, request.sample, *found, seed)


def tokens_that_fit(model: PreTrainedModel) -> int:
    """How many tokens' keys and values take half of the memory that is free beside the model."""
    text, free = model.config.get_text_config(), psutil.virtual_memory().available
    if model.device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(model.device)
    queries = getattr(text, "num_attention_heads", 1)  # a recurrent model has none
    heads = getattr(text, "num_key_value_heads", None) or queries
    width = getattr(text, "head_dim", None) or text.hidden_size // queries
    return int(free // (4 * text.num_hidden_layers * heads * width * model.dtype.itemsize))


def batches(
    rows: list[tuple[T, list[int]]], budget: int, more: int = 0
) -> Iterator[list[tuple[T, list[int]]]]:
    """Rows by decreasing length; rows times (the longest row + ``more``) is at most ``budget``."""
    rows = sorted(rows, key=lambda row: len(row[1]), reverse=True)
    while rows:
        size = max(1, budget // (len(rows[0][1]) + more))
        yield rows[:size]
        rows = rows[size:]


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
) -> list[list[dict[str, Any]]]:
    """``n`` responses to each prompt by a :class:`TransformersEngine`; temperature 0 is greedy.

    Returns, per prompt and in the order given, a list of ``n`` rows with ``text``, ``n_tokens``
    (end token included) and ``finish_reason`` (``stop`` or ``length``).
    """
    how = Sampling(n, temperature, top_p, max_new_tokens, seed)
    asked = [Request(f"{i:09}", m, how, k) for i, m in enumerate(prompts) for k in range(n)]
    rows: list[list[dict[str, Any]]] = [[{}] * n for _ in prompts]
    for made in TransformersEngine(model, tokenizer)(asked):
        if made.error:
            raise WRPOError(f"prompt {int(made.key) + 1}: {made.error}; shorten it")
        rows[int(made.key)][made.sample] = made.row()
    return rows


def generate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    ids: list[list[int]],
    sampling: Sampling,
) -> Iterator[tuple[str, int, str]]:
    """One response to each prompt, in order: text, number of tokens, finish reason.

    Draws from the global generator, without the model's own sampling defaults. The model is left
    in evaluation mode.
    """
    given = model.generation_config.eos_token_id if model.generation_config else None
    ends = {tokenizer.eos_token_id, *(given if isinstance(given, list) else [given])} - {None}
    inputs, drawn = padded(ids, min(ends), "left", model.device), sampling.temperature > 0
    how = {"temperature": sampling.temperature, "top_p": sampling.top_p, "top_k": 0}
    settings = GenerationConfig(
        do_sample=drawn,
        **(how if drawn else {"temperature": 1.0, "top_p": 1.0, "top_k": 50}),
        max_new_tokens=sampling.max_tokens,
        eos_token_id=sorted(ends),
        pad_token_id=min(ends),
        # what is not said here comes from the model's defaults
        **{"num_beams": 1, "repetition_penalty": 1.0, "use_cache": True, "max_length": None},
    )
    remedy = "if memory is short, lower batch_tokens or max_tokens"
    with explained(f"sampling {len(ids)} responses failed", remedy), torch.inference_mode():
        output = model.eval().generate(**inputs, generation_config=settings)
    for tokens in output[:, inputs["input_ids"].shape[1] :].tolist():
        end = next((k for k, token in enumerate(tokens) if token in ends), None)
        text = tokenizer.decode(tokens[:end], skip_special_tokens=True)
        yield (text, len(tokens), "length") if end is None else (text, end + 1, "stop")


class RewardModel:
    """A sequence classifier with one output: Skywork-Reward, TRL's RewardTrainer, ArmoRM.

    Prompt and response are rendered together by its own chat template; a conversation longer than
    the context loses its beginning (``cut`` counts them). Batches hold at most ``batch_tokens``,
    padding included.
    """

    def __init__(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, batch_tokens: int = 16384
    ) -> None:
        self.model, self.renderer, self.cut = model.eval(), Renderer(tokenizer), 0
        # by this token the model finds the last one of a row; one that names none takes single rows
        self.pad = model.config.get_text_config().pad_token_id
        self.batch_tokens = 0 if self.pad is None else batch_tokens

    def __call__(self, rows: Iterable[Row]) -> Iterator[tuple[Row, float]]:
        """Each row with its reward, batch by batch."""
        context = getattr(self.model.config, "max_position_embeddings", None) or UNLIMITED
        for window in windows(rows, WINDOW):
            rendered = []
            for row in window:
                prompt = as_messages(row.get("prompt"), f"prompt_id {row['prompt_id']!r}")
                said = {"role": "assistant", "content": row["text"]}
                ids = self.renderer.ids([*prompt, said], ask=False)
                self.cut += len(ids) > context
                rendered.append((row, ids[-context:]))
            for batch in batches(rendered, self.batch_tokens):
                own = [ids for _, ids in batch]
                inputs = padded(own, self.pad or 0, "right", self.model.device)
                with torch.inference_mode():
                    output = self.model(**inputs, return_dict=True)
                found = output.score if hasattr(output, "score") else output.logits  # ArmoRM: score
                if found.numel() != len(batch):
                    raise WRPOError("the reward model has several outputs; choose one with a score")
                rewards = found.flatten().float().tolist()
                yield from zip((row for row, _ in batch), rewards, strict=True)


def load_reward_model(model: str, batch_tokens: int = 16384, **hub: Any) -> RewardModel:
    """A reward model; ``hub``: ``revision``, ``trust_remote_code``, ``dtype``."""
    # ArmoRM's code imports a docstring that transformers no longer has; an empty one serves
    vars(modeling_llama).setdefault("LLAMA_INPUTS_DOCSTRING", "")
    loaded = load_causal_lm(model, auto=AutoModelForSequenceClassification, **hub)
    return RewardModel(*loaded, batch_tokens)
