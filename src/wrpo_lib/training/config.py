"""What a recipe sets: WRPO's hyperparameters on top of TRL's ``DPOConfig``, adapter and model."""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import yaml
from accelerate import PartialState
from peft import LoraConfig
from transformers import BitsAndBytesConfig
from trl import DPOConfig, SFTConfig

from wrpo_lib import models
from wrpo_lib.errors import WRPOError
from wrpo_lib.objective import FORMS, SCHEDULES
from wrpo_lib.quadruples.schema import RESPONSES
from wrpo_lib.recipes import MAPPINGS, Recipe, checked, nearest
from wrpo_lib.sharing import BACKENDS

UNSUPPORTED: dict[str, tuple[Any, ...]] = {
    "loss_type": ("sigmoid", ["sigmoid"]),  # `objective` says the form
    **dict.fromkeys(("loss_weights", "ld_alpha", "pad_token"), (None,)),
    "pad_to_multiple_of": ("auto", None),
    **dict.fromkeys(("use_weighting", "padding_free", "sync_ref_model"), (False,)),
    "f_divergence_type": ("reverse_kl",),
    "label_smoothing": (0.0,),
    "truncation_mode": ("keep_start",),
    "train_sampling_strategy": ("random", "sequential"),  # others need one length per row
}
"""Parent fields that WRPO gives no other meaning to, with the values they may have."""
CHOICES = {
    **{"objective": tuple(FORMS), "alpha_schedule": SCHEDULES, "share_prompt_backend": BACKENDS},
    **{"share_prompt": ("auto", "true", "false"), **UNSUPPORTED},
}


@dataclass
class WRPOConfig(DPOConfig):
    """Arguments of :class:`~wrpo_lib.training.WRPOTrainer`, with those of TRL's ``DPOConfig``.

    Alpha is the weight of the source response in [0, 1], see :mod:`wrpo_lib.objective`. Higher
    ``beta`` and ``tau`` keep the policy closer to the reference; in the simpo form, which has none,
    ``beta`` sharpens. Where a prompt and a response exceed ``max_length`` tokens, the prompt is cut
    to its last ``max_prompt_length``, then each response to what is left. Defaults are the paper's
    for the DPO form; ``recipes/paper`` has those of the others.

    :raises WRPOError: for a value or an option of the parent that has no meaning here.
    """

    objective: str = "dpo"  # form of the loss
    alpha: float = 0.1  # Table 6; at the end of the schedule
    alpha_schedule: str = "linear"  # section 4.1
    beta: float = 0.01  # Table 6
    tau: float = 0.01  # Table 6, IPO
    gamma: float = 0.0  # Table 6, the target margin of SimPO
    max_length: int | None = 2048  # section 4.1
    max_prompt_length: int | None = 1800  # section 4.1
    learning_rate: float = 3e-7  # Table 6
    lr_scheduler_type: str = "cosine"  # section 4.1
    warmup_steps: float = 0.1  # section 4.1; below 1 a share of all steps
    num_train_epochs: float = 1.0  # section 4.1
    seed: int = 42  # section 4.1; data order and initialisation
    logging_steps: float = 1  # ours: the dynamics are a result
    activation_checkpointing: bool | None = True  # official config, as TRL's default
    alpha_rejected: float = 0.0  # ours; weight of source_rejected, for Table 10
    score_unused: bool = True  # ours; False leaves a response out that has weight 0 all along
    share_prompt: str | bool = "auto"  # ours; where the model can, true: or an error
    share_prompt_backend: str = "auto"  # ours; see wrpo_lib.sharing
    micro_batch_tokens: int | None = None  # ours; of the parts in which a batch meets the model
    precompute_ref_log_probs: bool = True  # ours: once, not in every step
    ref_cache_dir: str | None = None  # ours; where reference log-probabilities go, or output_dir

    def __post_init__(self) -> None:
        """Reject values without a meaning before anything is loaded."""
        self.share_prompt = str(self.share_prompt).lower()  # YAML gives true and false as such
        for name, known in CHOICES.items():
            if (value := vars(self)[name]) not in known:
                choices = ", ".join(map(str, known))
                raise WRPOError(f"{name} is {value!r}, which WRPO cannot use; choose {choices}")
        for name in ("alpha", "alpha_rejected"):
            if not 0.0 <= vars(self)[name] <= 1.0:
                raise WRPOError(f"{name} is {vars(self)[name]}, outside [0, 1]; lower it")
        if self.micro_batch_tokens is not None and self.micro_batch_tokens < 1:
            raise WRPOError("micro_batch_tokens is below 1; raise it, or leave it out (null)")
        if self.alpha_rejected and self.objective != "dpo":
            raise WRPOError("alpha_rejected belongs to the dpo form; set it to 0")
        super().__post_init__()

    @property
    def responses(self) -> tuple[str, ...]:
        """Names of the responses that a run computes, chosen ones first."""
        names = [*RESPONSES, *(["source_rejected"] if self.alpha_rejected else [])]
        if not self.score_unused and self.alpha == 0:
            names.remove("source_chosen")
        if not self.score_unused and self.alpha == 1 and self.alpha_schedule == "constant":
            names.remove("target_chosen")
        return tuple(names)


SECRET = re.compile(
    r'("(?:[^"]*(?:(?:hub|auth|access|api)_(?:token|key)|password|secret)|(?:[^"]*\.)?token)": )'
    r'("(?:[^"\\]|\\.)*")'
)
"""A key of JSON whose value nobody may read, and the value."""


@contextmanager
def named(recipe: Recipe) -> Iterator[None]:
    """What a library cannot do with a recipe, as one sentence that begins with the recipe."""
    try:
        yield
    except Exception as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
        if reason.startswith(recipe.where):
            raise
        for _, secret in SECRET.findall(json.dumps(vars(recipe), default=str)):
            reason = reason.replace(json.loads(secret), "***")
        remedy = "" if isinstance(error, WRPOError) else "; correct it, or try it with --dry-run"
        raise WRPOError(f"{recipe.where}: {reason}{remedy}") from error


def override(recipe: Recipe, words: list[str]) -> Recipe:
    """``recipe`` with command-line ``words`` in place of its values.

    ``--beta 1`` and ``beta=1`` set fields of ``training``, ``--lora.r 8`` those of other mappings.
    """
    rest = [f"--{word}" if "=" in word and not word.startswith("-") else word for word in words]
    changes: dict[str, Any] = {}
    while rest:
        option, given, value = rest.pop(0).partition("=")
        if not given:
            value = rest.pop(0) if rest and not rest[0].startswith("--") else "true"
        section, _, key = option.removeprefix("--").replace("-", "_").rpartition(".")
        section = section or "training"
        if not option.startswith("--") or section not in MAPPINGS:
            raise WRPOError(f"unknown option {option!r}; {nearest(section, MAPPINGS)}")
        values = changes.setdefault(section, dict(getattr(recipe, section) or {}))
        text = section == "training" and not value.startswith(("[", "{"))
        with named(recipe):
            values[key] = value if text else yaml.safe_load(value)
    return replace(recipe, **changes)


def settings(recipe: Recipe) -> tuple[type, dict[str, Any]]:
    """``SFTConfig`` or ``WRPOConfig``, and the recipe's ``training`` in the types of its fields."""
    kind = SFTConfig if recipe.stage == "sft" else WRPOConfig
    return kind, checked(kind, recipe.training, recipe.where, "training.")


def training_arguments(recipe: Recipe, output_dir: Path) -> Any:
    """``SFTConfig`` or ``WRPOConfig`` of a recipe."""
    cuda = torch.cuda.is_available()
    values = {"seed": 42, "report_to": "none", "logging_steps": 1, "bf16": False}  # section 4.1
    values |= {
        "dataloader_pin_memory": cuda,
        "use_cpu": not cuda,
        "activation_checkpointing": False,
    }
    kind, own = settings(recipe)
    args = kind(**{**values, **own, "output_dir": str(output_dir)})
    if args.n_gpu > 1:  # transformers would wrap the model in DataParallel; accelerate has better
        args._n_gpu = 1
    return args


def lora_config(recipe: Recipe) -> LoraConfig | None:
    """peft's configuration of a recipe's ``lora``; None for full fine-tuning."""
    if not recipe.lora:
        return None
    values = checked(LoraConfig, recipe.lora, recipe.where, "lora.")
    return LoraConfig(**{"task_type": "CAUSAL_LM", **values})


def load_model(recipe: Recipe) -> Any:
    """The model, ready to train, with the recipe's ``load`` and ``quantization``."""
    options: dict[str, Any] = dict(recipe.load)
    if recipe.quantization:  # every process holds the whole model, on its own GPU
        options["device_map"] = {"": PartialState().local_process_index}
        options["quantization_config"] = BitsAndBytesConfig(**recipe.quantization)
    return models.load_trainable(recipe.model or "", **options)
