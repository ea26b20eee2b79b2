"""Log-probabilities; the reference pass, found again exactly where nothing changed."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from wrpo_lib.training.trainer import WRPOTrainer

Build = Callable[..., WRPOTrainer]
Steps = Callable[..., list[float]]


@pytest.fixture
def forwards(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Rows of each batch that a reference was computed for."""
    seen: list[int] = []
    ordinary = WRPOTrainer.compute_ref_log_probs

    def counted(self: WRPOTrainer, model: Any, inputs: dict[str, Any]) -> Any:
        seen.append(len(inputs["lengths"]))
        return ordinary(self, model, inputs)

    monkeypatch.setattr(WRPOTrainer, "compute_ref_log_probs", counted)
    return seen


def test_runs_that_share_data_and_reference_compute_it_once(
    trainer: Build, steps: Steps, forwards: list[int], tmp_path: Path
) -> None:
    cache = {"ref_cache_dir": str(tmp_path / "cache")}
    first = trainer(alpha=0.5, **cache)
    assert sum(forwards) == 12
    first.train()
    assert sum(forwards) == 12, "the reference ran during training"
    assert first.ref_model is None
    forwards.clear()
    for change in ({"alpha": 0.1}, {"beta": 0.1}, {"objective": "ipo"}, {"learning_rate": 1e-4}):
        trainer(**{"alpha": 0.5, **change}, **cache)
    again = trainer(alpha=0.5, **cache)
    assert forwards == []
    again.train()
    assert steps(again) == steps(first)


def test_whatever_a_value_depends_on_makes_it_computed_again(
    trainer: Build,
    forwards: list[int],
    tmp_path: Path,
    model: LlamaForCausalLM,
    quadruples: Dataset,
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    cache = {"ref_cache_dir": str(tmp_path / "cache")}
    trainer(**cache)
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
