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
        for prompt, responses, stretches in _parts(branches):
            for own in stretches:
                o[:, :, own], sums[:, :, own] = _forward(q, k, v, own, own, scale)
            if responses.start < responses.stop:
                seen, seen_sums = _forward(q, k, v, responses, prompt, scale)
                own_sums = sums[:, :, responses]
                o[:, :, responses].lerp_(seen, torch.sigmoid(seen_sums - own_sums)[..., None])
                own_sums.copy_(torch.logaddexp(own_sums, seen_sums))
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

        def part(rows: slice, seen: slice) -> tuple[Tensor, Tensor, Tensor]:
            mine = (t[:, :, rows] for t in (o, sums))
            of_q, of_k, of_v = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward(
                g[:, :, rows], q[:, :, rows], k[:, :, seen], v[:, :, seen], *mine,
                0.0, rows == seen, scale=ctx.scale,
            )  # fmt: skip
            return of_q, of_k.sum(1), of_v.sum(1)

        for prompt, responses, stretches in _parts(ctx.branches):
            for own in stretches:
                to_q[:, :, own], to_key[0, :, own], to_value[0, :, own] = part(own, own)
            if responses.start < responses.stop:
                of_q, of_k, of_v = part(responses, prompt)
                to_q[:, :, responses] += of_q
                to_key[0, :, prompt] += of_k
                to_value[0, :, prompt] += of_v
        return to_query, to_key, to_value, None, None


def _forward(
    q: Tensor, k: Tensor, v: Tensor, rows: slice, seen: slice, scale: float
) -> tuple[Tensor, Tensor]:
    """What queries get from keys, and log Σ exp(scale·q·k); causally where both are the same."""
    found: tuple[Tensor, Tensor] = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
        q[:, :, rows], k[:, :, seen], v[:, :, seen], 0.0, rows == seen, scale=scale
    )
    return found


def _parts(branches: Branches) -> Iterator[tuple[slice, slice, list[slice]]]:
    """Of each example: its prompt, all its responses, and each stretch that is causal in itself."""
    start = 0
    for length, responses in branches.examples:
        stretches = [slice(start, start + length)]
        for more in responses:
            stretches.append(slice(stretches[-1].stop, stretches[-1].stop + more))
        start = stretches[-1].stop
        yield stretches[0], slice(stretches[0].stop, start), stretches


def _rows(states: Tensor) -> Tensor:
    """With the numbers of one head side by side: the kernel asks for it and does not look."""
    return states if states.stride(-1) == 1 else states.contiguous()


def grouped(states: Tensor, key: Tensor) -> Tensor:
    """(1, H, …) -> (Hkv, H/Hkv, …): the query heads of each key head."""
    return states[0].unflatten(0, (key.shape[1], -1))


def _repeated(states: Tensor, q: Tensor) -> Tensor:
    """(1, Hkv, T, D) -> (Hkv, H/Hkv, T, D) without a copy."""
    return states[0][:, None].expand(-1, q.shape[1], -1, -1)
