"""What a recipe names, checked and loaded: device, fields, data, tokenizer, model."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from inspect import signature
from typing import TYPE_CHECKING, Any

import torch
from peft import LoraConfig
from transformers import AutoConfig, BitsAndBytesConfig
from transformers.utils import is_torch_bf16_gpu_available

from wrpo_lib import models
from wrpo_lib.errors import WRPOError
from wrpo_lib.io import read_rows
from wrpo_lib.quadruples.schema import RESPONSES, validate_quadruples
from wrpo_lib.recipes import Recipe, nearest
from wrpo_lib.training.config import computed_responses

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase


@contextmanager
def known_warnings() -> Iterator[None]:
    """TRL and PEFT read a name that transformers deprecates; nothing for the user to do."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`(is_)?gradient_checkpointing", FutureWarning)
        yield


@contextmanager
def named(recipe: Recipe) -> Iterator[None]:
    """A fault found inside begins with the recipe's file."""
    try:
        yield
    except WRPOError as error:
        raise WRPOError(f"{recipe.where}: {error}") from error


def check_device(recipe: Recipe) -> None:
    """bf16, 4 bits and other attention kernels need hardware or packages; say so at once."""
    check_fields(recipe)
    if recipe.training.get("bf16") and not is_torch_bf16_gpu_available():
        found = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
        raise WRPOError(
            f"{recipe.where} trains in bf16, which this machine cannot ({found}); pass --bf16 "
            "false --load.dtype float32, or try the recipe with --dry-run"
        )
    if recipe.quantization and find_spec("bitsandbytes") is None:
        raise WRPOError(
            f"{recipe.where} quantises the base model, which needs the package bitsandbytes; "
            'pip install -e ".[gpu]", or try the recipe with --dry-run'
        )
    flash = recipe.load.get("attn_implementation") == "flash_attention_2"
    if flash and not find_spec("flash_attn"):
        raise WRPOError(
            f"{recipe.where} asks for flash_attention_2, which needs the package flash-attn; "
            "install it, or pass --load.attn_implementation sdpa"
        )


def check_fields(recipe: Recipe) -> None:
    """Fields under ``quantization`` and ``lora`` that their classes have; an adapter for 4 bits."""
    for name, fields in (("quantization", BitsAndBytesConfig), ("lora", LoraConfig)):
        known = sorted(signature(fields).parameters)
        for key in getattr(recipe, name) or {}:
            if key not in known:
                raise WRPOError(
                    f"{recipe.where}: unknown key {key!r} under `{name}`; {nearest(key, known)}"
                )
    if recipe.quantization and not recipe.lora:
        raise WRPOError(
            f"{recipe.where} quantises the model and trains it in full, which cannot be; add `lora`"
        )


def lora_config(recipe: Recipe) -> LoraConfig | None:
    """peft's configuration of a recipe's ``lora``; None for full fine-tuning."""
    return LoraConfig(**{"task_type": "CAUSAL_LM", **recipe.lora}) if recipe.lora else None


def model_name(recipe: Recipe) -> str:
    """The recipe's ``model``, which somebody must have named."""
    if not recipe.model:
        raise WRPOError("names no model; pass --model (a hub id, a folder or a GGUF file)")
    return recipe.model


def load_config(recipe: Recipe, **options: Any) -> PretrainedConfig:
    """The model's configuration; of an adapter's folder, its base model's."""
    with named(recipe):
        adapter = models.adapter_config(model_name(recipe))
        name = adapter.base_model_name_or_path if adapter else model_name(recipe)
        config: PretrainedConfig = models.load_with(AutoConfig, name, options)
        return config


def load_tokenizer(recipe: Recipe, **options: Any) -> PreTrainedTokenizerBase:
    """The model's tokenizer; it needs a chat template, and a token to pad with."""
    with named(recipe):
        tokenizer = models.load_tokenizer(model_name(recipe), **options)
        if not tokenizer.chat_template:
            raise WRPOError(f"{recipe.model!r} has no chat template; use an instruct model")
        if tokenizer.pad_token is None and tokenizer.eos_token is None:
            raise WRPOError(
                f"the tokenizer of {recipe.model!r} has neither a pad nor an eos token; set one in "
                "its tokenizer_config.json"
            )
        return tokenizer


@known_warnings()
def load_model(recipe: Recipe) -> PreTrainedModel:
    """The model, ready to train, with the recipe's ``load`` and ``quantization``."""
    options: dict[str, Any] = dict(recipe.load)
    if recipe.quantization:
        from accelerate import PartialState

        # every process holds the whole quantised model, on its own GPU
        options["device_map"] = {"": PartialState().local_process_index}
        options["quantization_config"] = BitsAndBytesConfig(**recipe.quantization)
    with named(recipe):
        return models.load_trainable(model_name(recipe), **options)


def responses(recipe: Recipe) -> tuple[str, ...]:
    """The responses that a run of ``recipe`` reads: y_ws for SFT, those it computes otherwise."""
    return ("source_chosen",) if recipe.stage == "sft" else computed_responses(recipe.training)


def load_data(recipe: Recipe, data: str | None = None) -> Dataset:
    """The rows that the recipe trains on, validated: a file of quadruples.

    SFT needs ``prompt`` and ``source_chosen``. A recipe that reads one preferred response (DPO,
    IPO, SimPO) also takes preference pairs, TRL's ``prompt``, ``chosen``, ``rejected``.

    :raises WRPOError: for the first thing wrong, with file, row and field.
    """
    from datasets import Dataset

    data = data or recipe.data
    if not data:
        raise WRPOError(f"{recipe.where} names no data; pass --data (JSONL or parquet)")
    wanted = responses(recipe)
    rows = [_from_pair(row, wanted, f"{data}, row {i}") for i, row in enumerate(read_rows(data), 1)]
    unread = set(RESPONSES) - set(wanted)
    if recipe.stage == "sft":
        unread |= {"prompt_id", *(f"{name}_reward" for name in RESPONSES)}
    for problem in validate_quadruples(rows):
        if problem.field not in unread:
            raise WRPOError(problem.sentence(data))
    columns = [name for name in ("prompt_id", "prompt", *wanted) if name in rows[0]]
    return Dataset.from_list([{name: row.get(name) for name in columns} for row in rows])


def _from_pair(row: dict[str, Any], wanted: tuple[str, ...], where: str) -> dict[str, Any]:
    """A preference pair as the two responses that the recipe reads; other rows as they are."""
    if "chosen" not in row or any(name in row for name in wanted if name != "rejected"):
        return row
    if len(wanted) != 2 or "rejected" not in wanted:
        raise WRPOError(
            f"{where} is a preference pair or a row of the official format, and this recipe reads "
            f"{', '.join(wanted)}; make quadruples with `wrpo pair` or `wrpo data import`"
        )
    texts = {
        name: side[-1].get("content") if isinstance(side, list) and len(side) == 1 else side
        for name, side in ((name, row.get(name)) for name in ("chosen", "rejected"))
    }
    chosen = next(name for name in wanted if name != "rejected")
    rest = {key: value for key, value in row.items() if key not in texts}
    return {**rest, chosen: texts["chosen"], "rejected": texts["rejected"]}


def load_inputs(
    recipe: Recipe, model: str | None = None, data: str | None = None
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase, Dataset]:
    """Model, tokenizer and quadruples that a recipe names; ``model`` and ``data`` replace them."""
    from dataclasses import replace

    recipe = replace(recipe, model=model or recipe.model, data=data or recipe.data)
    check_device(recipe)
    rows, tokenizer = load_data(recipe), load_tokenizer(recipe)
    return load_model(recipe), tokenizer, rows
