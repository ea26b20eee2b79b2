"""The forward pass of a batch: which way it is computed, and the log-probabilities it gives."""

from __future__ import annotations

from typing import Any

from accelerate.logging import get_logger
from accelerate.utils import broadcast_object_list
from torch import Tensor
from transformers.integrations import is_deepspeed_zero3_enabled

from wrpo_lib import sharing
from wrpo_lib.errors import WRPOError
from wrpo_lib.training.config import WRPOConfig

logger = get_logger(__name__)


def prepare_models(models: list[Any], args: WRPOConfig, obstacle: str | None) -> bool:
    """Prepare policy and reference for the way ``args.share_prompt`` asks for; do prompts share?

    ``obstacle`` is what speaks against it beyond the models themselves. The main process decides,
    since others may hold empty weights until they are sharded.

    :raises WRPOError: where sharing is demanded and cannot be had.
    """
    backend = args.share_prompt_backend
    if args.share_prompt != "false":
        for model in models:  # under ZeRO-3 the weights are elsewhere; a reference is as the policy
            trial = model is models[0] and not is_deepspeed_zero3_enabled()
            obstacle = obstacle or sharing.obstacle(model, args.max_length, backend, trial=trial)
        obstacle = broadcast_object_list([obstacle])[0]
        if obstacle is None:
            for model in models:
                sharing.enable(model, backend)
            return True
        if args.share_prompt == "true":
            raise WRPOError(f"prompts cannot be shared: {obstacle}; set share_prompt to auto")
        logger.warning(f"prompts are not shared: {obstacle}; every response gets a row of its own")
    return False


def response_logps(
    model: Any, inputs: dict[str, Any], *, head_at_responses: bool = True, **kwargs: Any
) -> tuple[Tensor, Any]:
    """log π(y|x) of a batch's responses, (B, R), and the model's output, through TRL's fused head.

    ``inputs`` is a packed batch or a padded one (:mod:`wrpo_lib.training.collator`).
    """
    lengths = inputs["lengths"]
    if "branches" in inputs:
        outputs = model(
            **sharing.model_inputs(inputs), shift_labels=inputs["shift_labels"],
            fused_lm_head=True, **kwargs,
        )  # fmt: skip
        return sharing.response_sums(outputs.log_probs, lengths), outputs
    kwargs |= {"attention_mask": inputs["attention_mask"], "use_cache": False}
    if not head_at_responses:
        labels = inputs["input_ids"].masked_fill(inputs["completion_mask"] == 0, -100)
        outputs = model(input_ids=inputs["input_ids"], labels=labels, fused_lm_head=True, **kwargs)
        return outputs.log_probs.sum(dim=1).view(lengths.shape[1], -1).T, outputs
    outputs = model(
        input_ids=inputs["input_ids"], head_positions=inputs["head_positions"],
        shift_labels=inputs["shift_labels"], fused_lm_head=True, **kwargs,
    )  # fmt: skip
    return sharing.response_sums(outputs.log_probs, lengths.T).T, outputs
