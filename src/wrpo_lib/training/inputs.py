"""What a recipe names, checked and loaded: training arguments, data, tokenizer, model."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields, replace
from itertools import zip_longest
from pathlib import Path
from typing import Any, NoReturn

import torch
import yaml
from accelerate import PartialState
from datasets import Dataset
from peft import LoraConfig
from transformers import AutoConfig, BitsAndBytesConfig
from trl import SFTConfig, TrlParser

from wrpo_lib import models
from wrpo_lib.errors import WRPOError
from wrpo_lib.io import read_rows
from wrpo_lib.quadruples.schema import RESPONSES, validate_quadruples
from wrpo_lib.recipes import MAPPINGS, Recipe, nearest
from wrpo_lib.training.config import WRPOConfig


@contextmanager
def named(recipe: Recipe) -> Iterator[None]:
    """What a library cannot do with a recipe, as one sentence that begins with the recipe."""
    try:
        yield
    except (ValueError, TypeError, ImportError, OSError) as error:
        said = str(error).strip().splitlines()
        reason = said[0] if said else type(error).__name__
        if reason.startswith(recipe.where):
            raise
        ours = isinstance(error, WRPOError)
        remedy = "" if ours else "; correct the recipe, or try it with --dry-run"
        raise WRPOError(f"{recipe.where}: {reason.rstrip('.')}{remedy}") from error


class _Parser(TrlParser):
    """TRL's parser of configuration fields; a fault is a sentence, not a page of usage."""

    def error(self, message: str) -> NoReturn:
        raise WRPOError(f"{message}; see the fields of {self.prog}")


KINDS: dict[str, Any] = {"sft": SFTConfig, "preference": WRPOConfig}
"""The class that holds the fields under ``training``, by stage."""


def _parse(recipe: Recipe, words: list[str]) -> tuple[dict[str, Any], list[str]]:
    """The recipe's ``training`` with ``words`` on top, in the fields' types; other words."""
    kind = KINDS[recipe.stage]
    parser = _Parser(kind, allow_abbrev=False, prog=kind.__name__)
    for action in parser._actions:
        action.default = argparse.SUPPRESS  # only what is given counts
    if unknown := parser.set_defaults_with_config(**recipe.training):
        key = unknown[0].removeprefix("--")
        known = [field.name for field in fields(kind)]
        raise WRPOError(f"unknown key {key!r} under `training`; {nearest(key, known)}")
    found, rest = parser.parse_known_args(words)
    return vars(found), rest


def override(recipe: Recipe, words: list[str]) -> Recipe:
    """``recipe`` with command-line ``words`` in place of its values.

    ``--learning_rate 1e-5`` or ``learning_rate=1e-5`` set fields under ``training``; ``--lora.r 8``
    or ``load.dtype=float32`` fields of the other mappings, whose values are read as YAML.
    """
    flags = [f"--{w}" if "=" in w and not w.startswith("-") else w for w in words]
    with named(recipe):
        training, rest = _parse(recipe, flags)
    changes: dict[str, Any] = {"training": training}
    parts = iter([part for word in rest for part in word.split("=", 1)])
    for option, value in zip_longest(parts, parts, fillvalue=""):
        section, _, key = option.lstrip("-").partition(".")
        if section not in MAPPINGS[1:] or not key:
            known = [field.name for field in fields(KINDS[recipe.stage])]
            raise WRPOError(f"unknown option {option!r}; {nearest(section, [*known, *MAPPINGS])}")
        given = changes.setdefault(section, dict(getattr(recipe, section) or {}))
        given[key] = yaml.safe_load(value)
    return replace(recipe, **changes)


def training_arguments(
    recipe: Recipe, output_dir: Path, seed: int | None = None, **extra: Any
) -> Any:
    """``SFTConfig`` or ``WRPOConfig`` of a recipe; a bad field names the recipe.

    ``extra`` are arguments of the machine at hand, which the recipe's own replace.
    """
    with named(recipe):
        values = {
            "seed": 42 if seed is None else seed,  # paper section 4.1
            "report_to": "none",
            "logging_steps": 1,
            "use_cpu": not torch.cuda.is_available(),
            "bf16": False,
            "activation_checkpointing": False,
            "dataloader_pin_memory": torch.cuda.is_available(),
            **extra,
            **_parse(recipe, [])[0],
            "output_dir": str(output_dir),
        }
        args = KINDS[recipe.stage](**values)
    if args.n_gpu > 1:  # transformers would wrap the model in DataParallel; accelerate has better
        args._n_gpu = 1
    return args


def lora_config(recipe: Recipe) -> LoraConfig | None:
    """peft's configuration of a recipe's ``lora``; None for full fine-tuning."""
    return LoraConfig(**{"task_type": "CAUSAL_LM", **recipe.lora}) if recipe.lora else None


def model_name(recipe: Recipe) -> str:
    """The recipe's ``model``, which somebody must have named."""
    if not recipe.model:
        raise WRPOError("names no model; pass --model (a hub id, a folder or a GGUF file)")
    return recipe.model


def load_config(recipe: Recipe, **options: Any) -> Any:
    """The model's configuration; of an adapter's folder, its base model's."""
    with named(recipe):
        adapter = models.adapter_config(model_name(recipe))
        name = adapter.base_model_name_or_path if adapter else model_name(recipe)
        return models.load_with(AutoConfig, name, options)


def load_tokenizer(recipe: Recipe, **options: Any) -> Any:
    """The model's tokenizer."""
    with named(recipe):
        return models.load_tokenizer(model_name(recipe), **options)


def load_model(recipe: Recipe) -> Any:
    """The model, ready to train, with the recipe's ``load`` and ``quantization``."""
    options: dict[str, Any] = dict(recipe.load)
    with named(recipe):
        if recipe.quantization:  # every process holds the whole model, on its own GPU
            options["device_map"] = {"": PartialState().local_process_index}
            options["quantization_config"] = BitsAndBytesConfig(**recipe.quantization)
        return models.load_trainable(model_name(recipe), **options)


def responses(recipe: Recipe) -> tuple[str, ...]:
    """The responses that a run of ``recipe`` reads: y_ws for SFT, those it computes otherwise."""
    if recipe.stage == "sft":
        return ("source_chosen",)
    wanted: tuple[str, ...] = training_arguments(recipe, recipe.output_dir).responses
    return wanted


def load_data(recipe: Recipe, data: str | None = None) -> Dataset:
    """The rows that the recipe trains on, validated: a file of quadruples.

    SFT needs ``prompt`` and ``source_chosen``. A recipe that reads one preferred response (DPO,
    IPO, SimPO) also takes preference pairs, TRL's ``prompt``, ``chosen``, ``rejected``.

    :raises WRPOError: for the first thing wrong, with file, row and field.
    """
    data = data or recipe.data
    if not data:
        raise WRPOError(f"{recipe.where} names no data; pass --data (JSONL or parquet)")
    wanted = responses(recipe)
    rows = read_rows(data)
    if len(wanted) == 2:
        rows = [_from_pair(row, wanted[0]) for row in rows]
    unread = set(RESPONSES) - set(wanted)
    if recipe.stage == "sft":
        unread |= {"prompt_id", *(f"{name}_reward" for name in RESPONSES)}
    for problem in validate_quadruples(rows):
        if problem.field not in unread:
            raise WRPOError(problem.sentence(data))
    columns = [name for name in ("prompt_id", "prompt", *wanted) if name in rows[0]]
    return Dataset.from_list([{name: row.get(name) for name in columns} for row in rows])


def _from_pair(row: dict[str, Any], preferred: str) -> dict[str, Any]:
    """A preference pair with its chosen response as ``preferred``; other rows as they are."""
    if "chosen" not in row or preferred in row:
        return row
    sides = {preferred: row["chosen"], "rejected": row.get("rejected")}
    for name, side in sides.items():
        if isinstance(side, list) and len(side) == 1 and isinstance(side[0], dict):
            sides[name] = side[0].get("content")
    return {**row, **sides}
