"""Attention of a packed row in float32: compiled code, or tiles where there is none.

torch's own kernel for CPUs computes whole blocks of keys for each query, masked or not. The
compiled code (``attention.c``) computes a tile of queries with the keys up to the last of them.
"""

from __future__ import annotations

import ctypes
import math
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from wrpo_lib.cpu import compiled
from wrpo_lib.cpu.compiled import KEYS, QUERIES, SHARING
from wrpo_lib.cpu.products import plain
from wrpo_lib.cpu.tiles import Tiles

if TYPE_CHECKING:
    from wrpo_lib.sharing import Branches

WORTHWHILE = 64
"""Tokens of a stretch, on average, below which torch's own attention is as fast as tiles.

Compiled code would be faster there too; but the testbed's rows are that short, and its numbers
should not depend on whether a machine has a compiler.
"""


def takes(query: Tensor, key: Tensor, value: Tensor, branches: Branches, dropout: float) -> bool:
    """Is this a row that :func:`attend` computes, and computes faster?

    Not where values have another size than keys (DeepSeek's do): that is left to torch.
    """
    _, heads, n, width = query.shape
    fits = key.shape == value.shape == (1, key.shape[1], n, width) and not heads % key.shape[1]
    long = branches.n_tokens >= WORTHWHILE * sum(1 + len(rs) for _, rs in branches.examples)
    return fits and long and n == branches.n_tokens and not dropout and plain(query, key, value)


def attend(
    query: Tensor, key: Tensor, value: Tensor, branches: Branches, scale: float | None
) -> Tensor:
    """softmax(scale·q·kᵀ)·v of a packed row, (1, H, T, D).

    ``key`` and ``value`` may have fewer heads, (1, Hkv, T, D), of which H is a multiple.
    """
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    width_fits = query.shape[-1] % compiled.LANES == 0
    way = Compiled if width_fits and compiled.usable(query, key, value) else Tiles
    found: Tensor = way.apply(query, key, value, branches, scale)
    return found


# --- compiled ------------------------------------------------------------------------------------


class _States(ctypes.Structure):
    """A tensor (1, H, T, D) whose last dimension lies side by side."""

    _fields_ = (("start", ctypes.c_void_p), ("head", ctypes.c_int64), ("token", ctypes.c_int64))


class _Row(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_int64) for name in ("tokens", "width", "heads", "key_heads", "n_tiles",
                                              "n_blocks", "threads", "sharing", "scratch")),
        ("scale", ctypes.c_float), ("natural", ctypes.c_float),
        ("tiles", ctypes.c_void_p), ("blocks", ctypes.c_void_p),
    )  # fmt: skip


@dataclass(frozen=True)
class _Plan:
    """Tiles and blocks of a row, as the C code wants them, and the most keys that a tile meets."""

    tiles: Any
    n_tiles: int
    blocks: Any
    n_blocks: int
    most: int


@lru_cache(maxsize=64)
def _plan(branches: Branches) -> _Plan:
    tiles: list[tuple[int, ...]] = []
    blocks: list[tuple[int, int]] = []
    most = start = 0
    for prompt, responses in branches.examples:
        of_prompt = len(blocks)
        for before, length in ((0, prompt), *((prompt, length) for length in responses)):
            own, end = len(blocks), start + length
            blocks += [(at, min(KEYS, end - at)) for at in range(start, end, KEYS)]
            tiles += [
                (at, min(at + QUERIES, end), start, own, before, of_prompt)
                for at in range(start, end, QUERIES)
            ]
            most = max(most, before + length)
            start = end
    flat_tiles, flat_blocks = ([n for row in rows for n in row] for rows in (tiles, blocks))
    return _Plan(
        (ctypes.c_int64 * len(flat_tiles))(*flat_tiles), len(tiles),
        (ctypes.c_int64 * len(flat_blocks))(*flat_blocks), len(blocks), most + 2 * compiled.LANES,
    )  # fmt: skip


class Compiled(torch.autograd.Function):
    """softmax(scale·q·kᵀ)·v of a packed row, (1, H, T, D); keys and values (1, Hkv, T, D).

    Keeps its inputs, its output and one number for each query.
    """

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, branches: Branches, scale: float
    ) -> Tensor:
        """A new tensor whose transpose to (1, T, H, D) is contiguous."""
        query, key, value = (_side_by_side(t) for t in (query, key, value))
        _, heads, n, width = query.shape
        out = query.new_empty(1, n, heads, width).transpose(1, 2)
        log_sums = query.new_empty(heads, n)
        row = _row(query, key, branches, scale)
        row.scratch = QUERIES * (width + _plan(branches).most)
        packed = query.new_empty(key.shape[1] * row.n_blocks * width * KEYS)
        scratch = query.new_empty(row.threads * row.scratch)
        compiled.loaded().attend(
            ctypes.byref(row), *(_states(t) for t in (query, key, value, out)),
            *(compiled.start(t) for t in (log_sums, packed, scratch)),
        )  # fmt: skip
        ctx.save_for_backward(query, key, value, out, log_sums)
        ctx.branches, ctx.scale = branches, scale
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Any) -> Any:
        """Gradients of query, key and value."""
        query, key, value, out, log_sums = ctx.saved_tensors
        width = query.shape[-1]
        grad = _side_by_side(grads[0])
        to_query = torch.empty_like(out)
        to_key, to_value = (
            torch.empty_like(t, memory_format=torch.contiguous_format) for t in (key, value)
        )
        row = _row(query, key, ctx.branches, ctx.scale)
        row.scratch = QUERIES * (3 * width + 2 * KEYS)
        packed = query.new_empty(2 * key.shape[1] * row.n_blocks * width * KEYS)
        scratch = query.new_empty(row.sharing * row.scratch)
        shares = query.new_empty(row.sharing * 2 * key.numel())
        compiled.loaded().gradients(
            ctypes.byref(row), *(_states(t) for t in (grad, query, key, value, out)),
            compiled.start(log_sums), _states(to_query),
            *(compiled.start(t) for t in (to_key, to_value, packed, scratch, shares)),
        )  # fmt: skip
        return to_query, to_key, to_value, None, None


def _row(query: Tensor, key: Tensor, branches: Branches, scale: float) -> _Row:
    plan = _plan(branches)
    _, heads, n, width = query.shape
    threads = torch.get_num_threads()
    made = _Row(
        n, width, heads, key.shape[1], plan.n_tiles, plan.n_blocks,
        threads, min(threads, SHARING), 0, scale * math.log2(math.e), scale,
        ctypes.addressof(plan.tiles), ctypes.addressof(plan.blocks),
    )  # fmt: skip
    made.plan = plan  # or it might go, and its arrays with it, while the code reads them
    return made


def _side_by_side(states: Tensor) -> Tensor:
    return states if states.stride(-1) == 1 else states.contiguous()


def _states(tensor: Tensor) -> _States:
    return _States(tensor.data_ptr(), tensor.stride(1), tensor.stride(2))
