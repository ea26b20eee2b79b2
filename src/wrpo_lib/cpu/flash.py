"""Attention of a packed row in float32 by the flash kernel that torch has for CPUs, part by part.

The prompt, and each response, attends to itself causally; all responses of a prompt together attend
to it, without a mask. The two parts of a response's softmax are put together by the logarithms of
their sums, which the kernel returns. The backward kernel makes the probabilities of a part again
from the sum over the whole, so that each part yields its own share of the gradients.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

if TYPE_CHECKING:
    from wrpo_lib.sharing import Branches

_NAME = "_scaled_dot_product_flash_attention_for_cpu"
AVAILABLE = all(hasattr(torch.ops.aten, name) for name in (_NAME, f"{_NAME}_backward"))
"""Has this torch the kernel?"""


class Flash(torch.autograd.Function):
    """softmax(scale·q·kᵀ)·v of a packed row, (1, H, T, D); keys and values (1, Hkv, T, D).

    Keeps its inputs, its output and one number for each query.
    """

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, branches: Branches, scale: float
    ) -> Tensor:
        """A new tensor whose transpose to (1, T, H, D) is contiguous."""
        query, key, value = (_rows(t) for t in (query, key, value))
        _, heads, n, width = query.shape
        out = query.new_empty(1, n, heads, width).transpose(1, 2)
        log_sums = query.new_empty(1, heads, n)
        q, o, sums = (grouped(t, key) for t in (query, out, log_sums))
        k, v = (_repeated(t, q) for t in (key, value))
        for rows, seen in _parts(branches):
            found, found_sums = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
                q[:, :, rows], k[:, :, seen], v[:, :, seen], 0.0, rows == seen, scale=scale
            )
            if rows == seen:
                o[:, :, rows], sums[:, :, rows] = found, found_sums
            else:
                own_sums = sums[:, :, rows]
                o[:, :, rows].lerp_(found, torch.sigmoid(found_sums - own_sums)[..., None])
                own_sums.copy_(torch.logaddexp(own_sums, found_sums))
        ctx.save_for_backward(query, key, value, out, log_sums)
        ctx.branches, ctx.scale = branches, scale
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Any) -> Any:
        """Gradients of query, key and value."""
        query, key, value, out, log_sums = ctx.saved_tensors
        to_query, to_key, to_value = (torch.empty_like(t) for t in (query, key, value))
        q, o, sums, g, to_q = (
            grouped(t, key) for t in (query, out, log_sums, _rows(grads[0]), to_query)
        )
        k, v = (_repeated(t, q) for t in (key, value))
        for rows, seen in _parts(ctx.branches):
            of_q, of_k, of_v = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward(
                g[:, :, rows], q[:, :, rows], k[:, :, seen], v[:, :, seen],
                o[:, :, rows], sums[:, :, rows], 0.0, rows == seen, scale=ctx.scale,
            )  # fmt: skip
            of_k, of_v = of_k.sum(1), of_v.sum(1)
            if rows == seen:
                to_q[:, :, rows], to_key[0, :, seen], to_value[0, :, seen] = of_q, of_k, of_v
            else:
                to_q[:, :, rows] += of_q
                to_key[0, :, seen] += of_k
                to_value[0, :, seen] += of_v
        return to_query, to_key, to_value, None, None


def _parts(branches: Branches) -> Iterator[tuple[slice, slice]]:
    """Of each example the queries and keys of a part: each stretch with itself, which is causal,
    then all responses with their prompt. Never an empty part, at which the kernel would crash.
    """
    start = 0
    for length, responses in branches.examples:
        prompt = slice(start, start + length)
        start = prompt.stop
        if length:
            yield prompt, prompt
        for more in filter(None, responses):
            yield slice(start, start + more), slice(start, start + more)
            start += more
        if length and start > prompt.stop:
            yield slice(prompt.stop, start), prompt


def _rows(states: Tensor) -> Tensor:
    """With the numbers of one head side by side: the kernel asks for it and does not look."""
    return states if states.stride(-1) == 1 else states.contiguous()


def grouped(states: Tensor, key: Tensor) -> Tensor:
    """(1, H, …) -> (Hkv, H/Hkv, …): the query heads of each key head."""
    return states[0].unflatten(0, (key.shape[1], -1))


def _repeated(states: Tensor, q: Tensor) -> Tensor:
    """(1, Hkv, T, D) -> (Hkv, H/Hkv, T, D) without a copy."""
    return states[0][:, None].expand(-1, q.shape[1], -1, -1)
