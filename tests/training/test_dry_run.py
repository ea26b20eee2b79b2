"""Every recipe runs end to end on a tiny model: a dry run of what needs a GPU.

The dry run is the command's own: `wrpo train RECIPE --dry-run` calls the same function.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from wrpo_lib.errors import WRPOError
from wrpo_lib.quadruples import write_quadruples
from wrpo_lib.recipes import load_recipe, profiles, recipe_names
from wrpo_lib.training.dry_run import dry_run, shrink
from wrpo_lib.training.inputs import load_model
from wrpo_lib.training.run import load_inputs

RECIPES = [(profile, name) for profile in profiles() for name in recipe_names(profile)]


def test_there_is_something_to_dry_run() -> None:
    assert profiles() == ["nano", "paper", "smol", "workstation"]
    forms = {"wrpo", "wrpo_ipo", "wrpo_simpo", "dpo_on", "dpo_off", "dpo_hybrid", "simpo", "ipo"}
    for profile in profiles():
        assert {*forms, "sft"} <= set(recipe_names(profile))
    assert {"wrpo_4bit", "sft_4bit", "wrpo_full"} <= set(recipe_names("workstation"))


@pytest.mark.parametrize(("profile", "name"), RECIPES)
def test_recipe(profile: str, name: str, tmp_path: Path) -> None:
    recipe = load_recipe(profile, name)
    said: list[str] = []
    out = tmp_path / "out"
    trainer = dry_run(recipe, out, said.append)
    losses = [row["loss"] for row in trainer.state.log_history if "loss" in row]
    assert len(losses) == 3
    assert all(0 < loss < 1e4 for loss in losses)

    whole = not recipe.lora or recipe.merge
    assert (out / "model.safetensors").is_file() == whole
    adapter = out / "adapter" if recipe.merge else out
    assert (adapter / "adapter_model.safetensors").is_file() == bool(recipe.lora)
    assert not list(out.glob("*.bin")), "a pickle in what is handed on"
    assert {"README.md", "tokenizer.json", "run.json", "dynamics.jsonl"} <= {
        p.name for p in out.iterdir()
    }
    assert len((out / "dynamics.jsonl").read_text().splitlines()) == 3
    record = json.loads((out / "run.json").read_text())
    assert (record["status"], record["steps"]) == ("finished", 3)
    assert record["recipe"] == f"{profile}/{name}"
    assert ("wrpo" in (out / "README.md").read_text().lower()) == (recipe.stage == "preference")

    text = "\n".join(said)
    for replaced in ("bf16", "quantization"):
        given = recipe.training.get("bf16") if replaced == "bf16" else recipe.quantization
        assert (f"{replaced} " in text) == bool(given)
    assert (f"recipes/accelerate/{recipe.launch}.yaml" in text) == bool(recipe.launch)


def test_fields_of_what_is_replaced_are_checked_too(tmp_path: Path) -> None:
    recipe = load_recipe("workstation", "wrpo_4bit")
    wrong = replace(recipe, quantization={"load_in_4bits": True})
    with pytest.raises(WRPOError, match="did you mean 'load_in_4bit'"):
        dry_run(wrong, tmp_path, print)


def test_a_dry_run_trains(tmp_path: Path) -> None:
    """Its start is written by a seed, so what it saved can be held against it."""
    recipe = load_recipe("workstation", "wrpo_full", learning_rate=1e-2)
    dry_run(recipe, tmp_path / "out", lambda line: None)
    shrink(recipe, tmp_path)
    before = load_file(tmp_path / "model" / "model.safetensors")
    after = load_file(tmp_path / "out" / "model.safetensors")
    assert any(not after[name].equal(weight) for name, weight in before.items())


@pytest.fixture
def files(
    tmp_path: Path, model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, quadruples: Any
) -> tuple[str, str]:
    """A model folder and a file of quadruples, as an engineer would have them."""
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    write_quadruples(quadruples, tmp_path / "quadruples.jsonl")
    return str(tmp_path / "model"), str(tmp_path / "quadruples.jsonl")


def test_the_models_own_tokenizer_family_and_data_are_taken(
    files: tuple[str, str], tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    recipe = replace(load_recipe("workstation", "wrpo"), model=files[0], data=files[1])
    small, said = shrink(recipe, tmp_path / "small")
    assert "the tokenizer is the model's own" in said
    assert f"data {files[1]} (12 rows, checked) -> its first 12 rows" in said
    assert load_model(small).config.vocab_size == len(tokenizer)


def test_inputs_are_checked_first(files: tuple[str, str], tmp_path: Path) -> None:
    recipe = load_recipe("workstation", "wrpo", bf16=False)
    with pytest.raises(WRPOError, match=r"quadruples\.jsonl does not exist"):
        load_inputs(recipe, files[0], str(tmp_path / "no" / "quadruples.jsonl"))
    with pytest.raises(WRPOError, match=r"wrpo\.yaml: the model folder .*nowhere. does not exist"):
        load_inputs(recipe, str(tmp_path / "nowhere"), files[1])
    config = json.loads((Path(files[0]) / "tokenizer_config.json").read_text())
    config.pop("chat_template", None)
    (Path(files[0]) / "tokenizer_config.json").write_text(json.dumps(config))
    (Path(files[0]) / "chat_template.jinja").unlink(missing_ok=True)
    with pytest.raises(WRPOError, match="has no chat template; use an instruct model"):
        load_inputs(recipe, *files)
    with pytest.raises(WRPOError, match="names no data"):
        load_inputs(load_recipe("nano", "wrpo"))
