"""Every recipe runs end to end on a tiny model: a dry run of what needs a GPU.

The dry run is the command's own: `wrpo train RECIPE --dry-run` calls the same function.
"""

import json
from pathlib import Path

import pytest

from wrpo_lib.recipes import load_recipe, profiles, recipe_names
from wrpo_lib.training.run import dry_run

RECIPES = [(profile, name) for profile in profiles() for name in recipe_names(profile)]


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
    assert (out / "tokenizer.json").is_file()
    assert len((out / "dynamics.jsonl").read_text().splitlines()) == 3
    record = json.loads((out / "run.json").read_text())
    assert (record["status"], record["steps"]) == ("finished", 3)
    assert record["recipe"] == f"{profile}/{name}"
    assert ("wrpo" in (out / "README.md").read_text().lower()) == (recipe.stage == "preference")

    assert "saved model loads again" in said[-1]
