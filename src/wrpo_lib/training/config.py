"""Hyperparameters of WRPO on top of TRL's ``DPOConfig``."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from typing import Any

from trl import DPOConfig

from wrpo_lib.errors import WRPOError
from wrpo_lib.objective import SCHEDULES, Weights, fusion_weights
from wrpo_lib.sharing import BACKENDS

SOURCE_FIELD = re.compile(r"source_chosen(_([2-9]|[1-9][0-9]+))?")
OBJECTIVES = ("dpo", "ipo", "simpo")
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
    - ``source_weights``: shares of the source responses in alpha, by name, for data with more than
      one (:func:`wrpo_lib.objective.fusion_weights`); None, the paper's, is all for
      ``source_chosen``. A response without a share is left alone.
    - ``alpha_rejected``: weight of the dispreferred source response ``source_rejected`` on the
      rejected side, rising as alpha does; 0, the paper's, leaves it alone.
    - ``score_unused``: compute the log-probabilities of a response whose weight is 0 all along
      (y_ws when alpha is 0, y_wt when it is a constant 1) for the metrics. They are a third of the
      tokens and the loss does not need them: turn it off for DPO runs whose dynamics of the unused
      response nobody will look at.
    - ``share_prompt``: ``auto`` computes a prompt once for all its responses where the model can
      (:mod:`wrpo_lib.sharing`) and says in one line of the log where it cannot; ``true`` makes that
      an error; ``false`` computes a padded row a response.
    - ``share_prompt_backend``: attention of shared prompts, ``sdpa`` (runs everywhere) or ``flex``
      (FlexAttention, on GPU).
    - ``head_at_responses``: without sharing, run the output head where a response token is
      predicted and nowhere else; off, TRL's head decides (off GPU, all positions). The results are
      the same: it is there to measure what it saves.
    - ``precompute_ref_log_probs``: compute the reference's log-probabilities once, before
      training, and free the reference; off, at every step.
    - ``ref_cache_dir``: folder where they are kept, one file a reference model, for runs that share
      it (:mod:`wrpo_lib.training.reference`); None is ``reference`` in ``output_dir``. A path that
      ends in ``.jsonl`` names the file itself.
    - ``dynamics_file``: JSONL that gets one line a logged step, see
      :class:`~wrpo_lib.training.dynamics.DynamicsCallback`.

    :raises WRPOError: for a value outside its range, and for an option of the parent that WRPO
        does not support, rather than ignoring it.
    """

    _VALID_DICT_FIELDS = [*DPOConfig._VALID_DICT_FIELDS, "source_weights"]  # noqa: RUF012 - TRL's

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
    source_weights: dict[str, float] | str | None = _field(  # noqa: RUF009 - as all of them
        None, "Shares of the source responses in alpha, by name (ours; None is the paper's)."
    )
    alpha_rejected: float = _field(0.0, "Weight of source_rejected (Table 10's form is not given).")
    score_unused: bool = _field(True, "Score responses of weight 0 for the metrics (ours).")
    share_prompt: str = _field("auto", "Compute a prompt once: auto, true or false (ours).")
    share_prompt_backend: str = _field("sdpa", "Attention of shared prompts: sdpa or flex (ours).")
    head_at_responses: bool = _field(True, "Output head at response positions only (ours).")
    precompute_ref_log_probs: bool = _field(True, "Compute the reference once (ours).")
    ref_cache_dir: str | None = _field(None, "Folder or file of reference log-probabilities.")
    dynamics_file: str | None = _field(None, "JSONL file for the training dynamics.")

    def __post_init__(self) -> None:
        """Reject values without a meaning before anything is loaded."""
        if self.objective not in OBJECTIVES:
            raise WRPOError(f"unknown objective {self.objective!r}; choose {', '.join(OBJECTIVES)}")
        if self.alpha_schedule not in SCHEDULES:
            raise WRPOError(
                f"unknown alpha_schedule {self.alpha_schedule!r}; choose {', '.join(SCHEDULES)}"
            )
        if not 0.0 <= self.alpha <= 1.0:
            raise WRPOError(f"alpha is {self.alpha}, outside [0, 1]; choose a value in [0, 1]")
        for name in ("beta", "tau"):
            if not 0 < getattr(self, name) < math.inf:
                raise WRPOError(f"{name} is {getattr(self, name)}; choose a value above 0")
        if not 0 <= self.gamma < math.inf:
            raise WRPOError(f"gamma is {self.gamma}; choose a margin of 0 or more")
        self._check_lengths()
        self._check_sharing()
        self._check_unsupported()
        super().__post_init__()
        self._check_weights()  # after the parent has read JSON from the command line

    def weights(self, alpha: float, alpha_rejected: float) -> Weights:
        """Weights of all responses at one moment of the schedule."""
        shares: Any = self.source_weights
        return fusion_weights(alpha, shares, alpha_rejected)

    def responses(self) -> tuple[str, ...]:
        """Names of the responses a run computes: those with a weight, and unused ones if scored."""
        weights = self.weights(1.0, self.alpha_rejected)
        sources = [name for name, share in weights.chosen.items() if share]
        if self.alpha == 0 and not self.score_unused:
            sources = []
        constant_one = self.alpha_schedule == "constant" and self.alpha == 1
        target = [] if constant_one and not self.score_unused else ["target_chosen"]
        return (*sources, *target, *weights.rejected)

    def _check_weights(self) -> None:
        for name in self.weights(self.alpha, self.alpha_rejected).chosen:
            if name != "target_chosen" and not SOURCE_FIELD.fullmatch(name):
                raise WRPOError(
                    f"source_weights names {name!r}; name source_chosen, source_chosen_2 and so on"
                )

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
