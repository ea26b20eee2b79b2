"""Sampling with a transformers model in this process: batched, with a seed for every response."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

from wrpo_lib.errors import WRPOError
from wrpo_lib.generation.prompts import Renderer
from wrpo_lib.generation.request import Request, Response, Sampling

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

WINDOW = 2048  # requests sorted by length together; what is held in memory at a time
FEW = 64  # candidates that nearly always hold the nucleus, so that no full sort is needed


@dataclass(frozen=True)
class _Row:
    """One response to make: its rendered prompt and its seed."""

    key: str
    sample: int
    seed: int
    ids: list[int]
    sampling: Sampling
    max_tokens: int


class LocalEngine:
    """``model.generate`` over batches sorted by length and sized by a token budget.

    ``batch_tokens`` bounds rows times (longest prompt + max_tokens), the cache's size, and
    ``batch_rows`` the rows. Every row draws from a generator of its own, seeded with the seed that
    its response records, by inverting the distribution function of the nucleus at one uniform
    number a step. So a response depends on the model, the prompt and its seed, not on what else
    was in the batch or in the run; only rounding differs with the batch's shape (about 1e-6 in
    float32, more in bfloat16), which rarely, and then only where the draw falls within that of
    a token's border, gives another token. A batch that does not fit into GPU memory is halved.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        batch_tokens: int = 32768,
        batch_rows: int = 256,
    ) -> None:
        self.model, self.tokenizer = model, tokenizer
        self.batch_tokens, self.batch_rows = batch_tokens, batch_rows
        self.renderer = Renderer(tokenizer)
        self.ends = _end_tokens(model, tokenizer)
        self.pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else self.ends[0]
        self.context = getattr(model.config, "max_position_embeddings", None)

    @property
    def folded(self) -> int:
        """Prompts whose system turn went into the user turn."""
        return self.renderer.folded

    def __call__(self, requests: Iterable[Request]) -> Iterator[Response]:
        """Responses batch by batch."""
        import torch

        was_training = self.model.training
        self.model.eval()
        source = iter(requests)
        try:
            with torch.inference_mode():
                while window := list(islice(source, WINDOW)):
                    yield from self._window(window)
        finally:
            self.model.train(was_training)

    def _window(self, requests: list[Request]) -> Iterator[Response]:
        rows: list[_Row] = []
        for request in requests:
            found = self._rows(request)
            rows += [r for r in found if isinstance(r, _Row)]
            yield from (r for r in found if isinstance(r, Response))
        rows.sort(key=lambda r: (r.max_tokens, len(r.ids)))
        while rows:
            size = self._batch_size(rows)
            batch, rows = rows[:size], rows[size:]
            yield from self._generate(batch)

    def _rows(self, request: Request) -> list[_Row | Response]:
        """What to make for a request; a prompt that cannot be answered fails alone."""
        sampling, key = request.sampling, request.key
        try:
            ids = self.renderer.ids(request.messages)
            room = self.context - len(ids) if self.context else sampling.max_tokens
            if room < 1:
                raise WRPOError(f"the prompt has {len(ids)} tokens, the context {self.context}")
        except WRPOError as error:
            return [
                Response(key, k, "", 0, "error", sampling.seed_of(key, k), str(error))
                for k in request.wanted
            ]
        most = min(sampling.max_tokens, room)
        return [_Row(key, k, sampling.seed_of(key, k), ids, sampling, most) for k in request.wanted]

    def _batch_size(self, rows: list[_Row]) -> int:
        """How many of the next rows, sorted by length and of one kind, fit into one batch."""
        size = 0
        for row in rows[: self.batch_rows]:
            kind = (row.max_tokens, row.sampling.temperature, row.sampling.top_p)
            first = (rows[0].max_tokens, rows[0].sampling.temperature, rows[0].sampling.top_p)
            needed = (size + 1) * (len(row.ids) + row.max_tokens)
            if size and (kind != first or needed > self.batch_tokens):
                break
            size += 1
        return size

    def _generate(self, rows: list[_Row]) -> Iterator[Response]:
        import torch

        try:
            output = self._tokens(rows)
        except torch.OutOfMemoryError as error:
            if len(rows) == 1:
                raise WRPOError(
                    f"one response of {rows[0].max_tokens} tokens does not fit into memory; lower "
                    "max_tokens or use a larger GPU"
                ) from error
            output = None
        if output is None:  # outside of the handler, which would keep the failed batch alive
            torch.cuda.empty_cache()
            half = len(rows) // 2
            yield from self._generate(rows[:half])
            yield from self._generate(rows[half:])
            return
        for row, tokens in zip(rows, output, strict=True):
            yield self._response(row, tokens)

    def _tokens(self, rows: list[_Row]) -> list[list[int]]:
        """New tokens of each row, with padding after the end."""
        prompts = {id(r.ids): r.ids for r in rows}  # the samples of a request share one list
        place = {prompt: k for k, prompt in enumerate(prompts)}
        each = [place[id(r.ids)] for r in rows]
        inputs = self.tokenizer.pad(
            {"input_ids": list(prompts.values())}, padding_side="left", return_tensors="pt"
        ).to(self.model.device)
        shared: dict[str, Any] = {}
        if len(prompts) < len(rows) and min(map(len, prompts.values())) > 1:
            shared = self._prefill(inputs, each)
        first = rows[0]
        draw = [Draw(first.sampling, [r.seed for r in rows], first.max_tokens)]
        output = self.model.generate(
            input_ids=inputs["input_ids"][each],
            attention_mask=inputs["attention_mask"][each],
            logits_processor=draw if first.sampling.temperature else [],
            generation_config=self._settings(first.max_tokens),
            **shared,
        )
        new: list[list[int]] = output[:, inputs["input_ids"].shape[1] :].tolist()
        return new

    def _prefill(self, inputs: Any, each: list[int]) -> dict[str, Any]:
        """The cache of all prompt tokens but the last, computed once a prompt, copied to its rows.

        Nothing for architectures whose cache cannot be copied by row.
        """
        import torch
        from transformers.cache_utils import DynamicCache, DynamicLayer

        made = self.model.generate(
            input_ids=inputs["input_ids"][:, :-1],
            attention_mask=inputs["attention_mask"][:, :-1],
            generation_config=self._settings(1, return_dict_in_generate=True),
        )
        cache = made.past_key_values
        plain = isinstance(cache, DynamicCache)
        if not plain or not all(isinstance(layer, DynamicLayer) for layer in cache.layers):
            return {}
        cache.batch_select_indices(torch.tensor(each, device=self.model.device))
        return {"past_key_values": cache}

    def _settings(self, max_tokens: int, **more: Any) -> Any:
        from transformers import GenerationConfig

        return GenerationConfig(
            **NEUTRAL, **more, max_new_tokens=max_tokens, max_length=None,
            eos_token_id=self.ends, pad_token_id=self.pad,
        )  # fmt: skip

    def _response(self, row: _Row, tokens: list[int]) -> Response:
        end = next((k for k, token in enumerate(tokens) if token in self.ends), None)
        body = tokens if end is None else tokens[:end]
        text = self.tokenizer.decode(body, skip_special_tokens=True)
        reason = "length" if end is None else "stop"
        return Response(row.key, row.sample, text, len(body) + (end is not None), reason, row.seed)


NEUTRAL: dict[str, Any] = {
    "do_sample": False, "num_beams": 1, "temperature": 1.0, "top_p": 1.0, "top_k": 50,
    "repetition_penalty": 1.0, "use_cache": True,
}  # fmt: skip
"""Settings that change nothing, so that a model's own generation defaults do not either."""


class Draw:
    """A logits processor that leaves one token a row: the one drawn from the row's nucleus."""

    def __init__(self, sampling: Sampling, seeds: list[int], max_tokens: int) -> None:
        import torch

        self.temperature, self.top_p, self.step = sampling.temperature, sampling.top_p, 0
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        self.uniform = torch.stack([torch.rand(max_tokens, generator=g) for g in generators])

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """(B, V) logits in; out, 0 at the token drawn and -inf elsewhere."""
        import torch

        probs = torch.softmax(scores.float() / self.temperature, dim=-1)
        u = self.uniform[:, self.step].to(probs.device)
        self.step += 1
        token = draw_nucleus(probs, u, self.top_p)
        return torch.full_like(scores, -torch.inf).scatter_(1, token[:, None], 0.0)


def draw_nucleus(probs: torch.Tensor, u: torch.Tensor, top_p: float) -> torch.Tensor:
    """The token at the quantile ``u`` of the nucleus of each row: (B, V), (B,) -> (B,).

    The nucleus is the smallest set of most probable tokens whose sum reaches ``top_p``; its tokens
    are taken from the most probable down.
    """
    import torch

    few = min(FEW, probs.shape[1])
    ordered, index = probs.topk(few, dim=-1)  # (B, few), sorted
    if few < probs.shape[1] and bool((ordered.sum(-1) < top_p).any()):
        ordered, index = probs.sort(dim=-1, descending=True, stable=True)
    upto = ordered.cumsum(-1)
    kept = torch.where(upto - ordered < top_p, ordered, 0.0)  # the first one is always kept
    upto = kept.cumsum(-1)
    place = torch.searchsorted(upto, (u * upto[:, -1])[:, None], right=True)
    last = (kept > 0).sum(-1, keepdim=True) - 1
    return index.gather(1, torch.minimum(place, last))[:, 0]


def _end_tokens(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Every token that ends a turn: the tokenizer's and those of the generation configuration."""
    given = model.generation_config.eos_token_id if model.generation_config else None
    ends = given if isinstance(given, list) else [given]
    found = sorted({e for e in (*ends, tokenizer.eos_token_id) if e is not None})
    if not found:
        raise WRPOError("neither tokenizer nor model has an end token; set tokenizer.eos_token")
    return found
