"""Sampling with a transformers model in this process, in batches that fit."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple

from wrpo_lib.chat import Messages, Renderer
from wrpo_lib.errors import WRPOError
from wrpo_lib.generation.request import Request, Response, Sampling

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

WINDOW = 2048  # requests held in memory and sorted by length together
NEUTRAL: dict[str, Any] = {
    "num_beams": 1,
    "repetition_penalty": 1.0,
    "top_k": 50,
    "use_cache": True,
    "max_length": None,
}
"""Settings that change nothing, so that a model's own generation defaults do not either."""


class _Row(NamedTuple):
    """One response to make."""

    key: str
    sample: int
    ids: list[int]
    sampling: Sampling
    max_tokens: int


class TransformersEngine:
    """``model.generate`` over batches sorted by length, one row per response.

    ``batch_tokens`` bounds rows times (longest prompt + max_tokens), which is the size of the key
    and value cache. A batch that does not fit into GPU memory is halved.

    What a seed promises: every batch has a generator seed derived from ``sampling.seed`` and the
    keys of its rows (or taken from ``sampling.seeds``), and each response records it. The same
    batch on the same versions and hardware gives the same texts. A run that is resumed makes the
    missing rows in other batches, with seeds of their own: as good a sample, but not the texts
    that an uninterrupted run would have made.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        batch_tokens: int = 32768,
    ) -> None:
        self.model, self.tokenizer, self.batch_tokens = model, tokenizer, batch_tokens
        self.renderer = Renderer(tokenizer)
        self.context = getattr(model.config, "max_position_embeddings", None)

    @property
    def folded(self) -> int:
        """Prompts whose system turn went into the user turn."""
        return self.renderer.folded

    def __call__(self, requests: Iterable[Request]) -> Iterator[Response]:
        """Responses batch by batch; a prompt that cannot be answered fails alone."""
        source = iter(requests)
        while window := list(islice(source, WINDOW)):
            groups: dict[Any, list[_Row]] = defaultdict(list)
            for request in window:
                try:
                    for row in self._rows(request):
                        fixed = row.sample if row.sampling.seeds else None
                        groups[row.sampling, row.max_tokens, fixed].append(row)
                except WRPOError as error:
                    yield from request.failed(str(error))
            for rows in groups.values():
                for batch in self._batches(rows):
                    yield from self._generate(batch)

    def _rows(self, request: Request) -> list[_Row]:
        ids, limit = self.renderer.ids(request.messages), request.sampling.max_tokens
        if self.context and len(ids) >= self.context:
            raise WRPOError(f"the prompt has {len(ids)} tokens, the context {self.context}")
        limit = min(limit, self.context - len(ids)) if self.context else limit
        return [_Row(request.key, k, ids, request.sampling, limit) for k in request.wanted]

    def _batches(self, rows: list[_Row]) -> Iterator[list[_Row]]:
        """Rows of one kind in batches that keep to the budget, whatever order they came in."""
        batch: list[_Row] = []
        for row in sorted(rows, key=lambda row: (len(row.ids), row.key, row.sample)):
            if (len(batch) + 1) * (len(row.ids) + row.max_tokens) > self.batch_tokens and batch:
                yield batch
                batch = []
            batch.append(row)
        yield batch

    def _generate(self, rows: list[_Row]) -> Iterator[Response]:
        import torch

        sampling, limit = rows[0].sampling, rows[0].max_tokens
        names = "\n".join(f"{row.sample}|{row.key}" for row in rows)
        seed = sampling.seed_of(names, rows[0].sample)
        made = None
        try:
            with torch.random.fork_rng():
                torch.manual_seed(seed)
                ids = [row.ids for row in rows]
                made = generate(self.model, self.tokenizer, ids, sampling, limit)
        except torch.OutOfMemoryError as error:
            if len(rows) == 1:
                raise WRPOError(
                    f"one response of {limit} tokens does not fit into memory; lower max_tokens or "
                    "use a larger GPU"
                ) from error
        if made is None:  # outside the handler, which would keep the failed batch alive
            torch.cuda.empty_cache()
            half = len(rows) // 2
            yield from self._generate(rows[:half])
            yield from self._generate(rows[half:])
            return
        for row, found in zip(rows, made, strict=True):
            yield Response(row.key, row.sample, seed=seed, **found)


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
    import torch

    sampling = Sampling(n, temperature, top_p, max_new_tokens)
    renderer = Renderer(tokenizer)
    ids = [renderer.ids(messages) for messages in prompts]
    order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
    rows: list[list[dict[str, Any]]] = [[] for _ in ids]
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for start in range(0, len(order), batch_size):
            batch = [i for i in order[start : start + batch_size] for _ in range(n)]
            made = generate(model, tokenizer, [ids[i] for i in batch], sampling, max_new_tokens)
            for i, row in zip(batch, made, strict=True):
                rows[i].append(row)
    return rows


def generate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    ids: list[list[int]],
    sampling: Sampling,
    max_tokens: int,
) -> list[dict[str, Any]]:
    """One padded batch of prompts through ``model.generate``: text, n_tokens, finish_reason.

    Draws from the global generator. A model's own generation defaults, such as a top-k, are not
    applied, but the end tokens that they name are.
    """
    import torch
    from transformers import GenerationConfig

    ends, drawn = _end_tokens(model, tokenizer), sampling.temperature > 0
    settings = GenerationConfig(
        **NEUTRAL | ({"top_k": 0} if drawn else {}),
        do_sample=drawn,
        temperature=sampling.temperature if drawn else 1.0,
        top_p=sampling.top_p if drawn else 1.0,
        max_new_tokens=max_tokens,
        eos_token_id=sorted(ends),
        pad_token_id=min(ends),
    )
    width = max(map(len, ids))
    padded = [[min(ends)] * (width - len(row)) + row for row in ids]
    mask = [[0] * (width - len(row)) + [1] * len(row) for row in ids]
    was_training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            output = model.generate(
                input_ids=torch.tensor(padded, device=model.device),
                attention_mask=torch.tensor(mask, device=model.device),
                generation_config=settings,
            )
    finally:
        model.train(was_training)
    return [_read(tokenizer, tokens, ends) for tokens in output[:, width:].tolist()]


def _read(tokenizer: PreTrainedTokenizerBase, tokens: list[int], ends: set[int]) -> dict[str, Any]:
    """The response in new tokens, which may have padding after the end."""
    end = next((k for k, token in enumerate(tokens) if token in ends), None)
    return {
        "text": tokenizer.decode(tokens[:end], skip_special_tokens=True),
        "n_tokens": len(tokens) if end is None else end + 1,
        "finish_reason": "length" if end is None else "stop",
    }


def _end_tokens(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """Every token that ends a turn: the tokenizer's and those of the generation configuration."""
    given = model.generation_config.eos_token_id if model.generation_config else None
    ends = given if isinstance(given, list) else [given]
    found = {e for e in (*ends, tokenizer.eos_token_id) if e is not None}
    if not found:
        raise WRPOError("neither tokenizer nor model has an end token; set tokenizer.eos_token")
    return found
