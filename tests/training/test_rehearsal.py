"""Every recipe runs end to end on a tiny model: a rehearsal of what needs a GPU.

Same code, data path and tokenizer handling as the real run; only the model, the precision and
what one device can hold are replaced.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from wrpo_lib.errors import WRPOError
from wrpo_lib.quadruples import write_quadruples
from wrpo_lib.recipes import load_recipe, profiles, recipes_dir
from wrpo_lib.training.run import load_inputs, train

SMALL = {
    "bf16": False,
    "per_device_train_batch_size": 2,
    "gradient_accumulation_steps": 2,
    "max_steps": 2,
    "max_length": 64,
}
RECIPES = sorted(
    (path.parent.name, path.stem) for path in recipes_dir().glob("*/*.yaml") if path.stem != "world"
)


@pytest.fixture
def files(
    tmp_path: Path,
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    quadruples: Dataset,
) -> tuple[str, str]:
    """A model folder and a file of quadruples, as an engineer would have them."""
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    write_quadruples(quadruples, tmp_path / "quadruples.jsonl")
    return str(tmp_path / "model"), str(tmp_path / "quadruples.jsonl")


def test_there_is_something_to_rehearse() -> None:
    assert {"nano", "workstation", "paper"} <= set(profiles())
    assert len(RECIPES) >= 11


@pytest.mark.parametrize(("profile", "name"), RECIPES)
def test_recipe(profile: str, name: str, files: tuple[str, str], tmp_path: Path) -> None:
    small: dict[str, Any] = dict(SMALL)
    if name != "sft":
        small["max_prompt_length"] = 32
    recipe = load_recipe(profile, name, **small)
    model, tokenizer, data = load_inputs(recipe, *files)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    out = tmp_path / "out"
    trainer = train(recipe, model, tokenizer, data, out, seed=1, disable_tqdm=True)
    losses = [row["loss"] for row in trainer.state.log_history if "loss" in row]
    assert len(losses) == 2
    trained = trainer.model.state_dict()
    moved = any(not v.equal(before[k]) for k, v in trained.items() if k in before)
    assert moved == (not recipe.lora)
    assert any("lora" in k for k in trained) == bool(recipe.lora)
    trainer.save_model(str(out / "final"))
    saved = {p.name for p in (out / "final").iterdir()}
    assert ("adapter_model.safetensors" if recipe.lora else "model.safetensors") in saved
    if name != "sft":
        card = (out / "final" / "README.md").read_text() if "README.md" in saved else "wrpo"
        assert "wrpo" in card.lower()


def test_inputs_are_checked_first(files: tuple[str, str], tmp_path: Path) -> None:
    recipe = load_recipe("workstation", "wrpo")
    with pytest.raises(WRPOError, match=r"quadruples\.jsonl does not exist"):
        load_inputs(recipe, files[0], str(tmp_path / "no" / "quadruples.jsonl"))
    with pytest.raises(WRPOError, match="recipe workstation/wrpo: cannot load"):
        load_inputs(recipe, str(tmp_path / "nowhere"), files[1])
    config = json.loads((Path(files[0]) / "tokenizer_config.json").read_text())
    config.pop("chat_template", None)
    (Path(files[0]) / "tokenizer_config.json").write_text(json.dumps(config))
    (Path(files[0]) / "chat_template.jinja").unlink(missing_ok=True)
    with pytest.raises(WRPOError, match="has no chat template; use an instruct model"):
        load_inputs(recipe, *files)
    with pytest.raises(WRPOError, match="names no model or no data"):
        load_inputs(load_recipe("nano", "wrpo"))
