"""WRPO training, thin over TRL: configuration, collator, trainer, SFT, dynamics."""
# ruff: noqa: F401 (names for readers of the book and its notebooks)

import os
import warnings

from wrpo_lib.training.callbacks import DynamicsCallback, LivePlot, show_progress
from wrpo_lib.training.inputs import WRPOConfig
from wrpo_lib.training.trainer import WRPOTrainer, sft_trainer

# TRL and PEFT read a name that transformers deprecates; nothing for the user to do
warnings.filterwarnings("ignore", "`(is_)?gradient_checkpointing", FutureWarning)

# rows differ in length, and fixed blocks of GPU memory would break up; read at the first allocation
os.environ.setdefault("PYTORCH_ALLOC_CONF", "expandable_segments:True")
