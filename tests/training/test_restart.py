"""A killed run goes on exactly where it was; a reference is found again where nothing changed."""

import copy
import json
from typing import Any

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import TrainerCallback

from wrpo_lib.training import WRPOTrainer


class Kill(TrainerCallback):
    """Die after ``step``, later than the last checkpoint, as a crash would."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self.step:
            raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("lora", "precompute", "share", "kill"), [(False, True, True, 3), (True, False, False, 4)]
)
def test_resume_gives_the_identical_trajectory(trainer, tmp_path, lora, precompute, share, kill):
    same = {"precompute_ref_log_probs": precompute, "share_prompt": share, "alpha": 0.5}
    same |= {"gradient_accumulation_steps": 2, "max_steps": 6}
    same |= {"save_strategy": "steps", "save_steps": 2}

    def build(name: str, **kwargs: Any) -> WRPOTrainer:
        peft = LoraConfig(r=4, lora_alpha=16, target_modules=["q_proj", "v_proj"])
        files = {"output_dir": str(tmp_path / name), "dynamics_file": tmp_path / f"{name}.jsonl"}
        return trainer(**files, **same, peft_config=peft if lora else None, **kwargs)

    def lines(name: str) -> list[dict[str, float]]:
        return [json.loads(line) for line in (tmp_path / f"{name}.jsonl").read_text().splitlines()]

    whole = build("whole")
    whole.train()
    with pytest.raises(KeyboardInterrupt):
        build("killed", callbacks=[Kill(kill)]).train()
    assert [row["step"] for row in lines("killed")] == list(range(1, kill))
    with (tmp_path / "killed.jsonl").open("a") as file:
        file.write('{"step": 5, "lo')  # a line that the kill cut short
    resumed = build("killed")
    resumed.train(resume_from_checkpoint=True)

    assert lines("killed") == lines("whole")
    for name, weight in whole.model.named_parameters():
        assert weight.equal(resumed.model.get_parameter(name)), name


@pytest.fixture
def forwards(monkeypatch):
    """Rows of each batch that a reference was computed for."""
    seen: list[int] = []
    ordinary = WRPOTrainer.compute_ref_log_probs

    def counted(self: WRPOTrainer, model: Any, inputs: dict[str, Any]) -> Any:
        seen.append(len(inputs["lengths"]))
        return ordinary(self, model, inputs)

    monkeypatch.setattr(WRPOTrainer, "compute_ref_log_probs", counted)
    return seen


def test_a_reference_is_computed_once_until_what_it_depends_on_changes(
    trainer, steps, forwards, tmp_path, model, quadruples, tokenizer
):
    cache = {"ref_cache_dir": str(tmp_path / "cache")}
    first = trainer(alpha=0.5, **cache)
    first.train()
    assert sum(forwards) == 12, "the reference ran during training"
    for change in ({"alpha": 0.1}, {"beta": 0.1}, {"objective": "ipo"}, {"learning_rate": 1e-4}):
        trainer(**{"alpha": 0.5, **change}, **cache)
    again = trainer(alpha=0.5, **cache)
    assert sum(forwards) == 12, "it ran again though nothing changed"
    again.train()
    assert steps(again) == steps(first)

    other_template = copy.deepcopy(tokenizer)
    other_template.chat_template = tokenizer.chat_template.replace("{{ m.c", ": {{ m.c")
    rows = quadruples.to_list()
    rows[5]["rejected"] = "a b"
    moved = copy.deepcopy(model)
    with torch.no_grad():
        moved.lm_head.weight[3, 3] += 1e-3
    for change in (
        {"model": moved},
        {"bf16": True},
        {"processing_class": other_template},
        {"max_length": 17, "max_prompt_length": 10},
        {"train_dataset": Dataset.from_list(rows)},
        {"alpha": 0.0, "score_unused": False},
    ):
        forwards.clear()
        trainer(**change, **cache)
        assert sum(forwards) == 12, change
