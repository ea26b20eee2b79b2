"""What the trainer does to models and tokenizer before it hands them to TRL."""

from __future__ import annotations

import copy
import os
from typing import Any

from accelerate.logging import get_logger
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.integrations import is_deepspeed_zero3_enabled

from wrpo_lib.errors import WRPOError
from wrpo_lib.training.config import WRPOConfig

logger = get_logger(__name__)


def will_shard(args: WRPOConfig) -> bool:
    """Will accelerate shard the model? TRL then wants a reference even to precompute from."""
    return bool(args.fsdp) or os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true"


def frozen_copy(model: Any) -> PreTrainedModel | None:
    """The model as it stands, for a reference; None where TRL finds one (names, adapters, ZeRO-3).

    The copy drops a ``forward`` that an earlier trainer put on the instance: it is bound to the
    original, whose weights are about to change.
    """
    if not isinstance(model, PreTrainedModel) or is_deepspeed_zero3_enabled():
        return None
    reference = copy.deepcopy(model)
    if not hasattr(reference, "_hf_hook"):
        reference.__dict__.pop("forward", None)
    return reference.eval().requires_grad_(False)


def require_pad_token(tokenizer: PreTrainedTokenizerBase) -> None:
    """Padding is masked, so the end token may serve; without either there is nothing to use."""
    if tokenizer.pad_token is not None:
        return
    if tokenizer.eos_token is None:
        raise WRPOError("the tokenizer has neither a pad nor an eos token; set tokenizer.pad_token")
    logger.warning("the tokenizer has no pad token; its eos token pads (padding is masked)")
    tokenizer.pad_token = tokenizer.eos_token
