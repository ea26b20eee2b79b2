"""From a recipe to a trained policy: the one code path of every profile."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from accelerate import PartialState
from transformers import PrinterCallback, ProgressCallback

from wrpo_lib.errors import WRPOError
from wrpo_lib.io import write_atomically
from wrpo_lib.recipes import Recipe
from wrpo_lib.training.arguments import training_arguments
from wrpo_lib.training.checks import (
    batch,
    check_device,
    check_evaluation,
    check_launch,
    check_lora,
    check_rows,
    checkpoint_step,
    last_checkpoint,
    lora_config,
    notes,
)
from wrpo_lib.training.dynamics import DynamicsCallback, LiveLine
from wrpo_lib.training.inputs import (
    known_warnings,
    load_config,
    load_data,
    load_model,
    load_tokenizer,
)
from wrpo_lib.training.record import FILE, describe, finish, start
from wrpo_lib.training.sft import sft_trainer
from wrpo_lib.training.trainer import WRPOTrainer

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedModel, PreTrainedTokenizerBase, Trainer

DYNAMICS = "dynamics.jsonl"


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
    eval_data: Dataset | None = None,
    **extra: Any,
) -> Trainer:
    """Train ``model`` in place by ``recipe``; returns the finished trainer.

    ``data`` holds quadruples (``stage: preference``) or prompts with y_ws (``stage: sft``).
    ``extra`` are further training arguments of the machine at hand (precision, saving). The
    command ``wrpo train`` does the same and loads, checks, records and saves around it: see
    :func:`run`.

    :raises WRPOError: for fewer rows than one optimiser step, or a resume of nothing.
    """
    args = training_arguments(recipe, output_dir, seed, **extra)
    trainer = build_trainer(recipe, args, model, tokenizer, data, eval_data, dynamics_file)
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
    peft = lora_config(recipe)
    if recipe.stage == "sft":
        trainer: Trainer = sft_trainer(model, tokenizer, data, args, peft, eval_data)
    else:
        trainer = WRPOTrainer(
            model=model,
            args=args,
            train_dataset=data,
            eval_dataset=eval_data,
            processing_class=tokenizer,
            peft_config=peft,
        )
    check_rows(len(trainer.train_dataset), args, recipe.where, "blocks after packing")
    if dynamics_file is not None:
        trainer.add_callback(DynamicsCallback(dynamics_file))
    if trainer.args.disable_tqdm:
        trainer.remove_callback(PrinterCallback)  # a quiet run prints no line a step either
    else:
        trainer.remove_callback(ProgressCallback)
        trainer.add_callback(LiveLine())
    return trainer


def load_inputs(
    recipe: Recipe, model: str | None = None, data: str | None = None
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase, Dataset]:
    """Model, tokenizer and quadruples that a recipe names; ``model`` and ``data`` replace them.

    ``model`` is a hub id, a folder or a GGUF file, ``data`` a file of quadruples (JSONL, parquet).
    This is what an engineer's own run starts from; on nano the testbed provides all three.
    """
    recipe = replace(recipe, model=model or recipe.model, data=data or recipe.data)
    check_device(recipe)
    rows, tokenizer = load_data(recipe), load_tokenizer(recipe)
    return load_model(recipe), tokenizer, rows


@known_warnings()
def run(
    recipe: Recipe,
    output_dir: Path,
    *,
    resume: bool = False,
    say: Callable[[str], None] = print,
) -> Trainer:
    """Everything that ``wrpo train`` and ``wrpo sft`` do with a recipe.

    What can be checked is checked before the model is loaded. ``output_dir`` gets the run record,
    the training dynamics and checkpoints while the run goes on, and at its end the model, the
    tokenizer and a model card.

    :raises WRPOError: for bad input; for a crash that can be resumed, the crash itself, with a
        note that says how.
    """
    began = time.perf_counter()
    check_device(recipe)
    check_evaluation(recipe)
    args = training_arguments(recipe, output_dir)
    check_launch(recipe, args)
    data = load_data(recipe)
    check_rows(len(data), args, recipe.where)
    eval_data = load_data(recipe, recipe.eval_data) if recipe.eval_data else None
    tokenizer, config = load_tokenizer(recipe), load_config(recipe)
    check_lora(recipe, config)
    with PartialState().main_process_first():
        record = describe(recipe, args, config, len(data))
        checkpoint = start(output_dir, record, resume)
    say(f"{recipe.profile}/{recipe.name}: {len(data)} rows, {batch(args)} a step")
    dynamics = getattr(args, "dynamics_file", None) or output_dir / DYNAMICS
    args.dynamics_file = None
    trainer = build_trainer(
        recipe, args, load_model(recipe), tokenizer, data, eval_data, Path(dynamics)
    )
    for note in notes(recipe, args):
        say(f"note: {note}")
    if checkpoint:
        say(f"resuming from step {checkpoint_step(checkpoint)}")
    say(f"writing to {output_dir}; {dynamics} grows while it trains")
    fit(trainer, checkpoint, output_dir)
    save(recipe, trainer, output_dir)
    if PartialState().is_main_process:
        finish(output_dir, record, **outcome(trainer, time.perf_counter() - began))
    say(f"{trainer.state.global_step} steps done; model, tokenizer, card and {FILE}: {output_dir}")
    return trainer


def fit(trainer: Trainer, checkpoint: Path | None, output_dir: Path) -> None:
    """Train; whatever stops it leaves a note on how to go on."""
    try:
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    except KeyboardInterrupt as stop:
        raise KeyboardInterrupt(f"interrupted; {how_to_resume(output_dir)}") from stop
    except WRPOError as error:
        if "checkpoint" in str(error):
            raise  # it says itself where to go on
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
    """Model or adapter as safetensors, tokenizer, model card; merged where the recipe says so."""
    main = PartialState().is_main_process
    target = output_dir / "adapter" if recipe.merge else output_dir
    trainer.save_model(str(target))
    (target / "training_args.bin").unlink(missing_ok=True)  # a pickle; run.json says the same
    if recipe.merge and main:
        merge(recipe, target, output_dir)
    if main:
        trainer.processing_class.save_pretrained(output_dir)
        write_card(recipe, trainer, output_dir)
    PartialState().wait_for_everyone()
    if trainer.args.push_to_hub:
        trainer.push_to_hub()


def write_card(recipe: Recipe, trainer: Trainer, output_dir: Path) -> None:
    """TRL's model card, which links hub pages, corrected for a model and data that have none."""
    trainer.create_model_card(model_name=f"{recipe.profile}-{recipe.name}")
    path = output_dir / "README.md"
    text = path.read_text(encoding="utf-8")
    text = text.replace("[None](https://huggingface.co/None)", f"`{recipe.model}`")
    text = text.replace('model="None"', f'model="{output_dir}"')
    text += (
        f"\n## This run\n\nRecipe `{recipe.profile}/{recipe.name}`, data `{recipe.data}`. `{FILE}` "
        f"has every setting, hash and version, `{DYNAMICS}` a line a step.\n"
    )
    write_atomically(path, text)


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


def outcome(trainer: Trainer, seconds: float) -> dict[str, Any]:
    """What a finished run adds to its record."""
    history = trainer.state.log_history
    steps = [row for row in history if "loss" in row]
    return {
        "steps": trainer.state.global_step,
        "seconds": round(seconds, 1),
        "truncation": _plain(trainer.truncation),
        "last_step": steps[-1] if steps else {},
        "last_evaluation": next((r for r in reversed(history) if "eval_loss" in r), None),
    }


def _plain(truncation: Any) -> Any:
    return {k: _plain(v) if isinstance(v, dict) else v for k, v in dict(truncation).items()}
