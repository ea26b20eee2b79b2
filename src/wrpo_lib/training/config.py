"""Hyperparameters of WRPO on top of TRL's ``DPOConfig``."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from trl import DPOConfig

from wrpo_lib.errors import WRPOError
from wrpo_lib.objective import SCHEDULES

OBJECTIVES = ("dpo", "ipo", "simpo")
UNSUPPORTED = {
    "loss_type": ["sigmoid"],
    "loss_weights": None,
    "ld_alpha": None,
    "f_divergence_type": "reverse_kl",
    "label_smoothing": 0.0,
    "use_weighting": False,
    "padding_free": False,
    "sync_ref_model": False,
    "truncation_mode": "keep_start",
}
"""``DPOConfig`` fields that WRPO gives no meaning to, with the only value they may have."""


@dataclass
class WRPOConfig(DPOConfig):
    """Arguments of :class:`~wrpo_lib.training.WRPOTrainer`; defaults are the paper's.

    ``objective``: the form of the loss, ``dpo`` (the paper's main form), ``ipo`` or ``simpo``.
    ``alpha``: fusion coefficient at the end of training, the weight of the source response;
    0 is DPO on the target's own pairs, 1 is DPO on (y_ws, y_l).
    ``alpha_schedule``: ``linear`` (the paper), ``constant``, ``quadratic``.
    ``beta``: of the dpo and simpo forms; higher keeps closer to the reference (simpo: sharpens).
    ``tau``: of the ipo form; higher keeps closer to the reference. ``gamma``: target margin of
    the simpo form. ``max_prompt_length``: tokens a prompt keeps, from the right, when prompt and
    response together exceed ``max_length``. ``dynamics_file``: JSONL of per-step metrics.
    """

    objective: str = field(default="dpo", metadata={"help": "Form of the loss: dpo, ipo, simpo."})
    alpha: float = field(default=0.1, metadata={"help": "Final fusion coefficient (Table 6)."})
    alpha_schedule: str = field(default="linear", metadata={"help": "How alpha rises (paper: linear)."})
    beta: float = field(default=0.01, metadata={"help": "KL strength (Table 6)."})
    tau: float = field(default=0.01, metadata={"help": "KL strength of the IPO form (Table 6)."})
    gamma: float = field(default=0.0, metadata={"help": "Target margin, SimPO form (Table 6)."})
    max_length: int | None = field(default=2048, metadata={"help": "Tokens of prompt and response."})
    max_prompt_length: int | None = field(default=1800, metadata={"help": "Tokens of a cut prompt."})
    learning_rate: float = field(default=3e-7, metadata={"help": "Peak learning rate (Table 6)."})
    lr_scheduler_type: str = field(default="cosine", metadata={"help": "Paper, training details."})
    warmup_steps: float = field(default=0.1, metadata={"help": "Share of steps (paper)."})
    num_train_epochs: float = field(default=1.0, metadata={"help": "Paper, training details."})
    logging_steps: float = field(default=1, metadata={"help": "Every step: the dynamics are the point."})
    dynamics_file: str | None = field(default=None, metadata={"help": "Where to write dynamics."})

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
            if not getattr(self, name) > 0:
                raise WRPOError(f"{name} is {getattr(self, name)}; choose a value above 0")
        if isinstance(self.loss_type, str):
            self.loss_type = [self.loss_type]
        for name, only in UNSUPPORTED.items():
            value: Any = getattr(self, name)
            if value != only:
                raise WRPOError(f"{name}={value!r} has no meaning for WRPO; leave it at {only!r}")
        super().__post_init__()
