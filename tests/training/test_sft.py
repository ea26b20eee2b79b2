"""SFT on y_ws: the same tokens as preference training, the loss on the response alone."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from peft import LoraConfig
from transformers import LlamaForCausalLM, Trainer

from wrpo_lib import sharing
from wrpo_lib.training import WRPOTrainer

Build = Callable[..., Trainer]
Steps = Callable[..., list[float]]


def test_first_loss_is_the_mean_over_response_tokens(
    sft: Build, trainer: Callable[..., WRPOTrainer], steps: Steps
) -> None:
    in_order = {"train_sampling_strategy": "sequential"}
    preference = trainer(alpha=1.0, alpha_schedule="constant", **in_order)
    preference.train()
    first_two = preference.train_dataset.select([0, 1])
    tokens = sum(map(len, first_two["source_chosen_ids"]))
    expected = -2 * steps(preference, "logps/source_chosen")[0] / tokens

    run = sft(**in_order)
    row = run.train_dataset[0]
    assert row["input_ids"] == first_two[0]["prompt_ids"] + first_two[0]["source_chosen_ids"]
    run.train()
    losses = steps(run)
    assert losses[0] == pytest.approx(expected, rel=1e-4)
    assert losses[-1] < losses[0]
    cut = sft(max_length=17).truncation["train"]
    assert cut["rows"] == 12
    assert 0 < cut["source_chosen"] < 12


def test_a_packed_block_needs_no_mask(
    sft: Build, steps: Steps, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows that follow each other train as TRL trains them with a mask of the block squared."""
    settings = {"packing": True, "packing_strategy": "bfd", "max_length": 40, "max_steps": 3}
    seen: list[Any] = []
    ordinary = sharing._sdpa
    monkeypatch.setattr(sharing, "_sdpa", lambda *given: seen.append(given[3]) or ordinary(*given))
    ours = sft(**settings)
    ours.train()
    assert len(seen[-1].examples) > 2, "rows were packed"
    monkeypatch.setattr(sharing, "obstacle", lambda *given, **named: "switched off")
    theirs = sft(**settings)
    theirs.train()
    assert steps(ours) == pytest.approx(steps(theirs), rel=1e-5)
    assert steps(ours, "grad_norm") == pytest.approx(steps(theirs, "grad_norm"), rel=1e-4)
    assert steps(ours)[-1] < steps(ours)[0]


def test_adapters_of_a_quantised_base_are_float32(
    sft: Build, trainer: Callable[..., WRPOTrainer], model: LlamaForCausalLM
) -> None:
    """TRL makes them bfloat16, in which small updates round away."""
    model.is_loaded_in_4bit = True  # as bitsandbytes leaves it; the weights here are whole
    for build in (trainer, sft):
        run = build(peft_config=LoraConfig(r=4, target_modules=["q_proj"]))
        trained = {p.dtype for p in run.model.parameters() if p.requires_grad}
        assert trained == {torch.float32}
