"""Log-probabilities of many responses to one prompt: shared, padded, and by hand."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import torch
from datasets import Dataset
from transformers import (
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedTokenizerFast,
)

from wrpo_lib.logprobs import response_logprobs, shared_logprobs


@pytest.fixture
def many(quadruples: Dataset) -> tuple[list, list[list[str]]]:
    """Three, one and two responses in turn: the number need not be the same."""
    names = ("source_chosen", "target_chosen", "rejected")
    counts = [(3, 1, 2)[i % 3] for i in range(len(quadruples))]
    rows = zip(quadruples, counts, strict=True)
    return quadruples["prompt"][:], [[row[name] for name in names[:n]] for row, n in rows]


@pytest.mark.parametrize("max_tokens", [1, 60, 4096])
def test_shared_equals_one_response_at_a_time(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, many: tuple, max_tokens: int
) -> None:
    prompts, responses = many
    model.train()
    attention = model.config._attn_implementation
    found = shared_logprobs(model, tokenizer, prompts, responses, max_tokens=max_tokens)
    assert model.training
    assert model.config._attn_implementation == attention
    assert [len(f.logps) for f in found] == [len(rs) for rs in responses]
    for prompt, answers, logprobs in zip(prompts, responses, found, strict=True):
        one = response_logprobs(model, tokenizer, [prompt] * len(answers), answers)
        np.testing.assert_allclose(logprobs.logps, one.logps, rtol=1e-5)
        assert logprobs.n_tokens.tolist() == one.n_tokens.tolist()


def test_a_model_that_cannot_share_gives_the_same_padded(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    many: tuple,
    caplog: pytest.LogCaptureFixture,
) -> None:
    torch.manual_seed(0)
    config = {**model.config.to_dict(), "sliding_window": 64, "dtype": None}
    wide = MistralForCausalLM(MistralConfig(**config))
    shared = shared_logprobs(wide, tokenizer, *many, max_length=64)
    with caplog.at_level(logging.WARNING):
        padded = shared_logprobs(wide, tokenizer, *many)  # no limit, so the window might matter
    assert "its attention window is 64 tokens" in caplog.text
    for mine, theirs in zip(shared, padded, strict=True):
        np.testing.assert_allclose(mine.logps, theirs.logps, rtol=1e-5)
        assert mine.n_tokens.tolist() == theirs.n_tokens.tolist()
