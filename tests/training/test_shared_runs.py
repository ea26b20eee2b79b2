"""Whole runs with shared prompts are the runs without, whatever is around them."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig, PromptTuningConfig
from transformers import LlamaForCausalLM, MistralConfig, MistralForCausalLM

from wrpo_lib.errors import WRPOError
from wrpo_lib.training.trainer import WRPOTrainer

Build = Callable[..., WRPOTrainer]
Steps = Callable[..., list[float]]


@pytest.mark.parametrize(
    "setting",
    [
        {"objective": "dpo"},
        {"objective": "ipo", "tau": 0.2},
        {"objective": "simpo", "beta": 2.0, "gamma": 0.3},
        {"alpha": 0.0},
        {"alpha": 1.0, "alpha_schedule": "constant"},
        {"alpha": 1.0, "alpha_schedule": "constant", "score_unused": False},
        {"lora": True},
        {"activation_checkpointing": True},
        {"lora": True, "activation_checkpointing": True},
        {"gradient_accumulation_steps": 3},
        {"precompute_ref_log_probs": False},
        {"lora": True, "precompute_ref_log_probs": False},
    ],
    ids=lambda setting: "-".join(f"{k}={v}" for k, v in setting.items()),
)
def test_losses_and_gradients_are_those_of_padded_rows(
    trainer: Build, steps: Steps, quadruples: Dataset, setting: dict[str, Any]
) -> None:
    setting = {"alpha": 0.5, **setting}
    lora = setting.pop("lora", False)

    def run(share: bool, **kwargs: Any) -> WRPOTrainer:
        peft = LoraConfig(r=4, target_modules=["q_proj", "down_proj"]) if lora else None
        made = trainer(
            share_prompt=share,
            peft_config=peft,
            eval_dataset=quadruples.select([3, 5]),
            **{**setting, **kwargs},
        )
        made.train()
        assert made.shares_prompts is share
        return made

    shared, padded = run(True), run(False)
    for key in ("loss", "grad_norm", "rewards/margins", "logps/rejected", "rewards/fused"):
        assert steps(shared, key) == pytest.approx(steps(padded, key), rel=1e-4, abs=1e-5), key
    assert abs(steps(shared)[0] - steps(shared)[-1]) > 1e-3, "nothing was learned"
    found, expected = shared.evaluate(), padded.evaluate()
    assert found["eval_loss"] == pytest.approx(expected["eval_loss"], rel=1e-4)
    for name, weight in padded.model.named_parameters():
        torch.testing.assert_close(shared.model.get_parameter(name), weight, rtol=1e-3, atol=1e-4)
    tokens = [r.state.log_history[0]["num_tokens"] for r in (shared, padded)]
    assert tokens[0] < tokens[1]


@pytest.mark.parametrize("share", [True, False])
def test_parts_of_a_batch_are_the_whole_batch(
    trainer: Build, steps: Steps, quadruples: Dataset, share: bool
) -> None:
    """In whatever parts a batch goes through the model, the step is the same."""
    common = {"share_prompt": share, "per_device_train_batch_size": 6, "alpha": 0.5}
    common |= {"eval_dataset": quadruples, "per_device_eval_batch_size": 6}
    whole, parts = trainer(**common), trainer(**common, micro_batch_tokens=60)
    batch = parts.data_collator(list(parts.train_dataset.select(range(6))))
    assert len(batch["parts"]) > 2
    assert sum(part["share"] for part in batch["parts"]) == pytest.approx(1)
    whole.train()
    parts.train()
    for key in ("loss", "grad_norm", "rewards/margins", "rewards/accuracies", "alpha"):
        assert steps(parts, key) == pytest.approx(steps(whole, key), rel=1e-4, abs=1e-5), key
    assert abs(steps(whole)[0] - steps(whole)[-1]) > 1e-3, "nothing was learned"
    assert steps(parts, "num_tokens") == steps(whole, "num_tokens")
    assert parts.evaluate()["eval_loss"] == pytest.approx(whole.evaluate()["eval_loss"], rel=1e-4)


def test_compilation_and_sharing_exclude_each_other(trainer: Build) -> None:
    with pytest.raises(WRPOError, match="prompts cannot be shared: torch_compile would compile"):
        trainer(torch_compile=True, share_prompt=True)


def test_bf16_stays_near_full_precision(trainer: Build, steps: Steps) -> None:
    half, whole = (trainer(share_prompt=True, bf16=bf16, alpha=0.5) for bf16 in (True, False))
    half.train()
    whole.train()
    assert steps(half)[0] == pytest.approx(0.6931472, abs=1e-6)
    assert steps(half) == pytest.approx(steps(whole), rel=0.1)
    assert steps(half)[1:] != steps(whole)[1:]


def test_responses_of_weight_zero_are_not_computed(trainer: Build, quadruples: Dataset) -> None:
    """DPO-on then needs no source response, not even in the data."""
    pairs = quadruples.remove_columns("source_chosen")
    run = trainer(train_dataset=pairs, alpha=0.0, score_unused=False)
    run.train()
    assert run.responses == ("target_chosen", "rejected")
    log = run.state.log_history[0]
    assert "rewards/source_chosen" not in log
    assert log["rewards/fused"] == log["rewards/target_chosen"]
    with_sources = trainer(alpha=0.0)
    with_sources.train()
    for mine, theirs in zip(run.state.log_history, with_sources.state.log_history, strict=True):
        if "loss" in mine:
            assert mine["loss"] == pytest.approx(theirs["loss"], rel=1e-5)
    hybrid = trainer(alpha=1.0, alpha_schedule="constant", score_unused=False)
    assert hybrid.responses == ("source_chosen", "rejected")
    assert trainer(alpha=1.0, score_unused=False).responses[1] == "target_chosen"  # linear: needed


# --- a dispreferred source response (Table 10) --------------------------------------------------


def test_a_dispreferred_source_response_joins_the_rejected_side(
    trainer: Build, steps: Steps, quadruples: Dataset
) -> None:
    wide = quadruples.map(
        lambda row: {"source_rejected": "the answer is " + row["rejected"].split(" : ")[1]}
    )
    common = {"train_dataset": wide, "alpha": 0.4, "alpha_schedule": "constant"}
    shared = trainer(**common, alpha_rejected=0.3)
    padded = trainer(**common, alpha_rejected=0.3, share_prompt=False)
    without = trainer(**common)
    for run in (shared, padded, without):
        run.train()
    assert steps(shared) == pytest.approx(steps(padded), rel=1e-4)
    assert steps(shared)[1:] != pytest.approx(steps(without)[1:], rel=1e-4)
    assert "logps/source_rejected" in shared.state.log_history[0]
    with pytest.raises(WRPOError, match="lack the column 'source_rejected'"):
        trainer(alpha_rejected=0.2)
    with pytest.raises(WRPOError, match="alpha_rejected belongs to the dpo form"):
        trainer(train_dataset=wide, alpha_rejected=0.2, objective="ipo")


# --- falling back -------------------------------------------------------------------------------


def windowed(model: LlamaForCausalLM) -> MistralForCausalLM:
    torch.manual_seed(0)
    config = MistralConfig(**{**model.config.to_dict(), "sliding_window": 16, "dtype": None})
    return MistralForCausalLM(config)


def test_a_model_that_cannot_falls_back_with_one_line(
    trainer: Build, model: LlamaForCausalLM, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        run = trainer(model=windowed(model), max_steps=1)
    said = [r.message for r in caplog.records if "prompts are not shared" in r.message]
    assert len(said) == 1
    assert "its attention window is 16 tokens, below max_length" in said[0]
    assert not run.data_collator.share_prompt
    run.train()
    with pytest.raises(WRPOError, match="prompts cannot be shared: its attention window is 16"):
        trainer(model=windowed(model), share_prompt=True)
    prompted = PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2)
    with pytest.raises(WRPOError, match="the adapter puts tokens of its own before the prompt"):
        trainer(peft_config=prompted, share_prompt=True)
