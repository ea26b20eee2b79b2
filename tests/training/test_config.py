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
        ("objective", "hinge"),
        ("alpha_schedule", "decay"),
        ("share_prompt", "maybe"),
        ("share_prompt_backend", "eager"),
        *((name, "other") for name in UNSUPPORTED),
    ],
)
def test_values_without_meaning_are_refused(
    config: Callable[..., WRPOConfig], field: str, value: Any
) -> None:
    with pytest.raises(WRPOError, match=field) as error:
        config(**{field: value})
    assert "\n" not in str(error.value)
