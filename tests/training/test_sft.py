"""SFT on y_ws: the same tokens as preference training, the loss on the response alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from datasets import Dataset
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast
from trl import SFTConfig

from wrpo_lib.training import WRPOTrainer, sft_trainer


@pytest.fixture
def args(settings: dict[str, Any]) -> Callable[..., Any]:
    def build(**overrides: Any) -> Any:
        values = {k: v for k, v in settings.items() if k != "beta"}
        return SFTConfig(**{**values, **overrides})

    return build


def test_first_loss_is_the_mean_over_response_tokens(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    quadruples: Dataset,
    args: Callable[..., Any],
    trainer: Callable[..., WRPOTrainer],
    steps: Callable[..., list[float]],
) -> None:
    preference = trainer(alpha=1.0, alpha_schedule="constant", train_sampling_strategy="sequential")
    preference.train()
    first_two = preference.train_dataset.select([0, 1])
    tokens = sum(map(len, first_two["source_chosen_ids"]))
    expected = -2 * steps(preference, "logps/source_chosen")[0] / tokens

    sft = sft_trainer(model, args(train_sampling_strategy="sequential"), quadruples, tokenizer)
    row = sft.train_dataset[0]
    assert row["input_ids"] == first_two[0]["prompt_ids"] + first_two[0]["source_chosen_ids"]
    sft.train()
    losses = steps(sft)
    assert losses[0] == pytest.approx(expected, rel=1e-4)
    assert losses[-1] < losses[0]


def test_truncation_is_counted(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    quadruples: Dataset,
    args: Callable[..., Any],
) -> None:
    sft = sft_trainer(model, args(max_length=17), quadruples, tokenizer)
    assert sft.truncation["SFT"]["rows"] == 12
    assert 0 < sft.truncation["SFT"]["source_chosen"] < 12
