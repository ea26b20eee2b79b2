"""From a recipe to a trained policy: the one code path of every profile, and a dry run of it."""

import json
import math
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from peft import PeftModel
from transformers.trainer_utils import sort_checkpoints

from wrpo_lib.errors import WRPOError
from wrpo_lib.io import Store, file_hash, write_atomically, write_json, write_rows
from wrpo_lib.models import build_model, build_tokenizer, load_tokenizer, locate
from wrpo_lib.recipes import Recipe, named
from wrpo_lib.records import provenance
from wrpo_lib.training.callbacks import DynamicsCallback, NothingLeft, show_progress
from wrpo_lib.training.inputs import load_data, load_model, lora_config, training_arguments
from wrpo_lib.training.trainer import WRPOTrainer, sft_trainer

RECORD = "run.json"
FREE: tuple[str, ...] = ("per_device_", "gradient_accumulation", "micro_batch_", "report_to")
FREE += ("logging_", "save_", "eval_", "ref_", "hub_")
"""Prefixes of training fields that may change on resume, since the steps stay the same."""
ROWS = 32  # of a dry run, as what follows
SMALL: dict[str, Any] = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2}
SMALL |= {"max_length": 128, "max_steps": 3, "save_steps": 1, "optim": "adamw_torch"}
SMALL["use_cpu"] = True
MODEL = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
MODEL |= {"num_attention_heads": 4, "num_key_value_heads": 2}


def run(
    recipe: Recipe, output_dir: Path, *, resume: bool = False, say: Callable[[str], None] = print
) -> Any:
    """What ``wrpo train`` and ``wrpo sft`` do with a recipe; returns the finished trainer.

    ``output_dir`` gets run record, dynamics and checkpoints; at the end model, tokenizer and card.

    :raises WRPOError: for bad input, in one sentence that begins with the recipe.
    """
    with named(recipe):
        args, state = training_arguments(recipe, output_dir), PartialState()
        given: dict[str, Any] = {"args": args, "peft_config": lora_config(recipe)}
        given["train_dataset"] = data = load_data(recipe)
        given["eval_dataset"] = load_data(recipe, recipe.eval_data) if recipe.eval_data else None
        given["processing_class"] = load_tokenizer(recipe.model or "")
        given["callbacks"] = [DynamicsCallback(output_dir / "dynamics.jsonl")]
        record = describe(recipe, args, len(data))
    lock = Store(output_dir / ".lock.jsonl", ()) if state.is_main_process else nullcontext()
    with lock, _going_on(output_dir):
        with named(recipe), state.main_process_first():
            checkpoint = check_folder(output_dir, record, resume)
            if state.is_main_process:
                write_json(output_dir / RECORD, record)
        parts = args.train_batch_size, args.gradient_accumulation_steps, args.world_size
        batch = "per device {} x accumulation {} x processes {}".format(*parts)
        say(f"{record['recipe']}: {len(data)} rows, {math.prod(parts)} per step ({batch})")
        say(f"resuming from {checkpoint}" if checkpoint else f"writing to {output_dir}")
        with named(recipe):
            model = load_model(recipe)
            trainer: Any = (sft_trainer if recipe.stage == "sft" else WRPOTrainer)(model, **given)
        live = show_progress(trainer)
        try:
            trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        except NothingLeft:
            say("nothing was left to train")
        finally:
            if live.training_bar is not None:
                live.training_bar.close()  # so that what follows stands on its own line
        steps = trainer.state.global_step
        save(recipe, trainer, output_dir)
        if state.is_main_process:
            record |= {"status": "finished", "steps": steps, "truncation": trainer.truncation}
            record["log"] = trainer.state.log_history[-2:]
            record["revision"] = getattr(model.config, "_commit_hash", None)  # from the hub
            write_json(output_dir / RECORD, record)
    say(f"{steps} steps done; model, tokenizer, card, record: {output_dir}")
    return trainer


@contextmanager
def _going_on(folder: Path) -> Iterator[None]:
    """Say how to resume with any exception that stops a run."""
    try:
        yield
    except (Exception, KeyboardInterrupt) as stop:
        found = last_checkpoint(folder)
        how = f"add --resume to the same command to go on from {found}" if found else "start again"
        if isinstance(stop, KeyboardInterrupt):
            raise KeyboardInterrupt(f"interrupted; {how}") from stop
        stop.add_note(f"wrpo: the run stopped; {how}")
        raise


def save(recipe: Recipe, trainer: Any, output_dir: Path) -> None:
    """Model or adapter, tokenizer, TRL's model card; merged if the recipe says so."""
    state, merge = PartialState(), recipe.merge and recipe.lora
    target = output_dir / "adapter" if merge else output_dir
    trainer.save_model(str(target))
    if state.is_main_process:
        (target / "training_args.bin").unlink(missing_ok=True)  # a pickle; run.json says the same
        if merge:  # into the base, not quantised
            base = load_model(replace(recipe, quantization=None))
            PeftModel.from_pretrained(base, target).merge_and_unload().save_pretrained(output_dir)
        trainer.processing_class.save_pretrained(output_dir)
        trainer.create_model_card(model_name=f"{recipe.profile}-{recipe.name}")
        card = output_dir / "README.md"  # TRL links a hub page, which a local model does not have
        text = card.read_text(encoding="utf-8").replace('model="None"', f'model="{output_dir}"')
        link = "[None](https://huggingface.co/None)"
        write_atomically(card, text.replace(link, f"`{recipe.model}`"))
    state.wait_for_everyone()
    if trainer.args.push_to_hub:
        trainer.push_to_hub()


def last_checkpoint(folder: Path) -> Path | None:
    """The newest checkpoint that was written whole: its trainer state comes last."""
    for path in map(Path, reversed(sort_checkpoints(str(folder)))):
        with suppress(OSError, ValueError):  # a kill cut it short
            json.loads((path / "trainer_state.json").read_text(encoding="utf-8"))
            return path
    return None


def describe(recipe: Recipe, args: Any, rows: int) -> dict[str, Any]:
    """The record of a run about to start; ``settings`` must be the same when it is resumed."""
    fixed = {k: getattr(args, k) for k in recipe.training if not k.startswith(FREE)}
    place, gguf = locate(str(recipe.model))
    weights = sorted(Path(place).glob(gguf.get("gguf_file", "*.safetensors")))  # none of a hub id
    same = {
        "model": {path.name: file_hash(path) for path in weights} or recipe.model,
        "data": {"rows": rows, "sha256": file_hash(Path(str(recipe.data)))},
        "rows_per_step": args.train_batch_size * args.gradient_accumulation_steps * args.world_size,
        **{name: getattr(recipe, name) for name in ("stage", "lora", "quantization")},
        "load": {key: value for key, value in recipe.load.items() if key != "token"},
        **{f"training.{key}": value for key, value in {**fixed, "seed": args.seed}.items()},
    }
    record: dict[str, Any] = {
        "status": "running",
        "recipe": f"{recipe.profile}/{recipe.name}",
        "settings": same,
        "devices": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        **provenance(),
        "arguments": args.to_sanitized_dict(),  # without tokens
    }
    return dict(json.loads(json.dumps(record, default=str)))  # as it is read again


def check_folder(folder: Path, record: dict[str, Any], resume: bool) -> Path | None:
    """The checkpoint to resume from, None for a fresh run; refuses to mix a run with another."""
    checkpoint, path = last_checkpoint(folder), folder / RECORD
    old = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    if not resume and (checkpoint or old.get("status") == "finished"):
        raise WRPOError(f"{folder} holds a run already; pass --resume or another --output_dir")
    if not resume:
        return None
    if not checkpoint or not old:
        raise WRPOError(f"{folder} holds no whole checkpoint to resume from; leave out --resume")
    for name in sorted({*old["settings"], *record["settings"]}):
        was, given = (made["settings"].get(name) for made in (old, record))
        if was != given:
            what = f"was started with {name} {was!r}, this run has {given!r}; resume with the same"
            raise WRPOError(f"{folder} {what} recipe, or use another --output_dir")
    return checkpoint


def dry_run(recipe: Recipe, output_dir: Path | None, say: Callable[[str], None]) -> Any:
    """Run ``recipe`` in small, nothing downloaded, in a temporary folder or ``output_dir``."""
    with tempfile.TemporaryDirectory() as folder:
        if recipe.data and Path(recipe.data).is_file():
            with named(recipe):
                say(f"dry run: {recipe.data} has {len(load_data(recipe))} good rows")
        sizes = ", ".join(f"{name} {value}" for name, value in SMALL.items())
        say(f"dry run: a random {recipe.architecture} in float32, {ROWS} invented rows, {sizes}")
        out = output_dir or Path(folder) / "out"
        small = shrink(recipe, Path(folder))
        trainer = run(small, out, say=lambda line: say(line.replace(folder, "TEMPORARY")))
        load_model(replace(small, model=str(out)))
        losses = [round(row["loss"], 4) for row in trainer.state.log_history if "loss" in row]
        say(f"dry run of {recipe.where}: losses {losses}, saved model loads again")
    return trainer


def shrink(recipe: Recipe, folder: Path) -> Recipe:
    """The recipe on a tiny model and few rows, which are written to ``folder``."""
    rows, model, tokenizer = folder / "rows.jsonl", folder / "model", build_tokenizer([])
    made = []
    for n in range(ROWS):
        row = {"prompt_id": f"dry-run-{n}", "prompt": f"What is {n} plus {n + 3}?"}
        row["source_chosen"] = f"The sum of {n} and {n + 3} is {2 * n + 3}."
        row["target_chosen"] = f"It is {2 * n + 3}."
        made.append({**row, "rejected": f"It is {2 * n}."})
    write_rows(made, rows)
    tokenizer.save_pretrained(model)
    with named(recipe):
        shape = {"model_type": recipe.architecture, **MODEL}
        build_model(shape, tokenizer, seed=0).save_pretrained(model)
    training = {**recipe.training, **SMALL}
    if recipe.stage == "preference":
        training |= {"max_prompt_length": 64, "ref_cache_dir": None}
    changes: dict[str, Any] = {"model": str(model), "data": str(rows), "training": training}
    changes |= {"eval_data": str(rows) if recipe.eval_data else None}
    return replace(recipe, **changes, load={"dtype": "float32"}, quantization=None)
