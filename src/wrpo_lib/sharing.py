"""Prompt sharing: the responses to one prompt computed with the prompt once, exactly.

All examples of a batch lie in one row (:mod:`wrpo_lib.packing`). A response sees its prompt and
itself, so every response token has the hidden state it has in a row of its own, and the prompt's
are computed once instead of R times. Attention runs example by example and branch by branch, so
nothing masked is computed; the output head sees the positions that predict a response token.

The paper is silent on all of this. In real arithmetic the results are those of the padded
computation; ``tests/test_sharing.py`` holds losses and gradients to it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from wrpo_lib.errors import WRPOError
from wrpo_lib.packing import Branches, model_inputs, pack

if TYPE_CHECKING:
    from torch.nn.attention.flex_attention import BlockMask

BACKENDS = ("sdpa", "flex")
PREFIX = "shared_prompt"


def _sdpa(
    query: Tensor, key: Tensor, value: Tensor, branches: Branches, scaling: float | None, p: float
) -> Tensor:
    """Attention of a packed row, (1, H, T, D), one call per branch.

    Kernels skip what a causal square masks, but not what a mask of ours does. So the prompt goes
    along with its first branch in one square, and again with each branch longer than itself, where
    computing its queries twice costs less than the masked part of the rectangle.
    """
    lengths = [n for prompt, responses in branches.examples for n in (prompt, *responses)]
    parts = zip(*(t.split(lengths, dim=2) for t in (query, key, value)), strict=True)
    grouped = query.shape[1] != key.shape[1]
    attend = partial(scaled_dot_product_attention, scale=scaling, dropout_p=p, enable_gqa=grouped)
    found = []
    for prompt, responses in branches.examples:
        start = next(parts)
        if not responses:
            found.append(attend(*start, is_causal=True))
        for number, length in enumerate(responses):
            q, k, v = next(parts)
            k, v = torch.cat([start[1], k], dim=2), torch.cat([start[2], v], dim=2)
            if number and length <= prompt:
                seen = torch.ones(length, prompt + length, dtype=torch.bool, device=q.device)
                found.append(attend(q, k, v, attn_mask=seen.tril(prompt)))
                continue
            out = attend(torch.cat([start[0], q], dim=2), k, v, is_causal=True)
            found.append(out[:, :, prompt:] if number else out)
    return torch.cat(found, dim=2)


@lru_cache(maxsize=8)
def block_mask(branches: Branches, device: torch.device) -> BlockMask:
    """FlexAttention's sparse mask of a packed row; whole blocks that nothing sees are skipped."""
    from torch.nn.attention.flex_attention import create_block_mask

    example, branch = (torch.tensor(o, device=device) for o in branches.owners())

    def sees(b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        seen = (branch[k] == 0) | (branch[q] == branch[k])
        return (q >= k) & (example[q] == example[k]) & seen

    n = branches.n_tokens
    return create_block_mask(sees, B=None, H=None, Q_LEN=n, KV_LEN=n, device=str(device))


def _attention(base: str, backend: str) -> Callable[..., tuple[Tensor, Tensor | None]]:
    """An attention function: ``base`` for ordinary calls, ``backend`` for packed rows."""

    def attend(
        module: torch.nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor | None,
        dropout: float = 0.0,
        scaling: float | None = None,
        branches: Branches | None = None,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor | None]:
        if branches is None:
            ordinary = ALL_ATTENTION_FUNCTIONS[base]
            kwargs |= {"dropout": dropout, "scaling": scaling}
            result: tuple[Tensor, Tensor | None] = ordinary(
                module, query, key, value, attention_mask, **kwargs
            )
            return result
        odd = [k for k in ("softcap", "s_aux", "position_bias") if kwargs.get(k) is not None]
        if odd:
            raise WRPOError(f"prompt sharing does not know attention with {odd[0]!r}; turn it off")
        if backend == "sdpa":
            out = _sdpa(query, key, value, branches, scaling, dropout)
            return out.transpose(1, 2).contiguous(), None
        mask = block_mask(branches, query.device)
        result = ALL_ATTENTION_FUNCTIONS["flex_attention"](
            module, query, key, value, mask, scaling=scaling
        )
        return result[0], None

    return attend


# --- models -------------------------------------------------------------------------------------


def enable(model: Any, backend: str = "sdpa") -> None:
    """Teach a causal language model to run packed rows; ordinary calls stay what they were.

    Replaces its attention (through transformers' attention interface, so modules and weights are
    not touched), and lets calls say with ``head_positions`` (N,) which tokens of the row the output
    head is for: hidden states then leave the backbone as (1, N, H).
    """
    if backend not in BACKENDS:
        raise WRPOError(f"unknown prompt-sharing backend {backend!r}; choose {', '.join(BACKENDS)}")
    base = model.config._attn_implementation or "sdpa"
    if base.startswith(PREFIX):
        base = base.split("_over_")[1]
    if base not in ALL_ATTENTION_FUNCTIONS:  # eager: the model's own, which has no entry
        base = "sdpa"
    name = f"{PREFIX}_{backend}_over_{base}"
    AttentionInterface.register(name, _attention(base, backend))
    AttentionMaskInterface.register(name, ALL_MASK_ATTENTION_FUNCTIONS[base])
    model.set_attn_implementation(name)
    backbone = model.base_model
    if not hasattr(backbone, "_head_positions"):
        backbone._head_positions = None
        backbone.register_forward_pre_hook(_take_positions, with_kwargs=True)
        backbone.register_forward_hook(_keep_positions)


def _take_positions(module: Any, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Keep ``head_positions`` from the backbone, which does not know it."""
    module._head_positions = kwargs.pop("head_positions", None)
    return args, kwargs


def _keep_positions(module: Any, args: Any, output: Any) -> Any:
    positions, module._head_positions = module._head_positions, None
    if positions is not None:
        row = output.last_hidden_state
        output.last_hidden_state = row.index_select(1, positions.to(row.device))
    return output


def obstacle(
    model: Any, max_length: int | None, backend: str = "sdpa", *, trial: bool = True
) -> str | None:
    """Why a model cannot share prompts, in a few words; None when it can, and then it is enabled.

    What its configuration tells is asked first. Then, with ``trial`` (leave it out where weights
    are sharded already), a small example runs both ways: a model with positions or a state of its
    own gives itself away by its hidden states, whatever its code looks like.
    """
    config = model.config.get_text_config()
    window = getattr(config, "sliding_window", None)
    used = getattr(config, "use_sliding_window", True)
    if window and used and (max_length is None or window < max_length):
        return f"its attention window is {window} tokens, below max_length"
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    if other := sorted(kinds - {"full_attention", "sliding_attention"}):
        return f"it has layers of kind {other[0]}"
    if getattr(config, "attn_logit_softcapping", None):
        return "it caps its attention logits"
    if not getattr(model, "_supports_attention_backend", False) or model.base_model is model:
        return "its attention cannot be replaced"
    if trial:
        return _differs(model, backend)
    enable(model, backend)
    return None


def _differs(model: Any, backend: str) -> str | None:
    """Run two branches both ways; what went wrong, or None."""
    training, was = model.training, model.config._attn_implementation
    model.eval()
    try:
        off = _deviation(model, backend)
    except (TypeError, ValueError, RuntimeError, KeyError, AttributeError, IndexError) as error:
        reason = f"a trial row failed ({type(error).__name__}: {str(error).splitlines()[0][:80]})"
    else:
        # the trial's own floor: 16-bit formats have 8 to 11 bits of mantissa
        if off < (1e-3 if model.dtype == torch.float32 else 5e-2):
            return None
        reason = f"a trial row came out different (by {off:.1e} of its size)"
    finally:
        model.train(training)
    model.set_attn_implementation(was)
    return reason


@torch.no_grad()
def _deviation(model: Any, backend: str) -> float:
    """Largest difference of hidden states between a packed row and one row per response."""
    ids = torch.arange(17, device=model.device) % model.config.get_text_config().vocab_size
    prompt, responses = ids[:5], (ids[5:12], ids[12:])
    batch = pack([prompt.tolist()], [[r.tolist() for r in responses]])
    alone = []
    for response in responses:
        row = torch.cat([prompt, response])[None]
        output = model.base_model(row, attention_mask=torch.ones_like(row), use_cache=False)
        alone.append(output.last_hidden_state[:, len(prompt) - 1 : -1])
    expected = torch.cat(alone, dim=1).float()
    enable(model, backend)
    inputs = model_inputs(
        {k: v.to(model.device) if isinstance(v, Tensor) else v for k, v in batch.items()}
    )
    packed = model.base_model(**inputs).last_hidden_state.float()
    return float((packed - expected).abs().max() / expected.abs().max().clamp(min=1e-6))
