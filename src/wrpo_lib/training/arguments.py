"""Training arguments of a recipe: known keys only, overrides with the fields' types."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import torch
import yaml
from trl import SFTConfig, TrlParser

from wrpo_lib.errors import WRPOError
from wrpo_lib.recipes import MAPPINGS, Recipe, nearest
from wrpo_lib.training.config import WRPOConfig


class _Parser(TrlParser):
    """TRL's parser of configuration fields; a fault is a sentence, not a page of usage."""

    def error(self, message: str) -> NoReturn:
        raise WRPOError(f"{message}; see the fields of {self.prog}")


def config_class(recipe: Recipe) -> type:
    """The class that holds the fields under ``training``."""
    return SFTConfig if recipe.stage == "sft" else WRPOConfig


def training_values(recipe: Recipe, flags: list[str] | None = None) -> dict[str, Any]:
    """The recipe's ``training`` with ``flags`` (``--field value``) on top, in the fields' types.

    :raises WRPOError: for a key that is no field, with the file and the nearest field.
    """
    fields = config_class(recipe)
    parser = _Parser(fields, allow_abbrev=False, prog=fields.__name__)
    known = [action.dest for action in parser._actions]
    for action in parser._actions:
        action.default = argparse.SUPPRESS  # only what is given counts
    if unknown := [key for key in recipe.training if key not in known]:
        key = unknown[0]
        raise WRPOError(
            f"{recipe.where}: unknown key {key!r} under `training`; {nearest(key, known)}"
        )
    parser.set_defaults_with_config(**recipe.training)
    found, left = parser.parse_known_args(flags or [])
    if left:
        key = left[0].lstrip("-").partition("=")[0]
        raise WRPOError(
            f"unknown option {left[0]!r}; {nearest(key.replace('-', '_'), [*known, *MAPPINGS])}"
        )
    return vars(found)


def override(recipe: Recipe, words: list[str]) -> Recipe:
    """``recipe`` with command-line ``words`` in place of its values.

    ``--learning_rate 1e-5``, ``--learning_rate=1e-5`` and ``learning_rate=1e-5`` set fields under
    ``training``; ``--lora.r 8`` and ``load.dtype=float32`` set fields of the other mappings, whose
    values are read as YAML.
    """
    flags: list[str] = []
    nested: dict[str, dict[str, Any]] = {}
    rest = iter(words)
    for word in rest:
        name, _, value = word.lstrip("-").partition("=")
        section, dot, key = name.partition(".")
        if dot and section in MAPPINGS[1:]:
            value = value or next(rest, "")
            nested.setdefault(section, {})[key] = yaml.safe_load(value)
        elif not word.startswith("--") and "=" in word:
            flags.append(f"--{word}")
        elif word.startswith("--") and "=" not in word:
            flags += [word, *([following] if (following := next(rest, None)) else [])]
        else:
            flags.append(word)
    changes: dict[str, Any] = {
        section: {**(getattr(recipe, section) or {}), **fields}
        for section, fields in nested.items()
    }
    return replace(recipe, training=training_values(recipe, flags), **changes)


def training_arguments(
    recipe: Recipe, output_dir: Path, seed: int | None = None, **extra: Any
) -> Any:
    """``SFTConfig`` or ``WRPOConfig`` of a recipe; a bad field names the recipe.

    ``extra`` are arguments of the machine at hand, which the recipe's own replace.
    """
    values = {
        "seed": 42 if seed is None else seed,  # paper section 4.1
        "report_to": "none",
        "logging_steps": 1,
        "use_cpu": not torch.cuda.is_available(),
        "bf16": False,
        "activation_checkpointing": False,
        "dataloader_pin_memory": torch.cuda.is_available(),
        **extra,
        **training_values(recipe),
        "output_dir": str(output_dir),
    }
    try:
        args = config_class(recipe)(**values)
    except WRPOError as error:
        raise WRPOError(f"{recipe.where}: {error}") from error
    except (TypeError, ValueError, ImportError) as error:
        reason = str(error).splitlines()[0].rstrip(".")
        raise WRPOError(f"{recipe.where}: {reason}; correct `training`") from error
    if args.n_gpu > 1:  # transformers would wrap the model in DataParallel; accelerate has better
        args._n_gpu = 1
    return args
