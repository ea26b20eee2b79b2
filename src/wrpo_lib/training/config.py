"""Hyperparameters of WRPO on top of TRL's ``DPOConfig``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from trl import DPOConfig

from wrpo_lib.errors import WRPOError
from wrpo_lib.objective import (
    SCHEDULES,
    Objective,
    dpo_loss,
    ipo_loss,
    simpo_loss,
    wrpo_ipo_loss,
    wrpo_loss,
    wrpo_simpo_loss,
)
from wrpo_lib.quadruples.schema import RESPONSES
from wrpo_lib.sharing import BACKENDS

FORMS: dict[str, tuple[Callable[..., Objective], Callable[..., Objective], tuple[str, ...]]] = {
    "dpo": (dpo_loss, wrpo_loss, ("beta",)),
    "ipo": (ipo_loss, wrpo_ipo_loss, ("tau",)),
    "simpo": (simpo_loss, wrpo_simpo_loss, ("beta", "gamma")),
}
"""A form of the objective: its pairwise loss, WRPO's, and the fields both take."""

UNSUPPORTED: dict[str, tuple[Any, ...]] = {
    "loss_type": ("sigmoid", ["sigmoid"]),  # `objective` says the form
    **dict.fromkeys(("loss_weights", "ld_alpha", "pad_token"), (None,)),
    **dict.fromkeys(("use_weighting", "padding_free", "sync_ref_model"), (False,)),
    "f_divergence_type": ("reverse_kl",),
    "label_smoothing": (0.0,),
    "truncation_mode": ("keep_start",),
    "train_sampling_strategy": ("random", "sequential"),  # others need one length per row
}
"""Parent fields that WRPO gives no other meaning to, with the values they may have."""

CHOICES: dict[str, tuple[Any, ...]] = {
    "objective": tuple(FORMS),
    "alpha_schedule": tuple(SCHEDULES),
    "share_prompt": ("auto", "true", "false"),
    "share_prompt_backend": tuple(BACKENDS),
    **UNSUPPORTED,
}


def _field(default: Any, help_text: str) -> Any:
    return field(default=default, metadata={"help": help_text})


@dataclass
class WRPOConfig(DPOConfig):
    """Arguments of :class:`~wrpo_lib.training.WRPOTrainer`; defaults are the paper's.

    Every field of TRL's ``DPOConfig`` and of ``TrainingArguments`` is there too. The defaults are
    those of WRPO in its DPO form; Table 6 has for IPO tau 0.01, learning rate 1e-6; for SimPO beta
    10, gamma 0, alpha 0.5, learning rate 6e-7. SimPO has no reference model.

    Alpha is the weight of the source response in [0, 1]: 0 is DPO on (y_wt, y_l), 1 is DPO on
    (y_ws, y_l); :func:`wrpo_lib.objective.alpha_at` has the schedules. Higher ``beta`` and ``tau``
    keep the policy closer to the reference; in the simpo form ``beta`` sharpens.

    A prompt is cut to its last ``max_prompt_length`` tokens when prompt and response together
    exceed ``max_length``; then each response is cut on its own to what is left. A response of
    weight 0 all along costs a third of the tokens: ``score_unused=False`` leaves it out.
    ``share_prompt`` computes prompts once where the model can (``auto``), or it is an error
    (``true``); see :mod:`wrpo_lib.sharing`.

    :raises WRPOError: for a value or an option of the parent that has no meaning here.
    """

    objective: str = _field("dpo", "Form of the loss: dpo, ipo or simpo.")
    alpha: float = _field(0.1, "Fusion coefficient at the end of the schedule (Table 6).")
    alpha_schedule: str = _field("linear", "How alpha rises: linear (paper), constant, quadratic.")
    beta: float = _field(0.01, "Strength of the KL constraint (Table 6).")
    tau: float = _field(0.01, "Strength of the KL constraint in the IPO form (Table 6).")
    gamma: float = _field(0.0, "Target margin of the SimPO form (Table 6).")
    max_length: int | None = _field(2048, "Tokens of prompt and response (section 4.1).")
    max_prompt_length: int | None = _field(1800, "Tokens of a cut prompt (section 4.1).")
    learning_rate: float = _field(3e-7, "Peak learning rate (Table 6).")
    lr_scheduler_type: str = _field("cosine", "Learning-rate schedule (section 4.1).")
    warmup_steps: float = _field(0.1, "Warm-up, below 1 a share of all steps (section 4.1).")
    num_train_epochs: float = _field(1.0, "Epochs (section 4.1).")
    seed: int = _field(42, "Seed of data order and initialisation (section 4.1).")
    logging_steps: float = _field(1, "Every step (ours): the dynamics are a result.")
    activation_checkpointing: bool | None = _field(
        True, "Recompute activations to save memory (TRL's default, official config)."
    )
    alpha_rejected: float = _field(0.0, "Weight of source_rejected (Table 10's form is not given).")
    score_unused: bool = _field(True, "Score responses of weight 0 for the metrics (ours).")
    share_prompt: str = _field("auto", "Compute a prompt once: auto, true or false (ours).")
    share_prompt_backend: str = _field("sdpa", "Attention of shared prompts: sdpa or flex (ours).")
    precompute_ref_log_probs: bool = _field(True, "Compute the reference once (ours).")
    ref_cache_dir: str | None = _field(None, "Reference log-probabilities; else in output_dir.")

    def __post_init__(self) -> None:
        """Reject values without a meaning before anything is loaded."""
        self.share_prompt = str(self.share_prompt).lower()  # YAML gives true and false as such
        for name, known in CHOICES.items():
            value = vars(self)[name]
            if value not in known:
                options = ", ".join(map(str, known))
                raise WRPOError(f"{name} is {value!r}, which WRPO cannot use; choose {options}")
        for name in ("alpha", "alpha_rejected"):
            if not 0.0 <= vars(self)[name] <= 1.0:
                raise WRPOError(f"{name} is {vars(self)[name]}, outside [0, 1]; lower it")
        if self.alpha_rejected and (self.objective != "dpo" or len(self.responses) != 4):
            raise WRPOError(
                "alpha_rejected belongs to the dpo form with both chosen responses; set it to 0"
            )
        if self.objective == "simpo":  # has no reference, and so TRL loads none
            self.precompute_ref_log_probs = True
        super().__post_init__()

    @property
    def responses(self) -> tuple[str, ...]:
        """Names of the responses that a run computes, chosen ones first."""
        unused = ""
        if not self.score_unused and self.alpha == 0:
            unused = "source_chosen"
        if not self.score_unused and self.alpha == 1 and self.alpha_schedule == "constant":
            unused = "target_chosen"
        extra = ("source_rejected",) if self.alpha_rejected else ()
        return (*(name for name in RESPONSES if name != unused), *extra)
