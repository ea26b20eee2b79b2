"""Response log-probabilities: the log πθ(y|x) that every quantity of the paper is made of.

:func:`response_logprobs` is the plain padded computation, one response a prompt, and what
everything else is held against. :func:`shared_logprobs` takes many responses to each prompt and
computes the prompt once for all of them (:mod:`wrpo_lib.sharing`): exact, and cheaper by the
prompt's tokens for every response but the first.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
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


def shared_logprobs(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: list[Prompt],
    responses: list[list[str]],
    *,
    max_tokens: int = 4096,
    max_length: int | None = None,
) -> list[ResponseLogprobs]:
    """log πθ(y|x) of any number of responses to each prompt, one entry a prompt.

    Rows of about ``max_tokens`` tokens hold as many examples as fit. A model that cannot share
    prompts is computed padded, with one line in the log.
    """
    import numpy as np
    import torch

    from wrpo_lib import sharing

    attention, was_training = model.config._attn_implementation, model.training
    if reason := sharing.obstacle(model, max_length):
        logging.getLogger(__name__).warning("prompts are not shared: %s", reason)
        return _unshared(model, tokenizer, prompts, responses, max_length)
    rows = [
        render(tokenizer, p, rs, max_length, None) for p, rs in zip(prompts, responses, strict=True)
    ]
    found = []
    model.eval()
    with torch.no_grad():
        for batch in _rows_of(max_tokens, [(r.prompt_ids, r.response_ids) for r in rows]):
            packed = sharing.pack([p for p, _ in batch], [ids for _, ids in batch])
            inputs = sharing.model_inputs(packed)
            logits = model(
                **{k: v.to(model.device) if torch.is_tensor(v) else v for k, v in inputs.items()}
            ).logits.float()  # (1, N, V)
            labels = packed["shift_labels"].to(model.device)
            picked = logits.log_softmax(-1).gather(-1, labels.unsqueeze(-1))[0, :, 0].cpu()
            for _, answers in batch:
                counts = [len(ids) for ids in answers]
                own, picked = picked.split([sum(counts), len(picked) - sum(counts)])
                sums = [float(part.sum()) for part in own.split(counts)]
                found.append(ResponseLogprobs(np.array(sums), np.array(counts)))
    model.train(was_training)
    model.set_attn_implementation(attention)
    return found


Tokens = tuple[list[int], list[list[int]]]


def _rows_of(limit: int, examples: list[Tokens]) -> Iterator[list[Tokens]]:
    """Examples in order, together as long as they stay within ``limit`` tokens."""
    batch: list[Tokens] = []
    size = 0
    for prompt, answers in examples:
        tokens = len(prompt) + sum(map(len, answers))
        if batch and size + tokens > limit:
            yield batch
            batch, size = [], 0
        batch.append((prompt, answers))
        size += tokens
    if batch:
        yield batch


def _unshared(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: list[Prompt],
    responses: list[list[str]],
    max_length: int | None,
) -> list[ResponseLogprobs]:
    """The same by :func:`response_logprobs`."""
    import numpy as np

    repeated = [p for p, rs in zip(prompts, responses, strict=True) for _ in rs]
    texts = [text for rs in responses for text in rs]
    flat = response_logprobs(model, tokenizer, repeated, texts, max_length=max_length)
    ends = np.cumsum([len(rs) for rs in responses])[:-1]
    pairs = zip(np.split(flat.logps, ends), np.split(flat.n_tokens, ends), strict=True)
    return [ResponseLogprobs(logps, counts) for logps, counts in pairs]


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
