"""From a recipe to a trained policy: the one code path of every profile."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from accelerate import PartialState
from accelerate.utils import DistributedType
from peft.utils.error import NoMatchingPeftModuleError
from transformers import PrinterCallback, ProgressCallback

from wrpo_lib.errors import WRPOError
from wrpo_lib.io import write_atomically, write_json
from wrpo_lib.recipes import ACCELERATE, Recipe
from wrpo_lib.training.arguments import training_arguments
from wrpo_lib.training.dynamics import DynamicsCallback, LiveLine
from wrpo_lib.training.inputs import (
    check_device,
    known_warnings,
    load_data,
    load_inputs,
    load_model,
    load_tokenizer,
    lora_config,
)
from wrpo_lib.training.record import (
    RECORD,
    batch,
    check_rows,
    checkpoint_step,
    describe,
    last_checkpoint,
    notes,
    outcome,
    start,
)
from wrpo_lib.training.sft import sft_trainer
from wrpo_lib.training.trainer import WRPOTrainer

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedModel, PreTrainedTokenizerBase, Trainer

__all__ = ["build_trainer", "last_checkpoint", "load_inputs", "run", "train"]

DYNAMICS = "dynamics.jsonl"


@known_warnings()
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

    ``data`` holds quadruples (``stage: preference``) or prompts with y_ws (``stage: sft``);
    ``extra`` are further training arguments of the machine at hand. :func:`run` does the same and
    loads, checks, records and saves around it.
    """
    args = training_arguments(recipe, output_dir, seed, **extra)
    trainer = build_trainer(recipe, args, model, tokenizer, data, dynamics_file=dynamics_file)
    checkpoint = last_checkpoint(output_dir) if resume else None
    if resume and checkpoint is None:
        raise WRPOError(f"{output_dir} holds no whole checkpoint to resume from; start afresh")
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    return trainer


def build_trainer(
    recipe: Recipe,
    args: Any,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    data: Dataset,
    eval_data: Dataset | None = None,
    dynamics_file: Path | None = None,
) -> Trainer:
    """The trainer of the recipe's stage, its bar and dynamics in place."""
    check_rows(len(data), args, recipe.where)
    make = sft_trainer if recipe.stage == "sft" else WRPOTrainer
    try:
        trainer: Trainer = make(
            model=model,
            args=args,
            train_dataset=data,
            eval_dataset=eval_data,
            processing_class=tokenizer,
            peft_config=lora_config(recipe),
        )
    except NoMatchingPeftModuleError as error:
        raise WRPOError(f"{recipe.where}, `lora`: {error}") from error
    check_rows(len(trainer.train_dataset), args, recipe.where, "blocks after packing")
    if dynamics_file is not None:
        trainer.add_callback(DynamicsCallback(dynamics_file))
    if trainer.args.disable_tqdm:
        trainer.remove_callback(PrinterCallback)  # a quiet run prints no line per step either
    else:
        trainer.remove_callback(ProgressCallback)
        trainer.add_callback(LiveLine())
    return trainer


@known_warnings()
def run(
    recipe: Recipe, output_dir: Path, *, resume: bool = False, say: Callable[[str], None] = print
) -> Trainer:
    """Everything that ``wrpo train`` and ``wrpo sft`` do with a recipe.

    What can be checked is checked before the model is loaded. ``output_dir`` gets the run record,
    the training dynamics and checkpoints while the run goes on, and at its end the model, the
    tokenizer and a model card.

    :raises WRPOError: for bad input; what stops a run says how to resume it.
    """
    began = time.perf_counter()
    check_device(recipe)
    if str(recipe.training.get("eval_strategy", "no")) != "no" and not recipe.eval_data:
        raise WRPOError(f"{recipe.where} evaluates while it trains; pass --eval_data")
    args = training_arguments(recipe, output_dir)
    state = PartialState()
    if recipe.merge and state.distributed_type == DistributedType.DEEPSPEED:
        raise WRPOError(
            f"{recipe.where} merges its adapter, which cannot be done under DeepSpeed; start it "
            f"with recipes/{ACCELERATE}/ddp.yaml"
        )
    data = load_data(recipe)
    check_rows(len(data), args, recipe.where)
    eval_data = load_data(recipe, recipe.eval_data) if recipe.eval_data else None
    tokenizer = load_tokenizer(recipe)
    with state.main_process_first():
        record = describe(recipe, args, len(data))
        checkpoint = start(output_dir, record, resume)
    say(f"{recipe.profile}/{recipe.name}: {len(data)} rows, {batch(args)} a step")
    for note in notes(recipe, args):
        say(f"note: {note}")
    dynamics = Path(getattr(args, "dynamics_file", None) or output_dir / DYNAMICS)
    args.dynamics_file = None
    model = load_model(recipe)
    trainer = build_trainer(recipe, args, model, tokenizer, data, eval_data, dynamics)
    if checkpoint:
        say(f"resuming from step {checkpoint_step(checkpoint)}")
    say(f"writing to {output_dir}; {dynamics} grows while it trains")
    fit(trainer, checkpoint, output_dir)
    save(recipe, trainer, output_dir)
    if state.is_main_process:
        seconds = round(time.perf_counter() - began, 1)
        finished = {**record, "status": "finished", "seconds": seconds, **outcome(trainer)}
        write_json(output_dir / RECORD, finished)
    say(
        f"{trainer.state.global_step} steps done; model, tokenizer, card and {RECORD}: {output_dir}"
    )
    return trainer


# --- training and saving ------------------------------------------------------------------------


def fit(trainer: Trainer, checkpoint: Path | None, output_dir: Path) -> None:
    """Train; whatever stops it leaves a note on how to go on."""
    try:
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    except KeyboardInterrupt as stop:
        raise KeyboardInterrupt(f"interrupted; {how_to_resume(output_dir)}") from stop
    except WRPOError as error:
        raise WRPOError(f"{error}; {how_to_resume(output_dir)}") from error
    except Exception as error:
        error.add_note(f"wrpo: the run stopped; {how_to_resume(output_dir)}")
        raise
    finally:
        for callback in trainer.callback_handler.callbacks:
            if isinstance(callback, LiveLine) and callback.training_bar is not None:
                callback.training_bar.close()  # so that what follows stands on its own line


def how_to_resume(output_dir: Path) -> str:
    """What to type after a run has stopped, and what was lost."""
    checkpoint = last_checkpoint(output_dir)
    if checkpoint is None:
        return (
            f"no checkpoint had been written to {output_dir}; start again, with a smaller "
            "--save_steps to lose less"
        )
    step = checkpoint_step(checkpoint)
    return f"add --resume to the same command to go on from step {step} ({checkpoint})"


def save(recipe: Recipe, trainer: Trainer, output_dir: Path) -> None:
    """Model or adapter, tokenizer, TRL's model card; merged if the recipe says so."""
    state = PartialState()
    target = output_dir / "adapter" if recipe.merge else output_dir
    trainer.save_model(str(target))
    (target / "training_args.bin").unlink(missing_ok=True)  # a pickle; run.json says the same
    if recipe.merge and state.is_main_process:
        merge(recipe, target, output_dir)
    if state.is_main_process:
        trainer.processing_class.save_pretrained(output_dir)
        trainer.create_model_card(model_name=f"{recipe.profile}-{recipe.name}")
        card = output_dir / "README.md"  # TRL links a hub page, which a local model does not have
        text = card.read_text(encoding="utf-8").replace('model="None"', f'model="{output_dir}"')
        link = "[None](https://huggingface.co/None)"
        write_atomically(card, text.replace(link, f"`{recipe.model}`"))
    state.wait_for_everyone()
    if trainer.args.push_to_hub:
        trainer.push_to_hub()


def merge(recipe: Recipe, adapter: Path, output_dir: Path) -> None:
    """Write the recipe's base model, not quantised, with ``adapter`` merged into it."""
    from peft import PeftModel

    base = load_model(replace(recipe, quantization=None))
    merged = PeftModel.from_pretrained(base, str(adapter)).merge_and_unload()
    part = output_dir / "merged.part"
    merged.save_pretrained(part)
    for file in part.iterdir():
        file.replace(output_dir / file.name)
    shutil.rmtree(part)
