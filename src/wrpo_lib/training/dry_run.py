"""A dry run: a recipe from end to end on a CPU, with its model, rows and sizes replaced."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from wrpo_lib.io import write_rows
from wrpo_lib.recipes import Recipe
from wrpo_lib.tiny import build_model, build_tokenizer
from wrpo_lib.training.inputs import load_data, load_model, named
from wrpo_lib.training.run import run

ROWS = 32
SMALL: dict[str, Any] = {
    **{"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2, "max_length": 128},
    **{"max_steps": 3, "save_steps": 1, "optim": "adamw_torch", "use_cpu": True},
}
MODEL: dict[str, Any] = {
    **{"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2},
    **{"num_attention_heads": 4, "num_key_value_heads": 2},
}


def dry_run(recipe: Recipe, output_dir: Path | None, say: Callable[[str], None]) -> Any:
    """Run ``recipe`` in small, load what it saved, and say what was replaced.

    Nothing is downloaded. What it writes goes to a temporary folder unless ``output_dir`` is given.
    """
    with tempfile.TemporaryDirectory() as folder:
        if recipe.data and Path(recipe.data).is_file():
            say(f"dry run: {recipe.data} has {len(load_data(recipe))} good rows")
        sizes = ", ".join(f"{name} {value}" for name, value in SMALL.items())
        say(f"dry run: a random {recipe.architecture} in float32, {ROWS} invented rows, {sizes}")
        out = output_dir or Path(folder) / "out"
        small = shrink(recipe, Path(folder))
        trainer = run(small, out, say=lambda line: say(line.replace(folder, "TEMPORARY")))
        load_model(replace(small, model=str(out)))
        losses = [round(row["loss"], 4) for row in trainer.state.log_history if "loss" in row]
        say(f"dry run of {recipe.where}: losses {losses}, saved model loads again")
    return trainer


def shrink(recipe: Recipe, folder: Path) -> Recipe:
    """The recipe on a tiny model and few rows, which are written to ``folder``."""
    rows, model, tokenizer = folder / "rows.jsonl", folder / "model", build_tokenizer([])
    write_rows(map(_row, range(ROWS)), rows)
    tokenizer.save_pretrained(model)
    with named(recipe):
        shape = {"model_type": recipe.architecture, **MODEL}
        build_model(shape, tokenizer, seed=0).save_pretrained(model)
    training = {**recipe.training, **SMALL}
    if recipe.stage == "preference":
        training |= {"max_prompt_length": 64, "ref_cache_dir": None}
    changes: dict[str, Any] = {"model": str(model), "data": str(rows), "training": training}
    changes |= {"eval_data": str(rows) if recipe.eval_data else None}
    return replace(recipe, **changes, load={"dtype": "float32"}, quantization=None)


def _row(number: int) -> dict[str, Any]:
    total = 2 * number + 3
    return {
        "prompt_id": f"dry-run-{number}",
        "prompt": f"What is {number} plus {number + 3}?",
        "source_chosen": f"The sum of {number} and {number + 3} is {total}.",
        "target_chosen": f"It is {total}.",
        "rejected": f"It is {2 * number}.",
    }
