"""Prompt sharing: the responses to one prompt computed with the prompt once, exactly.

A batch is one packed row: each example is a contiguous span of tokens, x y_1 … y_R. Each response
is a branch that sees its prompt and itself; its positions go on where the prompt ends, so its
tokens have the hidden states of a row of their own. In bf16 or fp16 on a GPU, attention is one call
per layer of PyTorch's flash attention (varlen); elsewhere, or with the backend ``sdpa``, SDPA for
each branch. Wang and Hegde (arXiv 2410.20305) share prompts with FlexAttention, the backend
``flex``, here to compare with; the WRPO paper is silent.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention.bias import causal_lower_right
from torch.nn.attention.flex_attention import create_block_mask
from torch.nn.attention.varlen import varlen_attn
from torch.nn.functional import scaled_dot_product_attention
from torch.nn.utils.rnn import pad_sequence
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from wrpo_lib.errors import WRPOError

BACKENDS = ("auto", "sdpa", "flex")
# vocabulary entries per tile of TRL's fused head on a CPU: its default, 32,768, makes eight float32
# temporaries, a third of a step's peak memory
CPU_TILE = 4096
PADDED = ("input_ids", "attention_mask", "labels")
PACKED = ("position_ids", "branches", "head_positions", "shift_labels")  # and input_ids


@dataclass(frozen=True)
class Branches:
    """Tokens of each example's prompt and responses; tells the attention that a row is packed."""

    examples: tuple[tuple[int, tuple[int, ...]], ...]

    def sequences(self) -> Iterator[tuple[range, range]]:
        """Each prompt and each branch in turn: the prompt it sees before itself, and its tokens."""
        start = 0
        for length, responses in self.examples:
            prompt = range(start, start + length)
            yield range(0), prompt
            start = prompt.stop
            for length in responses:
                yield prompt, range(start, start + length)
                start += length

    def positions(self) -> list[int]:
        """Position of each token: branches restart where their prompt ends."""
        return [len(seen) + at for seen, own in self.sequences() for at in range(len(own))]

    def sees(self, device: Any = None) -> Callable[..., Tensor]:
        """May token q see token k? As FlexAttention asks it, of batch, head, q and k."""
        bounds = [(seen.start, seen.stop, own.start) for seen, own in self.sequences() for _ in own]
        first, end, start = torch.tensor(bounds, device=device).T

        def sees(b: Any, h: Any, q: Tensor, k: Tensor) -> Tensor:
            return (k >= first[q]) & (k < end[q]) | (k >= start[q]) & (k <= q)

        return sees

    def mask(self) -> Tensor:
        """(T, T) bool: may the row's token see the column's? The picture of the method."""
        at = torch.arange(len(self.positions()))
        return self.sees()(0, 0, at[:, None], at)


def pack(prompts: Sequence[list[int]], responses: Sequence[Sequence[list[int]]]) -> dict[str, Any]:
    """One row for a batch: ``responses[b]`` are the token ids of the responses to prompt b.

    Returns ``input_ids`` and ``position_ids`` (1, T), ``branches``, and, N counting response tokens
    example by example, ``head_positions`` (N,) of the tokens that predict (the prompt's last, then
    the response's own) and ``shift_labels`` (1, N), what they should.
    """
    examples = list(zip(prompts, responses, strict=True))
    branches = Branches(tuple((len(x), tuple(map(len, ys))) for x, ys in examples))
    predict = [at for x, own in branches.sequences() if x for at in (x[-1], *own[:-1])]
    return {
        "input_ids": torch.tensor([[token for x, ys in examples for p in (x, *ys) for token in p]]),
        "position_ids": torch.tensor([branches.positions()]),
        "head_positions": torch.tensor(predict),
        "shift_labels": torch.tensor([[token for ys in responses for y in ys for token in y]]),
        "branches": branches,
    }


def pad(prompts: Sequence[list[int]], responses: Sequence[Sequence[list[int]]]) -> dict[str, Any]:
    """One padded row per response, (R·B, T), first responses first; other ``labels`` are -100."""
    columns = zip(*responses, strict=True)
    pairs = [(x, y) for column in columns for x, y in zip(prompts, column, strict=True)]
    rows = padded([x + y for x, y in pairs], 0, "right", "cpu")
    labels = padded([[-100] * len(x) + y for x, y in pairs], -100, "right", "cpu")
    return {**rows, "labels": labels["input_ids"]}


def padded(ids: list[list[int]], pad: int, side: str, device: Any) -> dict[str, Tensor]:
    """``input_ids`` and ``attention_mask``, (B, T), of B rows of different lengths."""
    rows = [torch.tensor(row, device=device) for row in ids]
    mask = pad_sequence([torch.ones_like(row) for row in rows], True, 0, side)
    return {"input_ids": pad_sequence(rows, True, pad, side), "attention_mask": mask}


def response_logps(model: Any, batch: dict[str, Any], **kwargs: Any) -> tuple[Tensor, Any]:
    """log π(y|x) of a batch's responses, (B, R), and the model's output.

    ``batch`` has their ``lengths`` (B, R) and what :func:`pack` or :func:`pad` returns, or
    ``parts`` of either kind. The model needs TRL's fused output head.
    """
    lengths = batch["lengths"]
    if "parts" in batch:
        logps = [response_logps(model, part, **kwargs)[0] for part in batch["parts"]]
        return torch.cat(logps), None
    if lengths.device.type == "cpu":
        from trl.trainer import utils

        utils._CHUNKED_LOGPROB_CHUNK_SIZE = CPU_TILE
    kwargs |= {name: batch[name] for name in (*PADDED, *PACKED) if name in batch}
    outputs = model(**kwargs, use_cache=False, fused_lm_head=True)
    if "branches" in batch:
        parts = outputs.log_probs[0].split(lengths.flatten().tolist())  # (N,) response by response
        return torch.stack([part.sum() for part in parts]).view(lengths.shape), outputs
    width = batch["input_ids"].shape[1] - 1
    log_probs = outputs.log_probs[:, -width:]  # prompt learning prepends tokens
    return log_probs.sum(dim=1).view(lengths.shape[1], -1).T, outputs


@lru_cache(maxsize=8)
def key_index(branches: Branches, device: torch.device) -> tuple[Any, ...]:
    """Key indices of N prompts and branches; cumulative lengths of queries and of keys, (N + 1,)
    int32; the greatest length of each."""
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

    PyTorch's CPU kernel skips masked entries only of a causal square. So the prompt is computed
    together with its first branch, and again with each branch that is longer than itself.
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


@lru_cache(maxsize=8)
def block_mask(branches: Branches, device: torch.device) -> Any:
    """FlexAttention's sparse mask of a packed row: blocks in which nothing is seen are skipped."""
    n = len(branches.positions())
    return create_block_mask(branches.sees(device), None, None, n, n, device=str(device))


def _attention(base: str, backend: str) -> Callable[..., Any]:
    """An attention function: ``base`` for ordinary calls, ``backend`` for packed rows."""

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
        if backend == "flex":
            blocks = block_mask(branches, query.device)
            flex = ALL_ATTENTION_FUNCTIONS["flex_attention"]
            return flex(module, query, key, value, blocks, scaling, dropout=dropout)[0], None
        size, half = value.shape[-1], value.dtype in (torch.bfloat16, torch.float16)
        fits = value.is_cuda and half and size % 8 == 0 and size <= 256 and not dropout
        if fits and backend == "auto" and torch.cuda.get_device_capability(value.device) >= (8, 0):
            return _varlen(query, key, value, branches, scaling), None
        return _sdpa(query, key, value, branches, scaling, dropout), None

    return attend


def enable(model: Any, backend: str = "auto") -> None:
    """Enable packed rows on a causal language model; ordinary calls are unaffected.

    Calls say with ``branches`` how the row is packed and with ``head_positions`` (N,) which tokens
    the output head is for: hidden states leave the backbone as (1, N, H). Ordinary calls of a flash
    attention go through SDPA.
    """
    base = (model.config._attn_implementation or "sdpa").split("_over_")[-1]
    if base not in ALL_ATTENTION_FUNCTIONS or "flash" in base:
        base = "sdpa"  # eager has no entry; flash kernels are looked up by the name in the config
    name = f"shared_prompt_{backend}_over_{base}"
    AttentionInterface.register(name, _attention(base, backend))
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
def obstacle(
    model: Any, max_length: int | None, backend: str = "auto", trial: bool = True
) -> str | None:
    """The reason why a model cannot share prompts, or None after enabling it.

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
    if backend == "flex" and model.device.type == "cpu":
        return "FlexAttention has no backward pass on a CPU"
    if not trial:
        enable(model, backend)
        return None

    ids, training = [i % config.vocab_size for i in range(17)], model.training
    packed = pack([ids[:5]], [[ids[5:12], ids[12:]]])
    names = ("input_ids", "position_ids", "head_positions")
    inputs = {name: packed[name].to(model.device) for name in names}
    rows = padded([ids[:12], ids[:5] + ids[12:]], 0, "right", model.device)
    model.eval()
    try:
        enable(model, backend)
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
