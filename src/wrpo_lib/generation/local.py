"""Sampling with a transformers model in this process: batched, with a seed for every response."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

from wrpo_lib.chat import Renderer
from wrpo_lib.errors import WRPOError
from wrpo_lib.generation.nucleus import Draw
from wrpo_lib.generation.request import Request, Response, Sampling

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

WINDOW = 2048  # requests sorted by length together; what is held in memory at a time
STRETCH = 16  # steps between two looks at which rows have ended
ENOUGH = 32  # rows that keep a processor busy; a larger batch must not cost much padding
PADDING = 1.25  # length (prompt and response) of a larger batch's longest row over its shortest's


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

    Where the architecture's cache can be copied by row, each prompt is computed once for all of its
    samples, and rows that have ended leave the batch after every ``STRETCH`` steps.

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
        padding = tokenizer.pad_token_id
        self.pad = padding if padding is not None else min(self.ends)
        self.context = getattr(model.config, "max_position_embeddings", None)
        self.copies = True  # until this architecture's cache turns out not to be copied by row

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
            length, shortest = (len(r.ids) + r.max_tokens for r in (row, rows[0]))
            too_long = size >= ENOUGH and length > PADDING * shortest
            if size and (kind != first or too_long or (size + 1) * length > self.batch_tokens):
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
        """New tokens of each row, perhaps with padding after the end."""
        import torch

        prompts = {id(r.ids): r.ids for r in rows}  # the samples of a request share one list
        place = {prompt: k for k, prompt in enumerate(prompts)}
        each = [place[id(r.ids)] for r in rows]
        inputs = self.tokenizer.pad(
            {"input_ids": list(prompts.values())}, padding_side="left", return_tensors="pt"
        ).to(self.model.device)
        ids, mask = inputs["input_ids"][each], inputs["attention_mask"][each]
        width, most = ids.shape[1], rows[0].max_tokens
        short = min(map(len, prompts.values())) < 2  # nothing to prefill
        cache = None if short else self._prefill(inputs, each, width + most)
        draw = Draw(rows[0].sampling, [r.seed for r in rows], most, width)
        new: list[list[int]] = [[] for _ in rows]
        running = list(range(len(rows)))  # the row behind each line of the batch
        while running:
            left = width + most - ids.shape[1]
            ids = self._stretch(
                ids, mask, draw, cache, left if cache is None else min(left, STRETCH)
            )
            said = ids[:, width:].tolist()
            done = [len(t) == most or not self.ends.isdisjoint(t) for t in said]
            for k in (k for k, is_done in enumerate(done) if is_done):
                new[running[k]] = said[k]
            running = [row for row, is_done in zip(running, done, strict=True) if not is_done]
            if cache is not None and running and any(done):
                # indices on the CPU, since each layer may lie on a GPU of its own
                kept = torch.tensor(done).logical_not().nonzero()[:, 0]
                ids, mask = ids[kept], mask[kept]
                draw.keep(kept)
                cache.batch_select_indices(kept)
        return new

    def _stretch(
        self, ids: torch.Tensor, mask: torch.Tensor, draw: Draw, cache: Any, steps: int
    ) -> torch.Tensor:
        """(B, T) tokens so far in, (B, T + steps) out, or fewer if all rows end before.

        ``cache`` holds all of them but the last, and grows; ``mask`` covers the prompts.
        """
        from torch.nn.functional import pad

        output: torch.Tensor = self.model.generate(
            input_ids=ids,
            attention_mask=pad(mask, (0, ids.shape[1] - mask.shape[1]), value=1),
            logits_processor=[draw] if draw.temperature else [],
            generation_config=self._settings(steps),
            **({} if cache is None else {"past_key_values": cache}),
        )
        return output

    def _prefill(self, inputs: Any, each: list[int], room: int) -> Any:
        """The cache of all prompt tokens but the last, computed once a prompt, copied to its rows.

        It has room for ``room`` tokens.

        None for architectures whose cache cannot be copied by row.
        """
        import torch
        from transformers.cache_utils import DynamicCache, DynamicLayer

        from wrpo_lib.generation.room import with_room

        if not self.copies:
            return None
        made = self.model.generate(
            input_ids=inputs["input_ids"][:, :-1],
            attention_mask=inputs["attention_mask"][:, :-1],
            generation_config=self._settings(1, return_dict_in_generate=True),
        )
        cache = made.past_key_values
        plain = isinstance(cache, DynamicCache)
        self.copies = plain and all(isinstance(layer, DynamicLayer) for layer in cache.layers)
        if not self.copies:
            return None
        cache.batch_select_indices(torch.tensor(each))
        return with_room(cache, room)

    def _settings(self, max_tokens: int, **more: Any) -> Any:
        from transformers import GenerationConfig

        return GenerationConfig(
            **NEUTRAL, **more, max_new_tokens=max_tokens, max_length=None,
            eos_token_id=sorted(self.ends), pad_token_id=self.pad,
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


def _end_tokens(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """Every token that ends a turn: the tokenizer's and those of the generation configuration."""
    given = model.generation_config.eos_token_id if model.generation_config else None
    ends = given if isinstance(given, list) else [given]
    found = {e for e in (*ends, tokenizer.eos_token_id) if e is not None}
    if not found:
        raise WRPOError("neither tokenizer nor model has an end token; set tokenizer.eos_token")
    return found
