"""Prompt sharing: the responses to one prompt computed with the prompt once, exactly.

All examples of a batch lie in one row (:mod:`wrpo_lib.packing`). A response sees its prompt and
itself, so its tokens have the hidden states they have in a row of their own. In bf16 or fp16 on a
GPU, attention is one call a layer of PyTorch's flash attention (varlen); elsewhere, SDPA for each
branch. Wang and Hegde (arXiv 2410.20305) share prompts with FlexAttention; the paper is silent.
``tests/test_sharing.py`` holds losses and gradients to those of padded rows.
"""

from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention.bias import causal_lower_right
from torch.nn.attention.varlen import varlen_attn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from wrpo_lib.errors import WRPOError
from wrpo_lib.packing import Branches, pack, padded


@lru_cache(maxsize=8)
def key_index(branches: Branches, device: torch.device) -> tuple[Any, ...]:
    """Keys of N prompts and branches; ends of queries and of keys, (N + 1,) int32; both longest."""
    found = list(branches.sequences())
    index = torch.tensor([at for seen, own in found for at in (*seen, *own)], device=device)
    sizes = torch.tensor([(0, 0), *((len(own), len(seen) + len(own)) for seen, own in found)])
    ends = sizes.T.contiguous().cumsum(1).to(device, torch.int32)
    return index, *ends, *sizes.amax(0).tolist()


def _varlen(q: Tensor, k: Tensor, v: Tensor, branches: Branches, scale: float | None) -> Tensor:
    """Attention of a packed row, (1, H, T, D) to (1, T, H, D), in one call of flash attention."""
    index, *sizes = key_index(branches, q.device)
    q, k, v = (t[0].transpose(0, 1) for t in (q, k, v))  # (T, H, D)
    k, v = k.index_select(0, index), v.index_select(0, index)
    # a window of (-1, 0) is causal, aligned at the last query and the last key
    how: dict[str, Any] = {"scale": scale, "window_size": (-1, 0), "enable_gqa": True}
    out: Any = varlen_attn(q, k, v, *sizes, **how)
    return out[None]


def _sdpa(
    query: Tensor, key: Tensor, value: Tensor, branches: Branches, scaling: float | None, p: float
) -> Tensor:
    """The same, one call per branch.

    A CPU's kernel skips what a causal square masks and nothing else. So the prompt goes along with
    its first branch in one square, and again with each branch that is longer than itself.
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
                found.append(attend(q, k, v, attn_mask=causal_lower_right(length, prompt + length)))
                continue
            out = attend(torch.cat([start[0], q], dim=2), k, v, is_causal=True)
            found.append(out[:, :, prompt:] if number else out)
    return torch.cat(found, dim=2).transpose(1, 2).contiguous()


def _attention(base: str) -> Callable[..., Any]:
    """An attention function: ``base`` for ordinary calls, varlen or SDPA for packed rows."""

    def attend(
        module: Any, query: Tensor, key: Tensor, value: Tensor, mask: Any, **how: Any
    ) -> Any:
        branches = how.pop("branches", None)
        if branches is None:
            return ALL_ATTENTION_FUNCTIONS[base](module, query, key, value, mask, **how)
        odd = [k for k in ("softcap", "s_aux", "position_bias") if how.get(k) is not None]
        if odd:
            raise WRPOError(f"prompt sharing does not know attention with {odd[0]!r}; turn it off")
        query, key = query.to(value.dtype), key.to(value.dtype)  # rotated in float32 by autocast
        scaling, dropout = how.get("scaling"), how.get("dropout", 0.0)
        size, half = value.shape[-1], value.dtype in (torch.bfloat16, torch.float16)
        fits = value.is_cuda and half and size % 8 == 0 and size <= 256 and not dropout
        if fits and torch.cuda.get_device_capability(value.device) >= (8, 0):
            return _varlen(query, key, value, branches, scaling), None
        return _sdpa(query, key, value, branches, scaling, dropout), None

    return attend


def enable(model: Any) -> None:
    """Teach a causal language model to run packed rows; ordinary calls stay what they were.

    Registers an attention function with transformers and lets calls say with ``branches`` how the
    row is packed and with ``head_positions`` (N,) which tokens the output head is for: hidden
    states leave the backbone as (1, N, H). Ordinary calls of a flash attention go through SDPA.
    """
    base = (model.config._attn_implementation or "sdpa").split("_over_")[-1]
    if base not in ALL_ATTENTION_FUNCTIONS or "flash" in base:
        base = "sdpa"  # eager has no entry; flash kernels are looked up by the name in the config
    name = f"shared_prompt_over_{base}"
    AttentionInterface.register(name, _attention(base))
    AttentionMaskInterface.register(name, ALL_MASK_ATTENTION_FUNCTIONS[base])
    model.set_attn_implementation(name)
    backbone = model.base_model
    if not hasattr(backbone, "_head_positions"):
        backbone._head_positions = None
        backbone.register_forward_pre_hook(_take_positions, with_kwargs=True)
        backbone.register_forward_hook(_keep_positions)


def _take_positions(module: Any, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Keep ``head_positions`` from the backbone; a mask in 4D stops it from making one of T²."""
    module._head_positions = kwargs.pop("head_positions", None)
    if kwargs.get("branches"):
        kwargs["attention_mask"] = kwargs["position_ids"].new_ones(1, 1, 1, 1, dtype=torch.bool)
    return args, kwargs


def _keep_positions(module: Any, args: Any, output: Any) -> None:
    if module._head_positions is not None:
        row, positions = output.last_hidden_state, module._head_positions
        output.last_hidden_state = row.index_select(1, positions.to(row.device))
        module._head_positions = None


@torch.no_grad()
def obstacle(model: Any, max_length: int | None, trial: bool = True) -> str | None:
    """Why a model cannot share prompts, in a few words; None when it can, and then it is enabled.

    Asks its configuration, and with ``trial`` (not where weights are sharded already) compares the
    hidden states of a packed row with those of padded rows.
    """
    config, was = model.config.get_text_config(), model.config._attn_implementation
    window = getattr(config, "use_sliding_window", True) and getattr(config, "sliding_window", None)
    if window and (max_length is None or window < max_length):
        return f"its attention window is {window} tokens, below max_length"
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    if other := sorted(kinds - {"full_attention", "sliding_attention"}):
        return f"it has layers of kind {other[0]}"
    if not getattr(model, "_supports_attention_backend", False) or model.base_model is model:
        return "its attention cannot be replaced"
    if not trial:
        enable(model)
        return None

    ids, training = [i % config.vocab_size for i in range(17)], model.training
    packed = pack([ids[:5]], [[ids[5:12], ids[12:]]])
    names = ("input_ids", "position_ids", "head_positions")
    inputs = {name: packed[name].to(model.device) for name in names}
    rows = padded([ids[:12], ids[:5] + ids[12:]], 0, "right", model.device)
    model.eval()
    try:
        enable(model)
        alone = model.base_model(**rows, use_cache=False).last_hidden_state.float()
        expected = torch.cat([alone[0, 4:11], alone[1, 4:9]])
        states = model.base_model(**inputs, branches=packed["branches"], use_cache=False)
        off = (states.last_hidden_state[0].float() - expected).abs().max() / expected.abs().max()
        # the trial's own floor: 16-bit formats have 8 to 11 bits of mantissa
        if off < (1e-3 if model.dtype == torch.float32 else 5e-2):
            return None
        found = f"a trial row came out different (by {off:.1e} of its size)"
    except (TypeError, ValueError, RuntimeError, KeyError, AttributeError, IndexError) as error:
        found = f"a trial row failed ({type(error).__name__}: {str(error).splitlines()[0][:80]})"
    finally:
        model.train(training)
    model.set_attn_implementation(was)
    return found
