"""Response log-probabilities: the log πθ(y|x) that every quantity of the paper is made of.

The plain padded computation, one response per prompt, that everything else is held against.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from wrpo_lib.chat import Prompt, render


class ResponseLogprobs(NamedTuple):
    """``logps``: (N,) summed over response tokens, nats; ``n_tokens``: (N,) end token included."""

    logps: np.ndarray
    n_tokens: np.ndarray


@torch.no_grad()
def response_logprobs(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: list[Prompt],
    responses: list[str],
    *,
    batch_size: int = 64,
    max_length: int | None = None,
) -> ResponseLogprobs:
    """log πθ(y|x) of one response per prompt, in the order given.

    Rendered as in training (:func:`wrpo_lib.chat.render`), batched by length, computed in the
    model's dtype with the log-softmax in float32.
    """
    pairs = zip(prompts, responses, strict=True)
    rows = [render(tokenizer, prompt, [text], max_length) for prompt, text in pairs]
    ids = [(row.prompt_ids, row.response_ids[0]) for row in rows]
    order = sorted(range(len(ids)), key=lambda i: len(ids[i][0]) + len(ids[i][1]))
    logps = np.zeros(len(ids))
    was_training = model.training
    model.eval()
    for start in range(0, len(order), batch_size):
        batch = order[start : start + batch_size]
        logps[batch] = _batch_logprobs(model, [ids[i] for i in batch])
    model.train(was_training)
    return ResponseLogprobs(logps, np.array([len(response) for _, response in ids]))


def _batch_logprobs(model: PreTrainedModel, rows: list[tuple[list[int], list[int]]]) -> list[float]:
    """Summed response log-probabilities of one right-padded batch."""
    inputs = padded([prompt + response for prompt, response in rows], 0, "right", model.device)
    wanted = [torch.tensor([0] * len(prompt) + [1] * len(response)) for prompt, response in rows]
    logits = model(**inputs).logits[:, :-1]
    token_logps = logits.float().log_softmax(-1)  # (B, T-1, V)
    picked = token_logps.gather(-1, inputs["input_ids"][:, 1:, None]).squeeze(-1)
    found: list[float] = (picked * pad_sequence(wanted, True)[:, 1:].to(picked)).sum(-1).tolist()
    return found


def padded(ids: list[list[int]], pad: int, side: str, device: Any) -> dict[str, torch.Tensor]:
    """``input_ids`` and ``attention_mask``, (B, T), of B rows of different lengths."""
    rows = [torch.tensor(row, device=device) for row in ids]
    mask = pad_sequence([torch.ones_like(row) for row in rows], True, 0, side)
    return {"input_ids": pad_sequence(rows, True, pad, side), "attention_mask": mask}
