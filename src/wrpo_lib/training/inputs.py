"""What a recipe names, checked and loaded: training arguments, data, tokenizer, model."""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import yaml
from accelerate import PartialState
from datasets import Dataset
from peft import LoraConfig
from transformers import BitsAndBytesConfig
from trl import SFTConfig

from wrpo_lib import models
from wrpo_lib.errors import WRPOError
from wrpo_lib.io import read_rows
from wrpo_lib.quadruples.schema import as_written, side_text, validate_quadruples
from wrpo_lib.recipes import MAPPINGS, Recipe, checked, nearest
from wrpo_lib.training.config import WRPOConfig

KINDS: dict[str, Any] = {"sft": SFTConfig, "preference": WRPOConfig}  # of ``training``, by stage
SECRET = re.compile(
    r'("(?:[^"]*(?:(?:hub|auth|access|api)_(?:token|key)|password|secret)|(?:[^"]*\.)?token)": )'
    r'("(?:[^"\\]|\\.)*")'
)
"""A key of JSON whose value nobody may read, and the value."""


@contextmanager
def named(recipe: Recipe) -> Iterator[None]:
    """What a library cannot do with a recipe, as one sentence that begins with the recipe."""
    try:
        yield
    except Exception as error:
        said = str(error).strip().splitlines()
        reason = said[0].rstrip(".") if said else type(error).__name__
        if reason.startswith(recipe.where):
            raise
        for _, secret in SECRET.findall(json.dumps(vars(recipe), default=str)):
            reason = reason.replace(json.loads(secret), "***")
        remedy = "; correct the recipe, or try it with --dry-run"
        if isinstance(error, OSError) and error.errno:
            remedy = "; look at this path, its rights and the room on its disk"
        remedy = "" if isinstance(error, WRPOError) else remedy
        raise WRPOError(f"{recipe.where}: {reason}{remedy}") from error


def override(recipe: Recipe, words: list[str]) -> Recipe:
    """``recipe`` with command-line ``words`` in place of its values.

    ``--learning_rate 1e-5`` or ``learning_rate=1e-5`` set fields under ``training``; ``--lora.r 8``
    or ``load.dtype=float32`` fields of the other mappings, read as YAML.
    """
    rest = [f"--{word}" if "=" in word and not word.startswith("-") else word for word in words]
    changes: dict[str, Any] = {}
    while rest:
        option, given, value = rest.pop(0).partition("=")
        if not given:
            value = rest.pop(0) if rest and not rest[0].startswith("--") else "true"
        section, _, key = option.removeprefix("--").replace("-", "_").rpartition(".")
        section = section or "training"
        if not option.startswith("--") or section not in MAPPINGS:
            raise WRPOError(f"unknown option {option!r}; {nearest(section, MAPPINGS)}")
        values = changes.setdefault(section, dict(getattr(recipe, section) or {}))
        text = section == "training" and not value.startswith(("[", "{"))
        with named(recipe):
            values[key] = value if text else yaml.safe_load(value)
    return replace(recipe, **changes)


def settings(recipe: Recipe) -> dict[str, Any]:
    """The recipe's ``training``, each value in its field's type."""
    return checked(KINDS[recipe.stage], recipe.training, recipe.where, "training.")


def training_arguments(recipe: Recipe, output_dir: Path) -> Any:
    """``SFTConfig`` or ``WRPOConfig`` of a recipe."""
    cuda = torch.cuda.is_available()
    values = {"seed": 42, "report_to": "none", "logging_steps": 1, "bf16": False}  # section 4.1
    values |= {
        "activation_checkpointing": False,
        "dataloader_pin_memory": cuda,
        "use_cpu": not cuda,
    }
    with named(recipe):
        values |= {**settings(recipe), "output_dir": str(output_dir)}
        args = KINDS[recipe.stage](**values)
    if args.n_gpu > 1:  # transformers would wrap the model in DataParallel; accelerate has better
        args._n_gpu = 1
    return args


def lora_config(recipe: Recipe) -> LoraConfig | None:
    """peft's configuration of a recipe's ``lora``; None for full fine-tuning."""
    if not recipe.lora:
        return None
    with named(recipe):
        values = checked(LoraConfig, recipe.lora, recipe.where, "lora.")
        return LoraConfig(**{"task_type": "CAUSAL_LM", **values})


def load_model(recipe: Recipe) -> Any:
    """The model, ready to train, with the recipe's ``load`` and ``quantization``."""
    options: dict[str, Any] = dict(recipe.load)
    with named(recipe):
        if recipe.quantization:  # every process holds the whole model, on its own GPU
            options["device_map"] = {"": PartialState().local_process_index}
            options["quantization_config"] = BitsAndBytesConfig(**recipe.quantization)
        return models.load_trainable(recipe.model or "", **options)


def responses(args: Any) -> tuple[str, ...]:
    """The responses that a run reads: y_ws for SFT, those it computes otherwise."""
    return getattr(args, "responses", ("source_chosen",))


def load_data(recipe: Recipe, data: str | None = None) -> Dataset:
    """The rows that the recipe trains on, validated: a file of quadruples.

    SFT needs ``prompt`` and ``source_chosen``. A recipe that reads one preferred response (DPO,
    IPO, SimPO) also takes preference pairs, TRL's ``prompt``, ``chosen``, ``rejected``. Fields that
    the recipe does not read may hold anything.

    :raises WRPOError: for the first thing wrong, with file, row and field.
    """
    data = data or recipe.data
    if not data:
        raise WRPOError(f"{recipe.where} names no data; pass --data (JSONL or parquet)")
    rows = read_rows(data)
    wanted = responses(training_arguments(recipe, recipe.output_dir))
    kind = "sft" if recipe.stage == "sft" else "quadruples"
    columns = {name: name for name in wanted}
    if len(wanted) == 2 and "chosen" in rows[0]:
        kind, columns = "pairs", {wanted[0]: "chosen", "rejected": "rejected"}
    read = {"prompt", *columns.values()} | ({"prompt_id"} if kind == "quadruples" else set())
    for problem in validate_quadruples(rows, kind):
        if problem.field.partition(".")[0] in read:
            raise WRPOError(problem.sentence(data))
    made = []
    for number, row in enumerate(rows, 1):
        texts = {name: side_text(row.get(column)) for name, column in columns.items()}
        name = str(row.get("prompt_id") or f"row {number}")
        made.append({"prompt_id": name, "prompt": as_written(row["prompt"]), **texts})
    return Dataset.from_list(made, on_mixed_types="use_json")
