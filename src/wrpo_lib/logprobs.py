"""Response log-probabilities: the log πθ(y|x) that every quantity of the paper is made of.

The plain padded computation, one response per prompt, that everything else is held against.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from wrpo_lib.chat import render

if TYPE_CHECKING:
    import numpy as np
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Prompt = str | list[dict[str, str]]


@dataclass(frozen=True)
class ResponseLogprobs:
    """``logps``: (N,) summed over response tokens, nats; ``n_tokens``: (N,) end token included."""

    logps: np.ndarray
    n_tokens: np.ndarray


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

    Rendered as in training (:func:`wrpo_lib.chat.render`), batched by length,
    computed in the model's dtype with the log-softmax in float32.
    """
    import numpy as np
    import torch

    rows = [
        render(tokenizer, p, [r], max_length, None) for p, r in zip(prompts, responses, strict=True)
    ]
    ids = [(row.prompt_ids, row.response_ids[0]) for row in rows]
    order = sorted(range(len(ids)), key=lambda i: len(ids[i][0]) + len(ids[i][1]))
    logps = np.zeros(len(ids))
    was_training = model.training
    model.eval()
    with torch.no_grad():
        for start in range(0, len(order), batch_size):
            batch = order[start : start + batch_size]
            logps[batch] = _batch_logprobs(model, tokenizer, [ids[i] for i in batch])
    model.train(was_training)
    return ResponseLogprobs(logps, np.array([len(r) for _, r in ids]))


def _batch_logprobs(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: list[tuple[list[int], list[int]]],
) -> list[float]:
    """Summed response log-probabilities of one right-padded batch."""
    import torch

    width = max(len(p) + len(r) for p, r in rows)
    input_ids = torch.full((len(rows), width), tokenizer.pad_token_id)
    labels = torch.full((len(rows), width), -100)
    mask = torch.zeros((len(rows), width), dtype=torch.long)
    for i, (prompt, response) in enumerate(rows):
        end = len(prompt) + len(response)
        input_ids[i, :end] = torch.tensor(prompt + response)
        labels[i, len(prompt) : end] = torch.tensor(response)
        mask[i, :end] = 1
    device = model.device
    logits = model(input_ids=input_ids.to(device), attention_mask=mask.to(device)).logits[:, :-1]
    wanted = labels[:, 1:].to(device)  # (B, T-1)
    token_logps = logits.float().log_softmax(-1)  # (B, T-1, V)
    picked = token_logps.gather(-1, wanted.clamp(min=0).unsqueeze(-1)).squeeze(-1)
    found: list[float] = (picked * (wanted != -100)).sum(-1).tolist()
    return found
