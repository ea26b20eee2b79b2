"""Whole runs with shared prompts are the runs without, whatever is around them."""

import logging
from typing import Any

import pytest
import torch
from peft import LoraConfig, PromptTuningConfig
from transformers import MistralConfig, MistralForCausalLM

from wrpo_lib.errors import WRPOError

KEYS = ("loss", "grad_norm", "rewards/margins", "rewards/fused", "logps/rejected", "alpha")


@pytest.fixture
def wide(quadruples):
    """The same rows with a dispreferred source response (Table 10)."""
    return quadruples.map(
        lambda row: {"source_rejected": "the answer is " + row["rejected"].split(" : ")[1]}
    )


def assert_same(steps: Any, ours: Any, theirs: Any) -> None:
    """Train both; every step, the weights and the evaluation agree."""
    ours.train()
    theirs.train()
    for key in KEYS:
        assert steps(ours, key) == pytest.approx(steps(theirs, key), rel=1e-4, abs=1e-5), key
    assert abs(steps(ours)[0] - steps(ours)[-1]) > 1e-3, "nothing was learned"
    assert ours.evaluate()["eval_loss"] == pytest.approx(theirs.evaluate()["eval_loss"], rel=1e-4)
    for name, weight in theirs.model.named_parameters():
        torch.testing.assert_close(ours.model.get_parameter(name), weight, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    "setting",
    [
        {"objective": "ipo", "tau": 0.2},
        {"objective": "simpo", "beta": 2.0, "gamma": 0.3},
        {"alpha": 1.0, "alpha_schedule": "constant", "score_unused": False},
        {"lora": True, "activation_checkpointing": True},
        {"activation_checkpointing": True, "gradient_accumulation_steps": 3},
        {"lora": True, "precompute_ref_log_probs": False},
        {"alpha": 0.4, "alpha_schedule": "constant", "alpha_rejected": 0.3},
    ],
    ids=str,
)
def test_losses_and_gradients_are_those_of_padded_rows(trainer, steps, wide, setting):
    setting = {"alpha": 0.5, **setting}
    lora = LoraConfig(r=4, target_modules=["q_proj", "down_proj"])
    setting |= {"peft_config": lora if setting.pop("lora", False) else None}
    setting |= {"train_dataset": wide, "eval_dataset": wide.select([3, 5])}
    shared, padded = (trainer(**setting, share_prompt=share) for share in (True, False))
    assert (shared.shares_prompts, padded.shares_prompts) == (True, False)
    assert_same(steps, shared, padded)
    assert steps(shared, "num_tokens")[0] < steps(padded, "num_tokens")[0]


@pytest.mark.parametrize("share", [True, False])
def test_parts_of_a_batch_are_the_whole_batch(trainer, steps, quadruples, share):
    """In whatever parts a batch goes through the model, the step is the same."""
    common = {"share_prompt": share, "per_device_train_batch_size": 6, "alpha": 0.5}
    common |= {"eval_dataset": quadruples, "per_device_eval_batch_size": 6}
    whole, parts = trainer(**common), trainer(**common, micro_batch_tokens=60)
    batch = parts.data_collator(list(parts.train_dataset.select(range(6))))
    assert len(batch["parts"]) > 2
    assert sum(part["share"] for part in batch["parts"]) == pytest.approx(1)
    assert_same(steps, parts, whole)
    assert steps(parts, "num_tokens") == steps(whole, "num_tokens")


def test_bf16_stays_near_full_precision(trainer, steps):
    half, whole = (trainer(share_prompt=True, bf16=bf16, alpha=0.5) for bf16 in (True, False))
    half.train()
    whole.train()
    assert steps(half)[0] == pytest.approx(0.6931472, abs=1e-6)
    assert steps(half) == pytest.approx(steps(whole), rel=0.1)
    assert steps(half)[1:] != steps(whole)[1:]


def test_responses_of_weight_zero_are_not_computed(trainer, steps, quadruples):
    """DPO-on then needs no source response, not even in the data."""
    pairs = quadruples.remove_columns("source_chosen")
    run = trainer(train_dataset=pairs, alpha=0.0, score_unused=False)
    with_sources = trainer(alpha=0.0)
    run.train()
    with_sources.train()
    assert run.responses == ("target_chosen", "rejected")
    assert "rewards/source_chosen" not in run.state.log_history[0]
    assert steps(run, "rewards/fused") == steps(run, "rewards/target_chosen")
    assert steps(run) == pytest.approx(steps(with_sources), rel=1e-5)
    assert trainer(alpha=1.0, score_unused=False).responses[1] == "target_chosen"  # linear: needed


def test_a_dispreferred_source_response_needs_its_column_and_form(trainer, wide):
    with pytest.raises(WRPOError, match="lack the column 'source_rejected'"):
        trainer(alpha_rejected=0.2)
    with pytest.raises(WRPOError, match="alpha_rejected belongs to the dpo form"):
        trainer(train_dataset=wide, alpha_rejected=0.2, objective="ipo")


def test_a_model_that_cannot_share_falls_back_with_one_line(trainer, model, caplog):
    torch.manual_seed(0)
    config = MistralConfig(**{**model.config.to_dict(), "sliding_window": 16, "dtype": None})
    windowed = MistralForCausalLM(config)
    with caplog.at_level(logging.WARNING):
        run = trainer(model=windowed, max_steps=1)
    (said,) = [r.message for r in caplog.records if "prompts are not shared" in r.message]
    assert "its attention window is 16 tokens, below max_length" in said
    assert not run.data_collator.share_prompt
    run.train()
    prompted = PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2)
    for what, why in (
        ({"model": windowed}, "its attention window is 16"),
        ({"peft_config": prompted}, "the adapter puts tokens of its own before the prompt"),
        ({"torch_compile": True}, "torch_compile would compile"),
    ):
        with pytest.raises(WRPOError, match=f"prompts cannot be shared: {why}"):
            trainer(**what, share_prompt=True)
