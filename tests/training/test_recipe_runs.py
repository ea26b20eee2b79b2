"""Recipes run end to end on a tiny model: a dry run of what needs a GPU, and notebook 04."""

import asyncio
import json

import nbformat
import pytest
from nbclient import NotebookClient

from wrpo_lib.io import read_rows
from wrpo_lib.models import load_causal_lm
from wrpo_lib.recipes import load_recipe, recipe_names
from wrpo_lib.records import project_root
from wrpo_lib.training.run import dry_run, shrink

PROFILES = ("smol", "workstation", "paper")  # notebook 04 and the study train by those of nano
RECIPES = [(profile, name) for profile in PROFILES for name in recipe_names(profile)]


@pytest.mark.parametrize(("profile", "name"), RECIPES)
def test_a_dry_run(profile, name, tmp_path):
    """`wrpo train RECIPE --dry-run` calls the same function."""
    recipe, out = load_recipe(profile, name), tmp_path / "out"
    said: list[str] = []
    trainer = dry_run(recipe, out, said.append)
    losses = [row["loss"] for row in trainer.state.log_history if "loss" in row]
    assert len(losses) == 3
    assert all(0 < loss < 1e4 for loss in losses)

    whole = not recipe.lora or recipe.merge
    assert (out / "model.safetensors").is_file() == whole
    adapter = out / "adapter" if recipe.merge and recipe.lora else out
    assert (adapter / "adapter_model.safetensors").is_file() == bool(recipe.lora)
    assert not list(out.glob("*.bin")), "a pickle in what is handed on"
    assert (out / "tokenizer.json").is_file()
    assert len(read_rows(out / "dynamics.jsonl")) == 3
    record = json.loads((out / "run.json").read_text())
    found = (record["status"], record["steps"], record["recipe"])
    assert found == ("finished", 3, f"{profile}/{name}")
    assert ("wrpo" in (out / "README.md").read_text().lower()) == (recipe.stage == "preference")
    assert "saved model loads again" in said[-1]


@pytest.mark.filterwarnings("ignore")  # of the kernel's own machinery, not of the notebook
def test_the_notebook_trains_a_usable_model_by_the_workstations_recipe_from_another_folder(
    tmp_path, monkeypatch
):
    root, home, elsewhere = project_root(), tmp_path / "project", tmp_path / "elsewhere"
    for folder in (home, elsewhere):
        folder.mkdir()
    for name in ("recipes", "results", "pyproject.toml"):
        (home / name).symlink_to(root / name)
    monkeypatch.setenv("WRPO_HOME", str(home))
    small = shrink(load_recipe("workstation", "wrpo"), tmp_path)
    notebook = nbformat.read(root / "notebooks" / "04_wrpo_training.ipynb", as_version=4)
    (cell,) = (c for c in notebook.cells if "parameters" in c.metadata.get("tags", []))
    cell.source = f"""profile, method = 'workstation', 'wrpo'
model_name, data_file = {small.model!r}, {small.data!r}
changes = {{'gradient_accumulation_steps': 1, 'max_steps': 4, 'learning_rate': 0.01}}"""
    end = next(i for i, c in enumerate(notebook.cells) if "## What the study found" in c.source)
    notebook.cells = notebook.cells[:end]  # what follows are results, the same for every profile
    client = NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(elsewhere)}})
    asyncio.run(client.async_execute())

    out = home / "runs" / "workstation" / "wrpo"
    rows = read_rows(out / "dynamics.jsonl")
    assert [row["alpha"] for row in rows] == pytest.approx([0.0, 0.025, 0.05, 0.075])
    assert rows[-1]["loss"] < rows[0]["loss"]
    shown = [output for c in notebook.cells for output in c.get("outputs", [])]
    assert any("image/png" in output.get("data", {}) for output in shown)
    model, tokenizer = load_causal_lm(str(out))
    assert hasattr(model, "peft_config")
    ids = tokenizer("What is 2 plus 3?", return_tensors="pt")["input_ids"]
    assert model.generate(ids, max_new_tokens=4).shape[1] > ids.shape[1]
    assert not any(elsewhere.iterdir())
