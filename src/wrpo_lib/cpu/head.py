"""The output head: log-probabilities of given tokens, never all logits at once.

TRL's fused head folds tiles of the vocabulary with a Triton kernel. Without Triton it does the same
in some twenty passes of elementwise torch over every tile, in TRL's trainers with entropies and
other statistics that WRPO does not use. Tiles of tokens over the whole vocabulary need five passes
and the products of :mod:`wrpo_lib.cpu.products`: the same numbers (1e-6) in a third of the time.
"""

from __future__ import annotations

import functools
import types
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.distributed.tensor import DTensor
from trl.trainer.utils import FusedCausalLMOutput

from wrpo_lib.cpu.products import add_product, product

ROWS = 256
"""Tokens a tile: large enough for the matrix products, small beside the activations."""
KEPT = 2**30
"""Bytes that are kept for the backward pass rather than made anew."""


class _TokenLogProbs(torch.autograd.Function):
    """log softmax(h·Wᵀ)[label] of every row, (N,).

    With ``keep`` the tiles of exp(logits - their maximum) stay for one backward pass, otherwise it
    makes them anew.
    """

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, labels: Tensor, keep: bool) -> Tensor:
        highest, total = torch.empty_like(hidden[:, :1]), torch.empty_like(hidden[:, :1])
        found = torch.empty_like(total)
        tiles = []
        for start in range(0, len(hidden), ROWS):
            rows = slice(start, start + ROWS)
            logits = product(hidden[rows], weight)
            found[rows] = logits.gather(-1, labels[rows, None])
            torch.amax(logits, -1, keepdim=True, out=highest[rows])
            torch.sum(logits.sub_(highest[rows]).exp_(), -1, keepdim=True, out=total[rows])
            if keep:
                tiles.append(logits)
        ctx.save_for_backward(hidden, weight, labels, highest, total)
        ctx.tiles = tiles
        return (found - highest - total.log())[:, 0]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Any) -> Any:
        hidden, weight, labels, highest, total = ctx.saved_tensors
        wants_weight = ctx.needs_input_grad[1]
        to_hidden = torch.empty_like(hidden)
        to_weight = None
        tiles, ctx.tiles = ctx.tiles, []  # worked on in place; a second pass makes them anew
        for start in range(0, len(hidden), ROWS):
            rows = slice(start, start + ROWS)
            grad = grads[0][rows, None]
            if tiles:
                made = tiles.pop(0)
            else:
                made = product(hidden[rows], weight).sub_(highest[rows]).exp_()
            # d log p(label) / d logits = onehot(label) - p
            made.mul_(-grad / total[rows]).scatter_add_(1, labels[rows, None], grad)
            to_hidden[rows] = product(made, weight.T)
            if to_weight is not None:
                add_product(to_weight, made.T, hidden[rows].T)
            elif wants_weight:
                to_weight = product(made.T, hidden[rows].T)
        return to_hidden, to_weight, None, None


def token_log_probs(
    hidden: Tensor, weight: Tensor, labels: Tensor, *, keep: bool = False
) -> Tensor:
    """log-probability (N,) of ``labels`` (N,) under softmax(hidden·weightᵀ); float32.

    ``hidden`` is (N, H), ``weight`` (V, H). ``keep`` holds numbers of the size of
    the logits, (N, V), for the backward pass where they take at most ``KEPT`` bytes: a third of the
    head's time for their memory.
    """
    keep = keep and torch.is_grad_enabled() and 4 * len(hidden) * len(weight) <= KEPT
    found: Tensor = _TokenLogProbs.apply(hidden, weight, labels, keep)
    return found


def add_cpu_head(model: Any) -> None:
    """Let a model with TRL's fused head use :func:`token_log_probs` where that is the faster.

    That is: on CPU, in float32, without autocast, for labels that need no shift, and a head that is
    nothing but a matrix. Every other call goes to TRL's.
    """
    config = model.config.get_text_config()
    odd = ("final_logit_softcapping", "logit_scale", "output_multiplier", "lm_head_multiplier",
           "logits_scaling")  # fmt: skip
    if any(getattr(config, name, None) is not None for name in odd):
        return
    fused = model.forward

    @functools.wraps(type(model).forward)
    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        if not (kwargs.get("fused_lm_head") and _plain(self, kwargs)):
            return fused(*args, **kwargs)
        labels = kwargs.pop("shift_labels")
        del kwargs["fused_lm_head"]
        hidden = self.base_model(*args, **kwargs).last_hidden_state
        weight = self.get_output_embeddings().weight
        if isinstance(weight, DTensor):  # sharded by FSDP2
            weight = weight.full_tensor()
        keep = not getattr(self, "is_activation_checkpointing", False)
        found = token_log_probs(hidden.flatten(0, 1), weight, labels.flatten(), keep=keep)
        return FusedCausalLMOutput(log_probs=found.view(labels.shape))

    model.forward = types.MethodType(forward, model)


def _plain(model: Any, kwargs: dict[str, Any]) -> bool:
    head, labels = model.get_output_embeddings(), kwargs.get("shift_labels")
    return (
        labels is not None
        and not kwargs.get("output_router_logits")
        and getattr(head, "bias", None) is None
        and head.weight.device.type == "cpu"
        and head.weight.dtype == torch.float32
        and not torch.is_autocast_enabled("cpu")
    )
