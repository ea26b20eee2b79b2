"""WRPO training, thin over TRL: configuration, collator, trainer, SFT, dynamics."""

from __future__ import annotations

import warnings

from wrpo_lib.training.config import WRPOConfig
from wrpo_lib.training.data import WRPOCollator
from wrpo_lib.training.run import DynamicsCallback
from wrpo_lib.training.trainer import WRPOTrainer, sft_trainer

__all__ = ["DynamicsCallback", "WRPOCollator", "WRPOConfig", "WRPOTrainer", "sft_trainer"]

# TRL and PEFT read a name that transformers deprecates; nothing for the user to do
warnings.filterwarnings("ignore", "`(is_)?gradient_checkpointing", FutureWarning)
