"""WRPO training, thin over TRL: configuration, collator, trainer, SFT, dynamics.

Import from the submodules, or lazily from here: ``from wrpo_lib.training import WRPOTrainer``.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

_HOMES = {
    "WRPOConfig": "config",
    "WRPOCollator": "collator",
    "WRPOTrainer": "trainer",
    "DynamicsCallback": "dynamics",
    "sft_config": "sft",
    "sft_trainer": "sft",
    "train": "run",
}
__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    """Load a name from its submodule on first use, so importing the library stays light."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
