"""SFT on y_ws: the same tokens as preference training, the loss on the response alone."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast
from trl import SFTConfig

from wrpo_lib import sharing
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

    sft = sft_trainer(
        model,
        args(train_sampling_strategy="sequential"),
        train_dataset=quadruples,
        processing_class=tokenizer,
    )
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
    sft = sft_trainer(
        model, args(max_length=17), train_dataset=quadruples, processing_class=tokenizer
    )
    assert sft.truncation["train"]["rows"] == 12
    assert 0 < sft.truncation["train"]["source_chosen"] < 12


def test_a_packed_block_needs_no_mask(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    quadruples: Dataset,
    args: Callable[..., Any],
    steps: Callable[..., list[float]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Rows that follow each other train as TRL trains them with a mask of the block squared."""
    settings = {"packing": True, "packing_strategy": "bfd", "max_length": 40, "max_steps": 3}
    seen: list[Any] = []
    ordinary = sharing._sdpa

    def attend(*inputs: Any) -> Any:
        seen.append(inputs[3])
        return ordinary(*inputs)

    monkeypatch.setattr(sharing, "_sdpa", attend)
    ours = sft_trainer(
        copy.deepcopy(model), args(**settings), train_dataset=quadruples, processing_class=tokenizer
    )
    ours.train()
    lengths = [n for n, responses in seen[-1].examples if not responses]
    assert len(lengths) > 2, "rows were packed"
    monkeypatch.setattr(sharing, "obstacle", lambda *given, **named: "switched off")
    theirs = sft_trainer(
        copy.deepcopy(model), args(**settings), train_dataset=quadruples, processing_class=tokenizer
    )
    theirs.train()
    assert steps(ours) == pytest.approx(steps(theirs), rel=1e-5)
    assert steps(ours, "grad_norm") == pytest.approx(steps(theirs, "grad_norm"), rel=1e-4)
    assert steps(ours)[-1] < steps(ours)[0]


def test_adapters_of_a_quantised_base_are_float32(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    quadruples: Dataset,
    args: Callable[..., Any],
    trainer: Callable[..., WRPOTrainer],
) -> None:
    """TRL makes them bfloat16, in which small updates round away."""
    lora = LoraConfig(r=4, target_modules=["q_proj"])
    model.is_loaded_in_4bit = True  # as bitsandbytes leaves it; the weights here are whole
    made = [
        trainer(model=model, peft_config=lora, max_steps=1),
        sft_trainer(
            copy.deepcopy(model),
            args(),
            train_dataset=quadruples,
            processing_class=tokenizer,
            peft_config=lora,
        ),
    ]
    for run in made:
        trained = [p.dtype for p in run.model.parameters() if p.requires_grad]
        assert trained
        assert set(trained) == {torch.float32}
