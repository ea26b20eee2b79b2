"""What cannot go well is said in one sentence, before training starts where it can be known."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from transformers import TrainerCallback

from wrpo_lib.errors import WRPOError
from wrpo_lib.training.trainer import WRPOTrainer

Build = Callable[..., WRPOTrainer]


class Poison(TrainerCallback):
    """Make the weights NaN after ``step``, as a diverged run does."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self.step:
            with torch.no_grad():
                kwargs["model"].lm_head.weight[5] = float("nan")


@pytest.mark.parametrize("share", [True, False])
def test_a_loss_that_is_not_finite_stops_the_run(
    trainer: Build, tmp_path: Path, share: bool
) -> None:
    run = trainer(
        callbacks=[Poison(2)],
        save_strategy="steps",
        save_steps=1,
        share_prompt=share,
        train_sampling_strategy="sequential",
    )
    with pytest.raises(WRPOError) as caught:
        run.train()
    message = str(caught.value)
    assert "the loss is not finite in step 3, for the prompts p4, p5;" in message
    assert (tmp_path / "run" / "checkpoint-2" / "model.safetensors").is_file()


def test_data_that_are_all_truncated_are_refused(trainer: Build, quadruples: Dataset) -> None:
    with pytest.raises(WRPOError, match="every response of the train data is longer than max_leng"):
        trainer(max_length=8, max_prompt_length=6)
    run = trainer(max_length=14, max_prompt_length=8)
    assert 0 < run.truncation["train"]["rejected"] < 12


def test_a_prompt_beyond_the_limit_is_named_or_counted(trainer: Build) -> None:
    with pytest.raises(WRPOError, match=r"the train data, row 1: a prompt of 7 tokens leaves no"):
        trainer(max_length=7, max_prompt_length=None)
    run = trainer(max_length=14, max_prompt_length=8)
    assert run.truncation["train"]["prompt"] > 0
