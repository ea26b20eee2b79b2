"""A run that is killed and resumed goes on exactly where it was."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from peft import LoraConfig
from transformers import TrainerCallback

from wrpo_lib.training.trainer import WRPOTrainer


class Kill(TrainerCallback):
    """Die after ``step``, later than the last checkpoint, as a crash would."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self.step:
            raise KeyboardInterrupt

    def on_log(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self.step:
            raise AssertionError("the killed step must not be logged")


def lines(path: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize(
    ("tuning", "precompute", "share", "kill"),
    [
        ("full", True, True, 3),
        ("full", True, True, 4),
        ("full", True, True, 5),
        ("full", True, False, 4),
        ("full", False, True, 4),
        ("lora", True, True, 4),
        ("lora", False, True, 5),
        ("lora", True, False, 4),
    ],
)
def test_resume_gives_the_identical_trajectory(
    trainer: Callable[..., WRPOTrainer],
    tmp_path: Path,
    tuning: str,
    precompute: bool,
    share: bool,
    kill: int,
) -> None:
    peft = (
        LoraConfig(r=4, lora_alpha=16, target_modules=["q_proj", "v_proj"])
        if tuning == "lora"
        else None
    )

    def build(name: str, **kwargs: Any) -> WRPOTrainer:
        return trainer(
            output_dir=str(tmp_path / name),
            dynamics_file=tmp_path / f"{name}.jsonl",
            peft_config=peft,
            precompute_ref_log_probs=precompute,
            share_prompt=share,
            gradient_accumulation_steps=2,
            max_steps=6,
            save_strategy="steps",
            save_steps=2,
            alpha=0.5,
            **kwargs,
        )

    whole = build("whole")
    whole.train()
    with pytest.raises(KeyboardInterrupt):
        build("killed", callbacks=[Kill(kill)]).train()
    assert [row["step"] for row in lines(tmp_path / "killed.jsonl")] == list(range(1, kill))
    resumed = build("killed")
    resumed.train(resume_from_checkpoint=True)

    expected, found = lines(tmp_path / "whole.jsonl"), lines(tmp_path / "killed.jsonl")
    assert [row["step"] for row in found] == [1, 2, 3, 4, 5, 6]
    for row in expected + found:
        assert row.pop("seconds") > 0
    assert found == expected
    assert [row["alpha"] for row in found] == pytest.approx([0.5 * t / 6 for t in range(6)])
    for name, weight in whole.model.named_parameters():
        assert weight.equal(resumed.model.get_parameter(name)), name


def test_seconds_and_tokens_go_on_after_a_resume(
    trainer: Callable[..., WRPOTrainer], tmp_path: Path
) -> None:
    file = tmp_path / "dynamics.jsonl"
    kwargs = {"dynamics_file": file, "save_strategy": "steps", "save_steps": 2}
    trainer(**kwargs).train()
    before = lines(file)
    before[1]["seconds"] = 1000.0
    file.write_text("".join(json.dumps(row) + "\n" for row in before) + '{"step": 5, "lo')
    trainer(**kwargs).train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-2"))
    after = lines(file)
    assert [row["step"] for row in after] == [1, 2, 3, 4]
    assert after[2]["seconds"] > 1000.0
    assert [row["tokens"] for row in after] == [row["tokens"] for row in before]
    assert after[0]["tokens"] > 0
