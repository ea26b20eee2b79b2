"""Packed rows: a batch of prompts and responses as one row in which each prompt stands once.

An example with prompt x and responses y_1 … y_R becomes one stretch of tokens, x y_1 … y_R. Each
response is a branch: its positions go on where the prompt ends, and the output head is for the
tokens that predict one of a response. How such a row is attended to is in
:mod:`wrpo_lib.sharing`. The paper is silent on all of this; ours.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

CPU_TILE = 4096
"""Words whose logits TRL's fused head holds at a time on a CPU. Without Triton its tile of 32,768
words has eight float32 temporaries of that size: a third of a step's peak memory."""


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

    def predicting(self) -> list[int]:
        """Index of the token that predicts each response token: the prompt's last, then its own."""
        return [at for seen, own in self.sequences() if seen for at in (seen[-1], *own[:-1])]

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


def split_by_tokens(sizes: Sequence[int], budget: int | None) -> list[slice]:
    """Consecutive examples of at most ``budget`` tokens together, one at least; all without one."""
    starts, held = [0], 0
    for number, size in enumerate(sizes):
        if budget and held + size > budget and number > starts[-1]:
            starts, held = [*starts, number], 0
        held += size
    return [slice(*ends) for ends in pairwise([*starts, len(sizes)])]


def model_inputs(batch: dict[str, Any]) -> dict[str, Any]:
    """A packed row as keyword arguments of a model that can run one (:mod:`wrpo_lib.sharing`)."""
    names = ("input_ids", "position_ids", "branches", "head_positions")
    return {**{name: batch[name] for name in names}, "use_cache": False}


def response_logps(model: Any, batch: dict[str, Any], **kwargs: Any) -> tuple[Tensor, Any]:
    """log π(y|x) of a batch's responses, (B, R), and the model's output.

    ``batch`` is packed (:func:`pack`) or padded, one row per response, all first responses first
    (:class:`wrpo_lib.training.data.WRPOCollator`), or ``parts`` of either kind. The model needs
    TRL's fused output head.
    """
    lengths = batch["lengths"]  # (B, R)
    if "parts" in batch:
        logps = [response_logps(model, part, **kwargs)[0] for part in batch["parts"]]
        return torch.cat(logps), None
    if lengths.device.type == "cpu":
        from trl.trainer import utils

        utils._CHUNKED_LOGPROB_CHUNK_SIZE = CPU_TILE
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
