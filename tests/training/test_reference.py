"""The reference is computed once, kept under what it depends on, and never taken for another."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from wrpo_lib.errors import WRPOError
from wrpo_lib.training.reference import HEADER, model_hash, text_key
from wrpo_lib.training.trainer import WRPOTrainer

Build = Callable[..., WRPOTrainer]
Steps = Callable[..., list[float]]


def lora() -> LoraConfig:
    return LoraConfig(r=4, target_modules=["q_proj", "v_proj"])


def moved(model: LlamaForCausalLM) -> LlamaForCausalLM:
    other = copy.deepcopy(model)
    with torch.no_grad():
        other.lm_head.weight[3, 3] += 1e-3
    return other


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


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_runs_that_share_a_reference_compute_it_once(
    trainer: Build, steps: Steps, forwards: list[int], tmp_path: Path
) -> None:
    cache = {"ref_cache_dir": str(tmp_path / "cache")}
    first = trainer(alpha=0.5, **cache)
    assert sum(forwards) == 12
    first.train()
    assert sum(forwards) == 12, "the reference ran during training"
    assert first.ref_model is None
    forwards.clear()
    for change in ({"alpha": 0.1}, {"beta": 0.1}, {"objective": "ipo"}, {"learning_rate": 1e-4},
                   {"alpha": 0.0, "score_unused": False}, {"peft_config": lora()}):  # fmt: skip
        trainer(**{"alpha": 0.5, **change}, **cache)
    assert forwards == []
    again = trainer(alpha=0.5, **cache)
    again.train()
    assert steps(again) == steps(first)
    assert len(list((tmp_path / "cache").glob("*.jsonl"))) == 1


def test_whatever_a_value_depends_on_changes_its_place(
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
    one_text = quadruples.map(
        lambda row, i: {"rejected": "a b" if i == 5 else row["rejected"]}, with_indices=True
    )
    for change, rows in [
        ({"model": moved(model)}, 12),
        ({"bf16": True}, 12),
        ({"share_prompt": False}, 12),
        ({"ref_model": moved(model)}, 0),  # the first change's model: known by its weights
        ({"processing_class": other_template}, 12),
        ({"max_length": 17, "max_prompt_length": 10}, None),
        ({"train_dataset": one_text}, 2),  # the batch that holds the changed row
    ]:
        forwards.clear()
        trainer(**change, **cache)
        assert sum(forwards) == rows if rows is not None else sum(forwards) > 0, change


def test_a_killed_pass_goes_on_where_it_was(
    trainer: Build, steps: Steps, forwards: list[int], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    undisturbed = trainer(alpha=0.5, ref_cache_dir=str(tmp_path / "whole"))
    cache = {"alpha": 0.5, "ref_cache_dir": str(tmp_path / "killed")}
    ordinary = WRPOTrainer.compute_ref_log_probs
    batches: list[int] = []

    def killed(self: WRPOTrainer, *args: Any) -> Any:
        batches.append(1)
        if len(batches) == 4:
            raise KeyboardInterrupt
        return ordinary(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(WRPOTrainer, "compute_ref_log_probs", killed)
        with pytest.raises(KeyboardInterrupt):
            trainer(**cache)
    (file,) = (tmp_path / "killed").glob("*.jsonl")
    kept = lines(file)
    assert len(kept) == 1 + 3 * 2 * 3  # header; batches, rows, responses
    with file.open("ab") as half:  # and the line that the kill cut short
        half.write(b'{"key": "0123')
    forwards.clear()
    resumed = trainer(**cache)
    assert forwards == [2, 2, 2]
    assert lines(file)[: len(kept)] == kept
    resumed.train()
    undisturbed.train()
    assert steps(resumed) == steps(undisturbed)


def test_a_file_of_another_model_is_refused(
    trainer: Build, model: LlamaForCausalLM, tmp_path: Path
) -> None:
    file = tmp_path / "reference.jsonl"
    trainer(ref_cache_dir=str(file))
    trainer(ref_cache_dir=str(file))
    before = file.read_bytes()
    with pytest.raises(WRPOError, match=r"reference\.jsonl holds .* another reference \(its model"):
        trainer(model=moved(model), ref_cache_dir=str(file))
    with pytest.raises(WRPOError, match="its precision differs"):
        trainer(bf16=True, ref_cache_dir=str(file))
    assert file.read_bytes() == before
    rows = lines(file)
    file.write_text("".join(json.dumps(row) + "\n" for row in rows[1:]))
    with pytest.raises(WRPOError, match="holds no reference log-probabilities"):
        trainer(ref_cache_dir=str(file))
    (tmp_path / "taken").write_text("")
    with pytest.raises(WRPOError, match="choose another ref_cache_dir"):
        trainer(ref_cache_dir=str(tmp_path / "taken" / "cache"))


def test_a_reference_that_is_not_finite_is_named(
    trainer: Build, model: LlamaForCausalLM, tmp_path: Path
) -> None:
    broken = copy.deepcopy(model)
    with torch.no_grad():
        broken.lm_head.weight[:] = float("nan")
    with pytest.raises(WRPOError, match="gives row 1 of the train data a log-probability of nan"):
        trainer(model=broken, share_prompt=False)


def test_values_are_those_computed_at_every_step(trainer: Build, steps: Steps) -> None:
    once, always = (trainer(alpha=0.5, precompute_ref_log_probs=p) for p in (True, False))
    assert once.ref_model is None
    assert always.ref_model is not None
    once.train()
    always.train()
    assert steps(once) == pytest.approx(steps(always), rel=1e-5)


def test_hash_is_of_the_weights_that_make_the_reference(model: LlamaForCausalLM) -> None:
    plain = model_hash(model)
    assert model_hash(copy.deepcopy(model)) == plain
    assert model_hash(moved(model)) != plain
    assert model_hash(copy.deepcopy(model).to(torch.bfloat16)) != plain
    adapted = get_peft_model(copy.deepcopy(model), lora())
    assert model_hash(adapted) == plain  # the base model, whatever the adapter is
    adapted.add_adapter("ref", lora())
    assert model_hash(adapted) != plain  # an adapter trained before is part of the reference


def test_keys_tell_prompt_from_response() -> None:
    keys = {text_key(*ids) for ids in (([1, 2], [3]), ([1], [2, 3]), ([1, 2, 3], []), ([], [3]))}
    assert len(keys) == 4
    assert HEADER not in keys
