"""Layers of a transformer with faster products that keep less for the backward pass.

They replace a model's own by their class alone: weights, names and what is saved stay.
"""

from __future__ import annotations

from collections.abc import Callable
from ctypes import c_float, c_int64
from functools import cache, partial
from types import FunctionType
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional
from transformers.activations import SiLUActivation

from wrpo_lib.cpu import compiled
from wrpo_lib.cpu.products import plain, product

SMALLEST = 2**16
"""Weights of a matrix up to which its layer is left alone: a call costs ten microseconds more."""


def enable(model: torch.nn.Module, *, trial: bool = True) -> None:
    """Give a model's large linear layers, and the layers around them, the classes below.

    Linear layers of a class of their own (quantised, say) are left alone. So are gated layers and
    norms that compute something else than their names say, which a trial shows (``trial``: where
    there are numbers to try).
    """
    for module in model.modules():
        if type(module) is torch.nn.Linear and module.weight.numel() > SMALLEST:
            module.__class__ = Linear
    for module in model.modules():
        for kind, is_kind in ((_Gated, _is_gated), (_Norm, _is_norm)):
            if not isinstance(module, kind) and is_kind(module, trial):
                own: Any = type(module)
                module.__class__ = _mixed(kind, own)
        mine: Any = type(module)
        rotary = None if isinstance(module, _Rotary) else _with_rotary(mine)
        # as its projections, or what adapters wrap, are replaced or left alone
        if rotary and any(type(part) is Linear for part in module.modules()):
            module.__class__ = rotary
    _replace_tied_embedding(model)


@cache
def _mixed(kind: type, own: type) -> type:
    """A model's class with the forward pass of ours before its own."""
    return type(own.__name__, (kind, own), {"__module__": own.__module__})


def _compiled(*tensors: Tensor) -> bool:
    """Can compiled code do this elementwise work?"""
    fit = all(t.is_contiguous() and t.shape[-1] % compiled.LANES == 0 for t in tensors)
    return fit and compiled.usable(*tensors)


def _sizes(*numbers: int) -> tuple[c_int64, ...]:
    """Numbers, and that of threads, as compiled code takes them."""
    return tuple(map(c_int64, (*numbers, torch.get_num_threads())))


# --- linear -------------------------------------------------------------------------------------


class Linear(torch.nn.Linear):
    """``torch.nn.Linear`` with the products of :mod:`wrpo_lib.cpu.products`."""

    def forward(self, input: Tensor) -> Tensor:
        """(…, in) -> (…, out)."""
        if not plain(input, self.weight):
            return functional.linear(input, self.weight, self.bias)
        found: Tensor = _LinearFunction.apply(input, self.weight, self.bias)
        return found


class _LinearFunction(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return _linear(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Any) -> Any:
        x, weight = ctx.saved_tensors
        wants_x, *wants_rest = ctx.needs_input_grad
        to_x = product(grads[0].flatten(0, -2), weight.T).view_as(x) if wants_x else None
        return to_x, *_to_parameters(grads[0], x, wants_rest)


def _linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    out = product(x.flatten(0, -2), weight).view(*x.shape[:-1], len(weight))
    return out if bias is None else out.add_(bias)


def _to_parameters(grad: Tensor, x: Tensor, wants: list[bool]) -> tuple[Tensor | None, ...]:
    """Gradients of weight and bias from those of the outputs, (…, out), and the inputs, (…, in)."""
    grad, x = grad.flatten(0, -2), x.flatten(0, -2)
    return product(grad.T, x.T) if wants[0] else None, grad.sum(0) if wants[1] else None


# --- gated linear unit (the MLP of Llama, Qwen, Mistral and their kin) --------------------------


class _Gated:
    """A gated layer that keeps gate and up, and makes silu(gate)·up again in the backward pass."""

    gate_proj: torch.nn.Module
    up_proj: torch.nn.Module
    down_proj: torch.nn.Linear

    def forward(self, x: Tensor) -> Tensor:
        """(…, H) -> (…, H)."""
        down = self.down_proj
        hooked = down._forward_hooks or down._forward_pre_hooks or down._backward_hooks
        if type(down) is not Linear or hooked or not plain(x, down.weight):
            usual: Tensor = super().forward(x)  # type: ignore[misc]
            return usual
        gate, up = self.gate_proj(x), self.up_proj(x)
        found: Tensor = _GatedFunction.apply(gate, up, down.weight, down.bias)
        return found


class _GatedFunction(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(gate, up, weight)
        return _linear(_opened(gate, up), weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Any) -> Any:
        gate, up, weight = ctx.saved_tensors
        to_hidden = product(grads[0].flatten(0, -2), weight.T).view_as(gate)
        to_gate, to_up, hidden = _opened_backward(gate, up, to_hidden)
        return to_gate, to_up, *_to_parameters(grads[0], hidden, ctx.needs_input_grad[2:])


def _opened(gate: Tensor, up: Tensor) -> Tensor:
    """silu(gate)·up."""
    if not _compiled(gate, up):
        return functional.silu(gate).mul_(up)
    out = torch.empty_like(gate)
    compiled.loaded().gated(*_sizes(gate.numel()), *map(compiled.start, (gate, up, out)))
    return out


def _opened_backward(gate: Tensor, up: Tensor, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of gate and up from that of silu(gate)·up, in whose place one goes; its value."""
    if _compiled(gate, up, grad):
        to_up, out = torch.empty_like(up), torch.empty_like(up)
        arguments = map(compiled.start, (gate, up, grad, to_up, out))
        compiled.loaded().gated_gradients(*_sizes(gate.numel()), *arguments)
        return grad, to_up, out
    opened = functional.silu(gate)
    out = opened * up
    to_up = opened.mul_(grad)
    to_gate = grad.mul_(up)
    torch.ops.aten.silu_backward.grad_input(to_gate, gate, grad_input=to_gate)
    return to_gate, to_up, out


def _is_gated(module: torch.nn.Module, trial: bool) -> bool:
    """Is it down(silu(gate(x))·up(x))? Asked of its parts, then of what it computes."""
    parts = dict(module.named_children())
    if not {"gate_proj", "up_proj", "down_proj", "act_fn"} <= set(parts):
        return False
    gate, up, down = (parts[name] for name in ("gate_proj", "up_proj", "down_proj"))
    opens = isinstance(parts["act_fn"], torch.nn.SiLU | SiLUActivation)
    if not (opens and isinstance(down, Linear) and plain(down.weight)):
        return False
    return not trial or _computes(
        module, len(down.weight), lambda x: down(functional.silu(gate(x)) * up(x))
    )


@torch.no_grad()
def _computes(module: torch.nn.Module, width: int, expected: Callable[[Tensor], Tensor]) -> bool:
    """Does a module give what is expected of it, for three tokens of ``width`` numbers?"""
    x = torch.linspace(-1, 1, 3 * width).view(3, -1)
    try:
        return torch.allclose(module(x), expected(x), rtol=1e-4, atol=1e-5)
    except (TypeError, RuntimeError):  # it wants other inputs
        return False


# --- root mean square norm ----------------------------------------------------------------------


class _Norm:
    """A norm that keeps its input and one number a token."""

    weight: torch.nn.Parameter
    variance_epsilon: float

    def forward(self, x: Tensor) -> Tensor:
        """(…, H) -> (…, H)."""
        if not plain(x, self.weight):
            usual: Tensor = super().forward(x)  # type: ignore[misc]
            return usual
        found: Tensor = _NormFunction.apply(x, self.weight, self.variance_epsilon)
        return found


class _NormFunction(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
        if _compiled(x, weight) and x.shape[-1] == len(weight):
            out, scale = torch.empty_like(x), x.new_empty(*x.shape[:-1], 1)
            sizes, arguments = _sizes(scale.numel(), x.shape[-1]), (x, weight, out, scale)
            compiled.loaded().norm(*sizes, c_float(epsilon), *map(compiled.start, arguments))
        else:
            size = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
            scale = (size.square_() / x.shape[-1] + epsilon).rsqrt_()
            out = (x * scale).mul_(weight)
        ctx.save_for_backward(x, weight, scale)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Any) -> Any:
        x, weight, scale = ctx.saved_tensors
        if _compiled(x, weight, grads[0]):
            of_x, of_weight = torch.empty_like(x), torch.empty_like(weight)
            shares = x.new_empty(torch.get_num_threads(), len(weight))
            arguments = (grads[0], x, weight, scale, of_x, of_weight, shares)
            sizes = _sizes(scale.numel(), x.shape[-1])
            compiled.loaded().norm_gradients(*sizes, *map(compiled.start, arguments))
            return of_x, of_weight, None
        pairs = (grads[0] * x).flatten(0, -2)
        to_weight = pairs.T @ scale.flatten() if ctx.needs_input_grad[1] else None
        # d (x·scale·weight) / d scale, times d scale / d x = -x·scale³ / H
        along = (pairs @ weight).view_as(scale) * scale.pow(3) / -x.shape[-1]
        to_x = (grads[0] * weight).mul_(scale).addcmul_(x, along)
        return to_x, to_weight, None


def _is_norm(module: torch.nn.Module, trial: bool) -> bool:
    """Is it x / sqrt(mean(x²) + ε) · weight? Asked of its attributes, then of what it computes."""
    weight, epsilon = getattr(module, "weight", None), getattr(module, "variance_epsilon", None)
    if not (isinstance(weight, Tensor) and isinstance(epsilon, float) and plain(weight)):
        return False
    if weight.dim() != 1 or len(weight) ** 2 <= SMALLEST:  # with linear layers as small, left alone
        return False

    def norm(x: Tensor) -> Tensor:
        return x * (x.square().mean(-1, keepdim=True) + epsilon).rsqrt() * weight

    return not trial or _computes(module, len(weight), norm)


# --- rotary embedding ---------------------------------------------------------------------------

ROTARY = "apply_rotary_pos_emb"
"""The function of transformers' model files that rotates queries and keys."""


class _Rotary:
    """Marks an attention whose forward pass is its own but for that function."""


@cache
def _with_rotary(own: Any) -> type | None:
    """A model's class of attention with :data:`ROTARY` replaced; None where it is not the usual.

    Its forward pass finds ours under that name, and nothing else does: the model's file stays.
    """
    forward = vars(own).get("forward")
    if not isinstance(forward, FunctionType) or ROTARY not in forward.__code__.co_names:
        return None
    usual = forward.__globals__.get(ROTARY)
    if usual is None or not _rotates_halves(usual):
        return None
    names = {**forward.__globals__, ROTARY: partial(_rotated, usual)}
    ours = FunctionType(
        forward.__code__, names, forward.__name__, forward.__defaults__, forward.__closure__
    )
    ours.__kwdefaults__ = forward.__kwdefaults__
    body = {"__module__": own.__module__, "forward": ours}
    return type(own.__name__, (_Rotary, own), body)


@torch.no_grad()
def _rotates_halves(function: Callable[..., Any]) -> bool:
    """Is it x·cos + (-second half, first half)·sin, for queries and for keys?"""
    query, key = (
        torch.linspace(-1, 1, 96).view(1, 2, 3, 16),
        torch.linspace(0, 1, 48).view(1, 1, 3, 16),
    )
    cosine, sine = torch.linspace(1, 2, 48).view(1, 3, 16), torch.linspace(-2, 0, 48).view(1, 3, 16)

    def rotate(x: Tensor) -> Tensor:
        first, second = x.chunk(2, dim=-1)
        return x * cosine[:, None] + torch.cat([-second, first], dim=-1) * sine[:, None]

    try:
        found = function(query, key, cosine, sine)
        return all(
            torch.allclose(a, rotate(b), atol=1e-5)
            for a, b in zip(found, (query, key), strict=True)
        )
    except (TypeError, ValueError, RuntimeError):  # it wants other inputs
        return False


def _rotated(
    usual: Callable[..., tuple[Tensor, Tensor]],
    query: Tensor, key: Tensor, cosine: Tensor, sine: Tensor, *args: Any, **kwargs: Any,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Queries (1, H, T, D) and keys (1, Hkv, T, D) rotated by angles (1, T, D); others as usual."""
    if args or kwargs or not (_rotatable(query, cosine, sine) and _rotatable(key, cosine, sine)):
        return usual(query, key, cosine, sine, *args, **kwargs)
    return _Rotated.apply(query, cosine, sine), _Rotated.apply(key, cosine, sine)


def _rotatable(x: Tensor, *angles: Tensor) -> bool:
    tensors = (x, *angles)
    if not plain(*tensors) or x.dim() != 4 or len(x) != 1 or x.shape[-1] % (2 * compiled.LANES):
        return False
    fit = all(a.shape == (1, *x.shape[2:]) and a.is_contiguous() for a in angles)
    return fit and not any(a.requires_grad for a in angles) and compiled.usable(*tensors)


class _Rotated(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
        """A new tensor (1, H, T, D) whose transpose to (1, T, H, D) is contiguous."""
        ctx.save_for_backward(cosine, sine)
        return _rotate(x, cosine, sine, backward=False)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Any) -> Any:
        return _rotate(grads[0], *ctx.saved_tensors, backward=True), None, None


def _rotate(x: Tensor, cosine: Tensor, sine: Tensor, *, backward: bool) -> Tensor:
    _, heads, tokens, width = x.shape
    x = x if x.stride(-1) == 1 else x.contiguous()
    out = x.new_empty(1, tokens, heads, width).transpose(1, 2)
    compiled.loaded().rotated(
        *map(c_int64, (tokens, heads, width, torch.get_num_threads(), backward, *x.stride()[1:3])),
        *map(compiled.start, (x, cosine, sine, out)),
    )
    return out


# --- embedding ----------------------------------------------------------------------------------


class _TiedEmbedding(torch.nn.Embedding):
    """An embedding whose weights are the head's too.

    Its gradient names the tokens that occurred and is added to the head's, which has a row for
    every token; so no second one is filled with zeros and added up. With several processes, whose
    gradients meet elsewhere, it stays as it was.
    """

    def forward(self, input: Tensor) -> Tensor:
        """(…) -> (…, H)."""
        alone = not (torch.distributed.is_available() and torch.distributed.is_initialized())
        sparse = alone and plain(self.weight)
        return functional.embedding(input, self.weight, self.padding_idx, sparse=sparse)


def _replace_tied_embedding(model: Any) -> None:
    """Give the embedding that class, where its weights are the head's."""
    try:
        embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    except (AttributeError, NotImplementedError):  # no language model: it has neither
        return
    weight: Any = getattr(embedding, "weight", None)
    shared = weight is not None and getattr(head, "weight", None) is weight
    usual = type(embedding) is torch.nn.Embedding and embedding.max_norm is None
    if shared and usual and weight.numel() > SMALLEST and not embedding.scale_grad_by_freq:
        embedding.__class__ = _TiedEmbedding
