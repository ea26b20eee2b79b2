"""Defaults are the paper's, and no option is silently ignored."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from wrpo_lib.errors import WRPOError
from wrpo_lib.training.config import UNSUPPORTED, WRPOConfig


def test_defaults_are_those_of_table_6(shared: Path, tmp_path: Path) -> None:
    table = pd.read_csv(shared / "paper" / "table06_hyperparameters.csv").set_index("method")
    args = WRPOConfig(str(tmp_path), bf16=False, use_cpu=True)
    row = table.loc["WRPO_DPO"]
    assert (args.beta, args.alpha, args.learning_rate) == (row.beta, row.alpha, row.learning_rate)
    assert args.tau == table.loc["WRPO_IPO"].tau
    assert args.gamma == table.loc["WRPO_SimPO"].gamma


def test_the_other_defaults_of_section_4_1(tmp_path: Path) -> None:
    args = WRPOConfig(str(tmp_path), bf16=False, use_cpu=True)
    assert (args.max_length, args.max_prompt_length) == (2048, 1800)
    assert (args.lr_scheduler_type, args.num_train_epochs, args.seed) == ("cosine", 1, 42)
    assert args.get_warmup_steps(311) == 32  # a share of 0.1, rounded up
    assert args.alpha_schedule == "linear"
    assert args.activation_checkpointing
    assert not args.push_to_hub


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("alpha", -0.1),
        ("alpha", 1.1),
        ("alpha", math.nan),
        ("beta", 0.0),
        ("beta", -1.0),
        ("beta", math.nan),
        ("tau", 0.0),
        ("tau", math.inf),
        ("gamma", -0.5),
        ("objective", "hinge"),
        ("alpha_schedule", "decay"),
        ("max_length", 0),
        ("max_prompt_length", 64),
        ("train_sampling_strategy", "group_by_length"),
    ],
)
def test_values_without_meaning_are_refused(
    config: Callable[..., WRPOConfig], field: str, value: Any
) -> None:
    with pytest.raises(WRPOError, match=field) as error:
        config(**{field: value})
    assert "\n" not in str(error.value)


OTHER = {
    "loss_type": "ipo",
    "loss_weights": [1.0],
    "ld_alpha": 0.5,
    "f_divergence_type": "js_divergence",
    "label_smoothing": 0.1,
    "use_weighting": True,
    "padding_free": True,
    "sync_ref_model": True,
    "truncation_mode": "keep_end",
    "pad_token": "<end>",
}


@pytest.mark.parametrize("field", UNSUPPORTED)
def test_options_of_the_parent_that_wrpo_lacks_are_refused(
    config: Callable[..., WRPOConfig], field: str
) -> None:
    with pytest.raises(WRPOError, match=f"{field}=.*no meaning for WRPO"):
        config(**{field: OTHER[field]})


def test_no_length_limit_is_allowed(config: Callable[..., WRPOConfig]) -> None:
    assert config(max_length=None, max_prompt_length=None).max_length is None
    assert config(loss_type="sigmoid").loss_type == ["sigmoid"]
