"""From a recipe to a trained policy: the one code path of every profile."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from wrpo_lib.errors import WRPOError
from wrpo_lib.recipes import Recipe

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedModel, PreTrainedTokenizerBase, Trainer


def training_arguments(recipe: Recipe, output_dir: Path, seed: int, **extra: Any) -> Any:
    """``SFTConfig`` or ``WRPOConfig`` of a recipe; an unknown field names the recipe."""
    import torch
    from trl import SFTConfig

    from wrpo_lib.training.config import WRPOConfig

    values = {
        "output_dir": str(output_dir),
        "seed": seed,
        "report_to": "none",
        "logging_steps": 1,
        "use_cpu": not torch.cuda.is_available(),
        "bf16": False,
        "activation_checkpointing": False,
        "dataloader_pin_memory": torch.cuda.is_available(),
        **extra,
        **recipe.training,
    }
    config = SFTConfig if recipe.stage == "sft" else WRPOConfig
    try:
        return config(**values)
    except TypeError as error:
        raise WRPOError(f"recipe {recipe.profile}/{recipe.name}: {error}; correct it") from error


def train(
    recipe: Recipe,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    data: Dataset,
    output_dir: Path,
    *,
    seed: int,
    dynamics_file: Path | None = None,
    resume: bool = False,
    **extra: Any,
) -> Trainer:
    """Train ``model`` in place by ``recipe``; returns the finished trainer.

    ``data`` holds quadruples (``stage: preference``) or prompts with y_ws (``stage: sft``).
    ``extra`` are further training arguments of the machine at hand (precision, saving).
    """
    from peft import LoraConfig

    peft = LoraConfig(task_type="CAUSAL_LM", **recipe.lora) if recipe.lora else None
    if recipe.stage == "sft":
        from wrpo_lib.training.sft import sft_trainer

        args = training_arguments(recipe, output_dir, seed, **extra)
        trainer: Trainer = sft_trainer(model, tokenizer, data, args, peft_config=peft)
    else:
        from wrpo_lib.training.trainer import WRPOTrainer

        if dynamics_file is not None:
            extra["dynamics_file"] = str(dynamics_file)
        args = training_arguments(recipe, output_dir, seed, **extra)
        trainer = WRPOTrainer(
            model=model, args=args, train_dataset=data, processing_class=tokenizer, peft_config=peft
        )
    if trainer.args.disable_tqdm:
        from transformers import PrinterCallback

        trainer.remove_callback(PrinterCallback)  # a quiet run prints no line a step either
    trainer.train(resume_from_checkpoint=resume or None)
    return trainer


def load_inputs(
    recipe: Recipe, model: str | None = None, data: str | None = None
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase, Dataset]:
    """Model, tokenizer and quadruples that a recipe names; ``model`` and ``data`` replace them.

    ``model`` is a hub id or a folder, ``data`` a file of quadruples (JSONL, parquet). This is what
    an engineer's own run starts from; on nano the testbed provides all three.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from wrpo_lib.quadruples import read_quadruples

    model, data = model or recipe.model, data or recipe.data
    where = f"recipe {recipe.profile}/{recipe.name}"
    if not model or not data:
        raise WRPOError(f"{where} names no model or no data; pass `model` and `data`")
    rows = read_quadruples(data)
    try:
        tokenizer = AutoTokenizer.from_pretrained(model)
        loaded = AutoModelForCausalLM.from_pretrained(model, **recipe.load)
    except OSError as error:
        reason = str(error).splitlines()[0]
        raise WRPOError(f"{where}: cannot load {model!r} ({reason}); check its name") from error
    if not tokenizer.chat_template:
        raise WRPOError(f"{where}: {model!r} has no chat template; use an instruct model")
    return loaded, tokenizer, rows
