"""Attention of a packed row in float32 by tiles that are large products, where no code is compiled.

Each stretch of a row (a prompt, a response) attends to what comes before it (nothing, its prompt)
and causally to itself. A tile of its queries, those of all heads that share a key head together,
meets exactly the keys up to the tile's end, so that no more than the corner of one tile is masked.
Scores are made again in the backward pass: only queries, keys and values are kept.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from wrpo_lib.cpu.products import add_product, product

if TYPE_CHECKING:
    from wrpo_lib.sharing import Branches

TILE = 256
"""Queries of one head in a tile."""


class Tiles(torch.autograd.Function):
    """softmax(scale·q·kᵀ)·v of a packed row, (1, H, T, D); keys and values (1, Hkv, T, D)."""

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, branches: Branches, scale: float
    ) -> Tensor:
        """A new tensor whose transpose to (1, T, H, D) is contiguous."""
        ctx.save_for_backward(query, key, value)
        ctx.branches, ctx.scale = branches, scale
        _, heads, n, width = query.shape
        out = query.new_empty(1, n, heads, width).transpose(1, 2)
        q, o = _grouped(query, key), _grouped(out, key)
        for before, own in _stretches(branches):
            k, v = _seen(key, before, own), _seen(value, before, own)
            for head, rows, n_keys in _tiles(len(k), before, own):
                _, probs = _probabilities(q[head, :, rows], k[head, :n_keys], scale)
                made = product(probs, v[head, :n_keys].T)
                o[head, :, rows] = made.view(o.shape[1], -1, width)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Any) -> Any:
        """Gradients of query, key and value."""
        query, key, value = ctx.saved_tensors
        to_query = torch.empty_like(query)
        to_key, to_value = torch.zeros_like(key), torch.zeros_like(value)
        q, g, to_q = (_grouped(t, key) for t in (query, grads[0], to_query))
        for before, own in _stretches(ctx.branches):
            k, v = _seen(key, before, own), _seen(value, before, own)
            to_k, to_v = (
                torch.zeros_like(t.mT, memory_format=torch.contiguous_format) for t in (k, v)
            )
            for head, rows, n_keys in _tiles(len(k), before, own):
                mine, probs = _probabilities(q[head, :, rows], k[head, :n_keys], ctx.scale)
                grad = g[head, :, rows].flatten(0, 1)
                add_product(to_v[head, :, :n_keys], grad.T, probs.T)
                to_probs = product(grad, v[head, :n_keys])
                to_scores = torch._softmax_backward_data(to_probs, probs, -1, probs.dtype)
                add_product(to_k[head, :, :n_keys], mine.T, to_scores.T)
                made = product(to_scores, k[head, :n_keys].T).mul_(ctx.scale)
                to_q[head, :, rows] = made.view_as(q[head, :, rows])
            for whole, part in ((to_key, to_k), (to_value, to_v)):
                n_before = before.stop - before.start
                whole[0, :, before] += part[..., :n_before].mT
                whole[0, :, own] += part[..., n_before:].mT
        return to_query, to_key, to_value, None, None


def _grouped(states: Tensor, key: Tensor) -> Tensor:
    """(1, H, …) -> (Hkv, H/Hkv, …): the query heads of each key head."""
    return states[0].unflatten(0, (key.shape[1], -1))


def _stretches(branches: Branches) -> Iterator[tuple[slice, slice]]:
    """Of each prompt and response of a row: the tokens seen before it, and its own."""
    start = 0
    for prompt, responses in branches.examples:
        first = slice(start, start + prompt)
        yield slice(start, start), first
        start += prompt
        for length in responses:
            yield first, slice(start, start + length)
            start += length


def _seen(states: Tensor, before: slice, own: slice) -> Tensor:
    """(Hkv, n, D): the keys or values of a stretch and of what comes before it."""
    return torch.cat([states[0, :, before], states[0, :, own]], dim=1)


def _tiles(heads: int, before: slice, own: slice) -> Iterator[tuple[int, slice, int]]:
    """Key head, rows of the queries, and number of keys that the last of them sees."""
    n_before = before.stop - before.start
    for start in range(own.start, own.stop, TILE):
        stop = min(start + TILE, own.stop)
        for head in range(heads):
            yield head, slice(start, stop), n_before + stop - own.start


def _probabilities(query: Tensor, key: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """Scaled queries (G·C, D) of a tile (G, C, D), and what they attend to, (G·C, n)."""
    group, rows, width = query.shape
    scaled = (query * scale).reshape(-1, width)
    scores = product(scaled, key)
    scores.view(group, rows, -1)[..., -rows:].add_(_corner(rows))
    return scaled, torch.softmax(scores, -1)


@lru_cache(maxsize=TILE)
def _corner(rows: int) -> Tensor:
    """(C, C): -inf where a tile's query does not see a key of the tile, else 0."""
    return torch.full((rows, rows), -torch.inf).triu(1)
