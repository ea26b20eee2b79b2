"""A dry run: a recipe from end to end on a tiny random model, on a CPU, in seconds.

Code, data path, chat rendering, LoRA targets, checkpoints and saving are those of the real run. The
model, the precision and the sizes are replaced, and every replacement is said.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast, set_seed

from wrpo_lib.errors import WRPOError
from wrpo_lib.io import write_rows
from wrpo_lib.recipes import Recipe
from wrpo_lib.training.arguments import training_values
from wrpo_lib.training.inputs import (
    check_fields,
    load_config,
    load_data,
    load_model,
    load_tokenizer,
)
from wrpo_lib.training.run import run

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase, Trainer

TINY = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
}
ROWS = 32
LIMITS: dict[str, Any] = {
    "per_device_train_batch_size": 2,
    "gradient_accumulation_steps": 2,
    "max_length": 128,
    "max_prompt_length": 64,
    "max_steps": 3,
    "save_steps": 1,
}
"""Sizes of a dry run, each at most the recipe's own."""

TEMPLATE = (
    "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)


def dry_run(recipe: Recipe, output_dir: Path | None, say: Callable[[str], None]) -> Trainer:
    """Run ``recipe`` in small, load what it saved, and say what was replaced.

    Nothing is downloaded. What it writes goes to a temporary folder unless ``output_dir`` is given.

    :raises WRPOError: under a launcher of several processes; one is enough.
    """
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        raise WRPOError("a dry run is one process; leave out accelerate launch")
    check_fields(recipe)  # those of what is replaced too
    with tempfile.TemporaryDirectory() as folder:
        small, replaced = shrink(recipe, Path(folder))
        for line in replaced:
            say(f"dry run: {line}")
        out = output_dir or Path(folder) / "out"
        trainer = run(small, out, say=lambda line: say(line.replace(folder, "TEMPORARY")))
        load_model(replace(small, model=str(out), quantization=None))
        losses = [round(row["loss"], 4) for row in trainer.state.log_history if "loss" in row]
        say(f"dry run of {recipe.where}: losses {losses}, saved model loads again")
    return trainer


def shrink(recipe: Recipe, folder: Path) -> tuple[Recipe, list[str]]:
    """The recipe on a tiny model and few rows written to ``folder``, and what was replaced."""
    tokenizer, said = _tokenizer(recipe)
    replaced = [said, _write_model(recipe, tokenizer, folder / "model")]
    replaced.append(_write_rows(recipe, folder / "rows.jsonl"))
    training, said = _training(recipe)
    replaced.append(said)
    if recipe.quantization:
        replaced.append(f"quantization {recipe.quantization} -> none (needs a GPU)")
    if recipe.launch:
        replaced.append(f"recipes/accelerate/{recipe.launch}.yaml -> the processes started here")
    load = {key: value for key, value in recipe.load.items() if key != "dtype"}
    if load.get("attn_implementation") not in (None, "eager", "sdpa"):
        replaced.append(f"attn_implementation {load['attn_implementation']} -> sdpa")
        load["attn_implementation"] = "sdpa"
    small = replace(
        recipe,
        training=training,
        model=str(folder / "model"),
        data=str(folder / "rows.jsonl"),
        eval_data=str(folder / "rows.jsonl") if recipe.eval_data else None,
        load={**load, "dtype": "float32"},
        quantization=None,
    )
    return small, replaced


def _training(recipe: Recipe) -> tuple[dict[str, Any], str]:
    """The recipe's fields with the limits of a dry run, and what changed."""
    own = training_values(recipe)
    own.pop("ref_cache_dir", None)  # into the dry run's own folder
    cut: dict[str, Any] = {"use_cpu": True}
    cut |= {name: False for name in ("bf16", "fp16", "tf32") if own.get(name)}
    if str(own.get("optim", "")).startswith("paged_"):  # a bitsandbytes optimiser
        cut["optim"] = "adamw_torch"
    for name, most in LIMITS.items():
        if name == "max_prompt_length" and recipe.stage == "sft":
            continue
        value = own.get(name)
        cut[name] = most if value is None or value < 0 else min(value, most)
    changes = ", ".join(
        f"{k} {own.get(k, 'unset')} -> {v}" for k, v in cut.items() if own.get(k) != v
    )
    return {**own, **cut}, changes


def _tokenizer(recipe: Recipe) -> tuple[PreTrainedTokenizerBase, str]:
    """The model's own tokenizer where this machine has it, otherwise one of bytes."""
    try:
        if recipe.model:
            return load_tokenizer(recipe, local_files_only=True), "the tokenizer is the model's own"
    except WRPOError as error:
        if "cannot load" not in str(error) and "does not exist" not in str(error):
            raise
    vocabulary = {c: i for i, c in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    core = Tokenizer(models.BPE(vocabulary, []))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    special = ["<|end|>", "<|pad|>", "<|user|>", "<|assistant|>", "<|system|>"]
    core.add_special_tokens(special)
    made = PreTrainedTokenizerFast(
        tokenizer_object=core,
        eos_token=special[0],
        pad_token=special[1],
        chat_template=TEMPLATE,
    )
    return made, f"tokenizer of {recipe.model or 'no model'} (not on this machine) -> one of bytes"


def _write_model(recipe: Recipe, tokenizer: PreTrainedTokenizerBase, folder: Path) -> str:
    """A random model of the recipe's family, with its tokenizer, as a folder to load from."""
    try:
        family = load_config(recipe, local_files_only=True).model_type if recipe.model else None
    except WRPOError:
        family = None
    family = family or recipe.architecture
    set_seed(0)
    config = AutoConfig.for_model(
        family,
        **TINY,
        vocab_size=len(tokenizer),
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=tokenizer.bos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    millions = sum(p.numel() for p in model.parameters()) / 1e6
    own = recipe.model or "(none named)"
    return f"model {own} -> a random {family} of {millions:.2f} M parameters"


def _write_rows(recipe: Recipe, path: Path) -> str:
    """The first rows of the recipe's data, all validated; invented ones where it is missing."""
    if recipe.data and Path(recipe.data).is_file():
        data = load_data(recipe)
        rows = data.select(range(min(ROWS, len(data)))).to_list()
        write_rows(rows, path)
        return f"data {recipe.data} ({len(data)} rows, checked) -> its first {len(rows)} rows"
    write_rows([_row(number, recipe) for number in range(ROWS)], path)
    return f"data {recipe.data or '(none named)'} (not on this machine) -> {ROWS} invented rows"


def _row(number: int, recipe: Recipe) -> dict[str, Any]:
    question = f"What is {number} plus {number + 3}?"
    row: dict[str, Any] = {
        "prompt_id": f"dry-run-{number}",
        "prompt": [{"role": "user", "content": question}],
        "source_chosen": f"The sum of {number} and {number + 3} is {2 * number + 3}.",
    }
    if recipe.stage == "preference":
        row |= {"target_chosen": f"It is {2 * number + 3}.", "rejected": f"It is {2 * number}."}
    return row
