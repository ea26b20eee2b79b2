"""A run that is killed and resumed goes on exactly where it was."""

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


def lines(path: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize(
    ("lora", "precompute", "share", "kill"),
    [
        (False, True, True, 3),
        (False, True, False, 4),
        (True, True, True, 4),
        (True, False, False, 5),
    ],
)
def test_resume_gives_the_identical_trajectory(
    trainer: Callable[..., WRPOTrainer],
    tmp_path: Path,
    lora: bool,
    precompute: bool,
    share: bool,
    kill: int,
) -> None:
    same = {"precompute_ref_log_probs": precompute, "share_prompt": share, "alpha": 0.5}
    same |= {"gradient_accumulation_steps": 2, "max_steps": 6}
    same |= {"save_strategy": "steps", "save_steps": 2}

    def build(name: str, **kwargs: Any) -> WRPOTrainer:
        peft = LoraConfig(r=4, lora_alpha=16, target_modules=["q_proj", "v_proj"])
        files = {"output_dir": str(tmp_path / name), "dynamics_file": tmp_path / f"{name}.jsonl"}
        return trainer(**files, **same, peft_config=peft if lora else None, **kwargs)

    whole = build("whole")
    whole.train()
    with pytest.raises(KeyboardInterrupt):
        build("killed", callbacks=[Kill(kill)]).train()
    killed = tmp_path / "killed.jsonl"
    before = lines(killed)
    assert [row["step"] for row in before] == list(range(1, kill))
    # and a line that the kill cut short
    killed.write_text("".join(json.dumps(row) + "\n" for row in before) + '{"step": 5, "lo')
    resumed = build("killed")
    resumed.train(resume_from_checkpoint=True)

    expected, found = lines(tmp_path / "whole.jsonl"), lines(killed)
    assert [row["step"] for row in found] == [1, 2, 3, 4, 5, 6]
    assert found == expected
    assert [row["alpha"] for row in found] == pytest.approx([0.5 * t / 6 for t in range(6)])
    for name, weight in whole.model.named_parameters():
        assert weight.equal(resumed.model.get_parameter(name)), name
