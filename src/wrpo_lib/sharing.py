"""Prompt sharing: the responses to one prompt computed with the prompt once, exactly.

An example with prompt x and responses y_1 … y_R becomes one stretch of tokens, x y_1 … y_R. Each
response is a branch: it sees the prompt and itself, and its positions go on where the prompt ends.
So every response token has the hidden state it has in a row of its own, and the prompt's are
computed once instead of R times. All examples of a batch lie in one row without padding; attention
runs example by example and branch by branch, so nothing masked is computed. The output head sees
the positions that predict a response token and no others.

The paper is silent on all of this. In real arithmetic the results are those of the padded
computation; ``tests/test_sharing.py`` holds losses and gradients to it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from wrpo_lib.errors import WRPOError

if TYPE_CHECKING:
    from torch.nn.attention.flex_attention import BlockMask

BACKENDS = ("sdpa", "flex")
PREFIX = "shared_prompt"


@dataclass(frozen=True)
class Branches:
    """Lengths of a packed row: for each example its prompt and its responses, in tokens.

    Hashable, so masks can be cached by it. It travels through the model as a keyword argument and
    is what tells the attention that the row is packed.
    """

    examples: tuple[tuple[int, tuple[int, ...]], ...]

    @property
    def n_tokens(self) -> int:
        """Tokens of the row."""
        return sum(prompt + sum(responses) for prompt, responses in self.examples)

    def positions(self) -> list[int]:
        """Position of each token: branches restart where their prompt ends."""
        found: list[int] = []
        for prompt, responses in self.examples:
            found += range(prompt)
            for length in responses:
                found += range(prompt, prompt + length)
        return found

    def predicting(self) -> list[int]:
        """Index of the token that predicts each response token: the prompt's last, then its own."""
        found: list[int] = []
        start = 0
        for prompt, responses in self.examples:
            last, start = start + prompt - 1, start + prompt
            for length in responses:
                found += [last, *range(start, start + length - 1)]
                start += length
        return found

    def owners(self) -> tuple[list[int], list[int]]:
        """Example and branch of each token; branch 0 is the prompt."""
        example, branch = [], []
        for number, (prompt, responses) in enumerate(self.examples):
            for index, length in enumerate((prompt, *responses)):
                example += [number] * length
                branch += [index] * length
        return example, branch

    def mask(self) -> Tensor:
        """(T, T) bool: may the row's token see the column's? The picture of the method."""
        example, branch = (torch.tensor(o) for o in self.owners())
        causal = torch.ones(len(example), len(example), dtype=torch.bool).tril()
        same = example[:, None] == example[None, :]
        return causal & same & ((branch[None, :] == 0) | (branch[:, None] == branch[None, :]))


def pack(
    prompts: Sequence[list[int]],
    responses: Sequence[Sequence[list[int]]],
    *,
    pad_token_id: int = 0,
    multiple: int = 1,
) -> dict[str, Any]:
    """One row for a batch: ``responses[b]`` are the token ids of the responses to prompt b.

    Returns ``input_ids`` and ``position_ids`` (1, T), ``branches``, and, N counting response tokens
    example by example, ``head_positions`` (N,) of the tokens that predict and ``shift_labels``
    (1, N), what they should. T is a multiple of ``multiple``: the tokens that fill it up are an
    example of their own that nothing else sees and that predicts nothing.
    """
    lengths = [tuple(map(len, answers)) for answers in responses]
    row = [
        token for p, rs in zip(prompts, responses, strict=True) for ids in (p, *rs) for token in ids
    ]
    examples = [(len(p), ls) for p, ls in zip(prompts, lengths, strict=True)]
    if fill := -len(row) % multiple:
        row += [pad_token_id] * fill
        examples.append((fill, ()))
    branches = Branches(tuple(examples))
    labels = [token for answers in responses for answer in answers for token in answer]
    return {
        "input_ids": torch.tensor([row]),
        "position_ids": torch.tensor([branches.positions()]),
        "head_positions": torch.tensor(branches.predicting()),
        "shift_labels": torch.tensor([labels]),
        "branches": branches,
    }


def model_inputs(batch: dict[str, Any]) -> dict[str, Any]:
    """Keyword arguments of a model that :func:`enable` prepared, for a packed row.

    The four-dimensional mask is a token: it stops transformers from building one, which the
    attention of a packed row does not look at.
    """
    row = batch["input_ids"]
    return {
        "input_ids": row,
        "position_ids": batch["position_ids"],
        "attention_mask": row.new_ones(1, 1, 1, 1, dtype=torch.bool),
        "branches": batch["branches"],
        "head_positions": batch["head_positions"],
        "use_cache": False,
    }


def response_logps(model: Any, batch: dict[str, Any], **kwargs: Any) -> tuple[Tensor, Any]:
    """log π(y|x) of a batch's responses, (B, R), and the model's output.

    ``batch`` is packed (:func:`pack`) or padded, one row per response, all first responses first
    (:class:`wrpo_lib.training.collator.WRPOCollator`). The model needs TRL's fused output head.
    """
    lengths = batch["lengths"]  # (B, R)
    if "branches" in batch:
        kwargs |= {**model_inputs(batch), "shift_labels": batch["shift_labels"]}
        outputs = model(fused_lm_head=True, **kwargs)
        parts = outputs.log_probs[0].split(lengths.flatten().tolist())  # (N,) response by response
        return torch.stack([part.sum() for part in parts]).view(lengths.shape), outputs
    ids, mask = batch["input_ids"], batch["completion_mask"]
    labels = ids.masked_fill(mask == 0, -100)
    kwargs |= {"attention_mask": batch["attention_mask"], "use_cache": False, "labels": labels}
    outputs = model(input_ids=ids, fused_lm_head=True, **kwargs)
    log_probs = outputs.log_probs[:, -(ids.shape[1] - 1) :]  # prompt learning prepends tokens
    return log_probs.sum(dim=1).view(lengths.shape[1], -1).T, outputs


def n_tokens(batch: dict[str, Any]) -> Tensor:
    """Tokens the model computes for a batch, padding left out."""
    if "branches" not in batch:
        count: Tensor = batch["attention_mask"].sum()
        return count
    real = sum(p + sum(rs) for p, rs in batch["branches"].examples if rs)
    return batch["lengths"].new_tensor(real)


# --- attention ----------------------------------------------------------------------------------


def _repeat(states: Tensor, heads: int) -> Tensor:
    """Key or value heads (1, Hkv, T, D) repeated to the query's, (1, H, T, D)."""
    groups = heads // states.shape[1]
    return states if groups == 1 else states.repeat_interleave(groups, dim=1)


@lru_cache(maxsize=512)
def _branch_mask(prompt: int, length: int, device: torch.device) -> Tensor:
    """(L, P + L): a branch sees its whole prompt and itself up to the token."""
    mask = torch.ones(length, prompt + length, dtype=torch.bool, device=device)
    return mask.tril(diagonal=prompt)


def _sdpa(
    query: Tensor, key: Tensor, value: Tensor, branches: Branches, scaling: float | None, p: float
) -> Tensor:
    """Attention of a packed row, (1, H, T, D), one call per branch.

    Kernels skip what a causal square masks, but not what a mask of ours does. So the prompt goes
    along with its first branch in one square, and again with each branch longer than itself, where
    computing its queries twice costs less than the masked part of the rectangle.
    """
    key, value = (_repeat(states, query.shape[1]) for states in (key, value))
    lengths = [n for prompt, responses in branches.examples for n in (prompt, *responses)]
    parts = zip(*(t.split(lengths, dim=2) for t in (query, key, value)), strict=True)
    attend = partial(scaled_dot_product_attention, scale=scaling, dropout_p=p)
    found = []
    for prompt, responses in branches.examples:
        start = next(parts)
        if not responses:
            found.append(attend(*start, is_causal=True))
        for number, length in enumerate(responses):
            q, k, v = next(parts)
            k, v = torch.cat([start[1], k], dim=2), torch.cat([start[2], v], dim=2)
            if number and length <= prompt:
                found.append(attend(q, k, v, attn_mask=_branch_mask(prompt, length, q.device)))
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
    """Largest difference of hidden states between a packed row and one row a response."""
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
