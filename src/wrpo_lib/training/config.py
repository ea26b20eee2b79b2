"""Hyperparameters of WRPO on top of TRL's ``DPOConfig``."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
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
SHARING = ("auto", "true", "false")
UNSUPPORTED: dict[str, Any] = {
    "loss_type": ["sigmoid"],  # `objective` says the form
    "loss_weights": None,
    "ld_alpha": None,
    "f_divergence_type": "reverse_kl",
    "label_smoothing": 0.0,
    "use_weighting": False,
    "padding_free": False,
    "sync_ref_model": False,
    "truncation_mode": "keep_start",
    "pad_token": None,
}
"""Parent fields that WRPO gives no meaning to, with the only value they may have."""


def _field(default: Any, help_text: str) -> Any:
    return field(default=default, metadata={"help": help_text})


@dataclass
class WRPOConfig(DPOConfig):
    """Arguments of :class:`~wrpo_lib.training.WRPOTrainer`; defaults are the paper's.

    Every field of TRL's ``DPOConfig`` and of ``TrainingArguments`` is there too. The paper trains
    on batches of 128: 2 per device × 8 accumulation × 8 GPUs (facts of section 4.1), which depends
    on the machine and so belongs into a recipe.

    The defaults are those of WRPO in its DPO form. Table 6 has for the others: IPO tau 0.01,
    learning rate 1e-6; SimPO beta 10, gamma 0, alpha 0.5, learning rate 6e-7.

    - ``objective``: the form of the loss, ``dpo`` (the paper's main form), ``ipo`` or ``simpo``.
      SimPO has no reference model: none is loaded, copied or computed.
    - ``alpha``: fusion coefficient that the schedule rises to, the weight of the source response
      in [0, 1]; 0 is DPO on (y_wt, y_l), 1 is DPO on (y_ws, y_l).
    - ``alpha_schedule``: ``linear`` (the paper), ``constant``, ``quadratic``; see
      :func:`wrpo_lib.objective.alpha_at`.
    - ``beta``: of the dpo and simpo forms. Higher keeps the dpo form closer to the reference and
      sharpens the simpo form.
    - ``tau``: of the ipo form; higher keeps closer to the reference.
    - ``gamma``: target margin of the simpo form.
    - ``max_prompt_length``: tokens a prompt keeps, the last ones, when prompt and response
      together exceed ``max_length``; then each response is cut on its own to what is left.
    - ``alpha_rejected``: weight of the dispreferred source response ``source_rejected`` on the
      rejected side, rising as alpha does; 0, the paper's, leaves it alone.
    - ``score_unused``: compute the log-probabilities of a response whose weight is 0 all along
      (y_ws when alpha is 0, y_wt when it is a constant 1) for the metrics. They are a third of the
      tokens and the loss does not need them: turn it off for DPO runs whose dynamics of the unused
      response nobody will look at.
    - ``share_prompt``: ``auto`` computes a prompt once for all its responses where the model can
      (:mod:`wrpo_lib.sharing`) and says in one line of the log where it cannot; ``true`` makes that
      an error; ``false`` computes a padded row per response.
    - ``share_prompt_backend``: attention of shared prompts, ``sdpa`` (runs everywhere) or ``flex``
      (FlexAttention, on GPU).
    - ``precompute_ref_log_probs``: compute the reference's log-probabilities once, before
      training, and free the reference; off, at every step.
    - ``ref_cache_dir``: folder in which TRL keeps them, for runs that share data and reference;
      None is ``reference`` in ``output_dir``.
    - ``dynamics_file``: JSONL that gets one line a logged step, see
      :class:`~wrpo_lib.training.dynamics.DynamicsCallback`.

    :raises WRPOError: for a value outside its range, and for an option of the parent that WRPO
        does not support, rather than ignoring it.
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
    ref_cache_dir: str | None = _field(None, "Folder or file of reference log-probabilities.")
    dynamics_file: str | None = _field(None, "JSONL file for the training dynamics.")

    def __post_init__(self) -> None:
        """Reject values without a meaning before anything is loaded."""
        if self.objective not in FORMS:
            raise WRPOError(f"unknown objective {self.objective!r}; choose {', '.join(FORMS)}")
        if self.alpha_schedule not in SCHEDULES:
            raise WRPOError(
                f"unknown alpha_schedule {self.alpha_schedule!r}; choose {', '.join(SCHEDULES)}"
            )
        for name in ("alpha", "alpha_rejected"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise WRPOError(f"{name} is {getattr(self, name)}, outside [0, 1]; lower it")
        if self.alpha_rejected and (self.objective != "dpo" or len(self.responses) != 4):
            raise WRPOError(
                "alpha_rejected belongs to the dpo form with both chosen responses; set it to 0"
            )
        for name in ("beta", "tau"):
            if not 0 < getattr(self, name) < math.inf:
                raise WRPOError(f"{name} is {getattr(self, name)}; choose a value above 0")
        if not 0 <= self.gamma < math.inf:
            raise WRPOError(f"gamma is {self.gamma}; choose a margin of 0 or more")
        self._check_lengths()
        self._check_sharing()
        self._check_unsupported()
        if self.objective == "simpo":  # has no reference, and so TRL loads none
            self.precompute_ref_log_probs = True
        super().__post_init__()

    @property
    def responses(self) -> tuple[str, ...]:
        """Names of the responses a run computes, chosen ones first."""
        return computed_responses(vars(self))

    def _check_sharing(self) -> None:
        self.share_prompt = str(self.share_prompt).lower()  # YAML gives true and false as such
        for name, known in (("share_prompt", SHARING), ("share_prompt_backend", BACKENDS)):
            if getattr(self, name) not in known:
                raise WRPOError(
                    f"unknown {name} {getattr(self, name)!r}; choose {', '.join(known)}"
                )

    def _check_lengths(self) -> None:
        for name in ("max_length", "max_prompt_length"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise WRPOError(f"{name} is {value}; choose at least 1 token, or None for no limit")
        limits = (self.max_prompt_length, self.max_length)
        if None not in limits and self.max_prompt_length >= self.max_length:  # type: ignore[operator]
            raise WRPOError(
                f"max_prompt_length {self.max_prompt_length} leaves no room for a response in "
                f"max_length {self.max_length}; lower it"
            )

    def _check_unsupported(self) -> None:
        values = self.__dict__
        if isinstance(values["loss_type"], str):
            values["loss_type"] = [values["loss_type"]]
        for name, only in UNSUPPORTED.items():
            if values[name] != only:
                raise WRPOError(
                    f"{name}={values[name]!r} has no meaning for WRPO; leave it at {only!r}"
                )
        if self.train_sampling_strategy not in ("random", "sequential"):
            raise WRPOError(
                f"train_sampling_strategy={self.train_sampling_strategy!r} needs one length a row, "
                "but a quadruple has three; choose 'random' or 'sequential'"
            )


def computed_responses(fields: Mapping[str, Any]) -> tuple[str, ...]:
    """The responses that a run with these fields of :class:`WRPOConfig` computes, chosen first.

    One whose weight is 0 all along is left out unless it is scored for the metrics.
    """
    unused = ""
    if not fields.get("score_unused", True) and fields.get("alpha") == 0:
        unused = "source_chosen"
    elif not fields.get("score_unused", True) and fields.get("alpha") == 1:
        unused = "target_chosen" if fields.get("alpha_schedule") == "constant" else ""
    extra = ("source_rejected",) if fields.get("alpha_rejected") else ()
    return (*(name for name in RESPONSES if name != unused), *extra)
