"""Batches of prompts and responses: one packed row in which each prompt stands once, or padded.

In a packed row an example is one stretch of tokens, x y_1 … y_R. Each response is a branch: its
positions go on where the prompt ends, and the output head is for the tokens that predict one of a
response. How such a row is attended to is in :mod:`wrpo_lib.sharing`. Ours; the paper is silent.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

# words whose logits TRL's fused head holds at a time on a CPU: of its own tile of 32,768 it makes
# eight float32 temporaries, a third of a step's peak memory
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

    def mask(self) -> Tensor:
        """(T, T) bool: may the row's token see the column's? The picture of the method."""
        n = len(self.positions())
        mask = torch.zeros(n, n, dtype=torch.bool)
        for seen, own in self.sequences():
            for at in own:
                mask[at, [*seen, *range(own.start, at + 1)]] = True
        return mask


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
    """A row per response, (R·B, T), all first responses first, padded on the right.

    ``labels`` are -100 where no token of a response is to be predicted.
    """
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


def split_by_tokens(sizes: Sequence[int], budget: int | None) -> list[slice]:
    """Consecutive examples of at most ``budget`` tokens together, one at least; all without one."""
    starts, held = [0], 0
    for number, size in enumerate(sizes):
        if budget and held + size > budget and number > starts[-1]:
            starts, held = [*starts, number], 0
        held += size
    return [slice(*ends) for ends in pairwise([*starts, len(sizes)])]


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
