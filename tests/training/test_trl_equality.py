"""With alpha fixed at an end, WRPO is DPO on pairs: TRL's own trainer must give the same losses."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
from datasets import Dataset
from peft import LoraConfig
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast
from trl import DPOConfig, DPOTrainer

from wrpo_lib.training.trainer import WRPOTrainer


def lora() -> LoraConfig:
    return LoraConfig(r=4, lora_alpha=16, target_modules=["q_proj", "v_proj", "down_proj"])


def pairs(quadruples: Dataset, chosen: str) -> Dataset:
    def sides(row: dict[str, Any]) -> dict[str, Any]:
        texts = {"chosen": row[chosen], "rejected": row["rejected"]}
        return {name: [{"role": "assistant", "content": text}] for name, text in texts.items()}

    return quadruples.map(sides, remove_columns=quadruples.column_names[2:])


@pytest.mark.parametrize("accumulation", [1, 2])
@pytest.mark.parametrize("tuning", ["full", "lora"])
@pytest.mark.parametrize(
    ("alpha", "chosen"), [(0.0, "target_chosen"), (1.0, "source_chosen")], ids=["on", "hybrid"]
)
def test_losses_equal_those_of_trl(
    trainer: Callable[..., WRPOTrainer],
    steps: Callable[..., list[float]],
    settings: dict[str, Any],
    model: LlamaForCausalLM,
    quadruples: Dataset,
    tokenizer: PreTrainedTokenizerFast,
    alpha: float,
    chosen: str,
    tuning: str,
    accumulation: int,
) -> None:
    """Data shuffled by the same seed, batches of 2 of 10 rows, so accumulation ends unevenly."""
    data = quadruples.select(range(10))
    shared = {"beta": 0.5, "gradient_accumulation_steps": accumulation, "max_steps": 6}
    shared |= {"lr_scheduler_type": "cosine"}
    peft = lora() if tuning == "lora" else None
    constant = {"alpha": alpha, "alpha_schedule": "constant"}
    ours = trainer(train_dataset=data, peft_config=peft, **constant, **shared)
    theirs = DPOTrainer(
        model=copy.deepcopy(model),
        ref_model=None if peft else copy.deepcopy(model),
        args=DPOConfig(**{**settings, **shared}),
        train_dataset=pairs(data, chosen),
        processing_class=tokenizer,
        peft_config=lora() if peft else None,
    )
    for mine, their in zip(ours.train_dataset, theirs.train_dataset, strict=True):
        assert mine["prompt_ids"] == their["prompt_ids"]
        assert mine[f"{chosen}_ids"] == their["chosen_ids"]
        assert mine["rejected_ids"] == their["rejected_ids"]
    ours.train()
    theirs.train()
    losses = steps(ours)
    assert losses == pytest.approx(steps(theirs), rel=1e-5)
    assert steps(ours, "grad_norm") == pytest.approx(steps(theirs, "grad_norm"), rel=1e-4)
    assert losses[0] - losses[-1] > 0.05, "nothing was learned, so nothing was compared"
    for key in (f"rewards/{chosen}", "rewards/rejected", "rewards/margins"):
        their_key = key.replace(chosen, "chosen")
        assert steps(ours, key) == pytest.approx(steps(theirs, their_key), rel=1e-4, abs=1e-5)
