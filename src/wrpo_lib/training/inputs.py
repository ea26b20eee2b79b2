"""Model, tokenizer and data that a recipe names, with one sentence for whatever is missing."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wrpo_lib.errors import WRPOError
from wrpo_lib.io import read_rows
from wrpo_lib.models import packaged_weights
from wrpo_lib.quadruples.schema import RESPONSES, validate_quadruples
from wrpo_lib.recipes import Recipe

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase


@contextmanager
def known_warnings() -> Iterator[None]:
    """TRL and PEFT read a name that transformers deprecates; nothing for the user to do."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`(is_)?gradient_checkpointing", FutureWarning)
        yield


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
    try:
        path = packaged_weights(name) if kind == "package" else Path(model)
    except WRPOError as error:
        raise WRPOError(f"{recipe.where}: {error}") from error
    if path.suffix != ".gguf":
        return model, {}
    if not path.is_file():
        raise WRPOError(f"{recipe.where}: the model {model!r} does not exist; check the path")
    if find_spec("gguf") is None:
        raise WRPOError(f"{recipe.where}: {model!r} needs the package gguf; pip install gguf")
    return str(path.parent), {"gguf_file": path.name}


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


@known_warnings()
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


def responses(recipe: Recipe) -> tuple[str, ...]:
    """The responses that a run of ``recipe`` reads.

    SFT reads y_ws. In preference training a response whose weight is 0 all along need not be there,
    unless it is scored for the metrics (``score_unused``).
    """
    if recipe.stage == "sft":
        return ("source_chosen",)
    alpha, constant = recipe.training.get("alpha"), recipe.training.get("alpha_schedule")
    unused = []
    if not recipe.training.get("score_unused", True):
        unused += ["source_chosen"] if alpha == 0 else []
        unused += ["target_chosen"] if (alpha, constant) == (1, "constant") else []
    return tuple(name for name in RESPONSES if name not in unused)


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
    return Dataset.from_list(rows)


def _from_pair(row: dict[str, Any], wanted: tuple[str, ...], where: str) -> dict[str, Any]:
    """A preference pair as the two responses that the recipe reads; other rows as they are."""
    if "chosen" not in row or any(name in row for name in wanted if name != "rejected"):
        return row
    sides = {name: row.pop(name, None) for name in ("chosen", "rejected")}
    if len(wanted) != 2 or "rejected" not in wanted:
        raise WRPOError(
            f"{where} is a preference pair or a row of the official format, and this recipe reads "
            f"{', '.join(wanted)}; make quadruples with `wrpo pair` or `wrpo data import`"
        )
    texts = {
        name: side[-1].get("content") if isinstance(side, list) and len(side) == 1 else side
        for name, side in sides.items()
    }
    chosen = next(name for name in wanted if name != "rejected")
    return {**row, chosen: texts["chosen"], "rejected": texts["rejected"]}
