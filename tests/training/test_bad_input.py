"""Defaults are the paper's; what cannot go well is one sentence, where it can be known before."""

import copy
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from datasets import Dataset
from transformers import PreTrainedTokenizerFast, TrainerCallback

from wrpo_lib.chat import Renderer
from wrpo_lib.errors import WRPOError
from wrpo_lib.quadruples.schema import RESPONSES
from wrpo_lib.training.config import UNSUPPORTED, WRPOConfig
from wrpo_lib.training.trainer import WRPOTrainer

Build = Callable[..., WRPOTrainer]


def test_defaults_are_those_of_table_6_and_section_4_1(shared: Path, tmp_path: Path) -> None:
    table = pd.read_csv(shared / "paper" / "table06_hyperparameters.csv").set_index("method")
    args = WRPOConfig(str(tmp_path), bf16=False, use_cpu=True)
    row = table.loc["WRPO_DPO"]
    assert (args.beta, args.alpha, args.learning_rate) == (row.beta, row.alpha, row.learning_rate)
    assert args.tau == table.loc["WRPO_IPO"].tau
    assert args.gamma == table.loc["WRPO_SimPO"].gamma
    assert (args.max_length, args.max_prompt_length) == (2048, 1800)
    assert (args.lr_scheduler_type, args.num_train_epochs, args.seed) == ("cosine", 1, 42)
    assert args.get_warmup_steps(311) == 32  # a share of 0.1, rounded up
    assert args.alpha_schedule == "linear"
    assert args.activation_checkpointing
    assert not args.push_to_hub


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(("alpha", value) for value in (-0.1, 1.1, math.nan)),
        *((name, "other") for name in ("objective", "alpha_schedule", "share_prompt")),
        *((name, "other") for name in ("share_prompt_backend", *UNSUPPORTED)),
    ],
)
def test_values_without_meaning_are_refused(field: str, value: Any) -> None:
    with pytest.raises(WRPOError, match=field) as error:
        WRPOConfig(bf16=False, use_cpu=True, **{field: value})
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("column", ["prompt", *RESPONSES])
def test_a_missing_column_or_an_empty_response_is_named(
    trainer: Build, quadruples: Dataset, column: str
) -> None:
    for name in ("train", "eval"):
        with pytest.raises(WRPOError, match=f"the {name} data lack the column '{column}'"):
            trainer(**{f"{name}_dataset": quadruples.remove_columns(column)})
    rows = quadruples.to_list()
    for text in ("", "  \n", None) if column in RESPONSES else ():
        rows[4][column] = text
        with pytest.raises(WRPOError, match=f"the train data, row 5: field '{column}'"):
            trainer(train_dataset=Dataset.from_list(rows))


class Poison(TrainerCallback):
    """Make the weights NaN after step 2, as a diverged run does."""

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == 2:
            with torch.no_grad():
                kwargs["model"].lm_head.weight[5] = float("nan")


@pytest.mark.parametrize("share", [True, False])
def test_a_loss_that_is_not_finite_stops_the_run(
    trainer: Build, tmp_path: Path, share: bool
) -> None:
    saving = {"save_strategy": "steps", "save_steps": 1, "train_sampling_strategy": "sequential"}
    run = trainer(callbacks=[Poison()], share_prompt=share, **saving)
    with pytest.raises(WRPOError, match="is not finite in step 3, for the prompts p4, p5;"):
        run.train()
    assert (tmp_path / "run" / "checkpoint-2" / "model.safetensors").is_file()


def test_what_is_cut_is_counted_and_nothing_left_is_refused(trainer: Build) -> None:
    with pytest.raises(WRPOError, match="every response of the train data is longer than max_leng"):
        trainer(max_length=8, max_prompt_length=6)
    with pytest.raises(WRPOError, match=r"the train data, row 1: a prompt of 7 tokens leaves no"):
        trainer(max_length=7, max_prompt_length=None)
    found = trainer(max_length=14, max_prompt_length=8).truncation["train"]
    assert 0 < found["rejected"] < 12
    assert found["prompt"] > 0


def test_a_folded_system_turn_and_a_text_prompt_are_trained_as_they_are_sampled(
    trainer: Build, tokenizer: PreTrainedTokenizerFast, quadruples: Dataset
) -> None:
    """The first template writes system turns, the second drops them: it gets them folded."""
    dropping = copy.deepcopy(tokenizer)
    template = str(tokenizer.chat_template)
    dropping.chat_template = template.replace("messages %}", "messages if m.role != 'system' %}")
    rows = quadruples.to_list()
    text = Dataset.from_list([{**row, "prompt": row["prompt"][0]["content"]} for row in rows])
    for row in rows[:3]:
        row["prompt"].insert(0, {"role": "system", "content": "sort"})
    for made, folded in ((tokenizer, 0), (dropping, 3)):
        run = trainer(train_dataset=Dataset.from_list(rows), processing_class=made)
        sampled = Renderer(made)
        assert run.train_dataset["prompt_ids"][:] == [sampled.ids(row["prompt"]) for row in rows]
        assert run.truncation["train"]["folded"] == sampled.folded == folded
    plain, messages = trainer(train_dataset=text), trainer()
    assert plain.train_dataset["prompt_ids"][:] == messages.train_dataset["prompt_ids"][:]
