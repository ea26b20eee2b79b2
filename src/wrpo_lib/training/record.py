"""The record of one training run, ``run.json``: what was run on what, and how far it came.

It is written before training and completed after it. A resumed run is compared with it, so that a
folder never holds half of one run and half of another.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from accelerate import PartialState
from accelerate.utils import DistributedType
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from wrpo_lib.errors import WRPOError
from wrpo_lib.io import file_hash, write_json
from wrpo_lib.models import locate
from wrpo_lib.recipes import Recipe
from wrpo_lib.records import provenance
from wrpo_lib.training.inputs import load_config, model_name

if TYPE_CHECKING:
    from transformers import Trainer

RECORD = "run.json"
FREE = (
    "output_dir",
    "save_",
    "logging_",
    "report_to",
    "eval_",
    "dataloader_",
    "ref_cache_dir",
    "dynamics_file",
    "per_device_",
    "gradient_accumulation_steps",
    "activation_checkpointing",
)
"""Training fields (by their beginning) that may change on resume: the steps stay the same."""


def rows_per_step(args: Any) -> int:
    """Rows of one optimiser step, over all devices."""
    return int(args.train_batch_size * args.gradient_accumulation_steps * args.world_size)


def batch(args: Any) -> str:
    """The arithmetic of a step's rows."""
    processes = "1 process" if args.world_size == 1 else f"{args.world_size} processes"
    return (
        f"{rows_per_step(args)} ({args.train_batch_size} per device x "
        f"{args.gradient_accumulation_steps} accumulation x {processes})"
    )


def check_rows(rows: int, args: Any, where: str, what: str = "rows") -> None:
    """At least one optimiser step's worth of rows."""
    if rows < rows_per_step(args):
        raise WRPOError(
            f"{where}: the data hold {rows} {what}, fewer than one step of {batch(args)}; give "
            "more data or lower --gradient_accumulation_steps"
        )


def last_checkpoint(folder: Path) -> Path | None:
    """The newest checkpoint that was written whole: its trainer state comes last."""
    found = folder.glob(f"{PREFIX_CHECKPOINT_DIR}-*")
    for path in sorted(found, key=checkpoint_step, reverse=True):
        try:
            json.loads((path / "trainer_state.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue  # a kill cut it short
        return path
    return None


def checkpoint_step(path: Path) -> int:
    """Optimiser steps done at a checkpoint, by its name; -1 for a folder of another kind."""
    step = path.name.rpartition("-")[2]
    return int(step) if step.isdigit() else -1


def notes(recipe: Recipe, args: Any) -> list[str]:
    """What is allowed but seldom meant."""
    found = []
    sharded = PartialState().distributed_type in (DistributedType.DEEPSPEED, DistributedType.FSDP)
    if not recipe.lora and not sharded and recipe.load.get("dtype") in ("bfloat16", "float16"):
        found.append(
            f"weights are trained in {recipe.load['dtype']}, which rounds small updates away; "
            "load them in float32 (bf16 then only computes)"
        )
    if recipe.launch and args.world_size == 1:
        found.append(
            "the recipe is written for accelerate launch --config_file "
            f"recipes/accelerate/{recipe.launch}.yaml -m wrpo_lib.cli; this is one process"
        )
    return found


def describe(recipe: Recipe, args: Any, rows: int) -> dict[str, Any]:
    """The record of a run about to start; ``settings`` must be the same when it is resumed."""
    training = {k: v for k, v in recipe.training.items() if not k.startswith(FREE)}
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    record = {
        "status": "running",
        "recipe": f"{recipe.profile}/{recipe.name}",
        "settings": {
            "stage": recipe.stage,
            "model": _model(recipe),
            "data": {"rows": rows, "sha256": file_hash(Path(str(recipe.data)))},
            "rows_per_step": rows_per_step(args),
            "lora": recipe.lora,
            "load": recipe.load,
            "quantization": recipe.quantization,
            **{f"training.{key}": value for key, value in training.items()},
            "training.seed": args.seed,
        },
        "data": recipe.data,
        "batch": batch(args),
        "parallel": PartialState().distributed_type.value,
        "devices": gpus or ["cpu"],
        **provenance(),
        "arguments": args.to_sanitized_dict(),
    }
    plain: dict[str, Any] = json.loads(json.dumps(record))
    return plain


def _model(recipe: Recipe) -> dict[str, Any]:
    """Name and hub revision of a model, or the hashes of a local one's weights."""
    place, gguf = locate(model_name(recipe))
    folder = Path(place)
    if not folder.is_dir():
        return {
            "name": recipe.model,
            "revision": getattr(load_config(recipe), "_commit_hash", None),
        }
    files = [folder / gguf["gguf_file"]] if gguf else sorted(folder.glob("*.safetensors"))
    return {"sha256": {path.name: file_hash(path) for path in files}}


def start(folder: Path, record: dict[str, Any], resume: bool) -> Path | None:
    """Write the record of a run; the checkpoint to resume from, or None for a fresh run.

    :raises WRPOError: for a fresh run over another's checkpoints or model, and for a resume of
        nothing or of a run with other settings, with the first difference.
    """
    checkpoint, path = last_checkpoint(folder), folder / RECORD
    old = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    if not resume and (checkpoint is not None or old.get("status") == "finished"):
        raise WRPOError(
            f"{folder} holds a run already; pass --resume to go on with it, or another --output_dir"
        )
    if resume and (checkpoint is None or not old):
        raise WRPOError(
            f"{folder} holds no whole checkpoint to resume from; start without --resume"
        )
    before, now = old.get("settings", {}), record["settings"]
    for name in sorted({*before, *now}) if resume else []:
        if before.get(name) != now.get(name):
            raise WRPOError(
                f"{folder} was started with {name} {before.get(name)!r}, this run has "
                f"{now.get(name)!r}; resume with the same recipe, or start anew in another "
                "--output_dir"
            )
    if resume:
        part = {key: old.get(key) for key in ("commit", "written", "versions", "devices", "batch")}
        record["earlier"] = [*old.get("earlier", []), part]
    if PartialState().is_main_process:
        try:
            write_json(path, record)
        except OSError as error:
            raise WRPOError(
                f"{folder} cannot be written ({error.strerror}); give another --output_dir"
            ) from error
    return checkpoint if resume else None


def outcome(trainer: Trainer) -> dict[str, Any]:
    """What a finished run adds to its record."""
    history = trainer.state.log_history
    steps = [row for row in history if "loss" in row]
    return {
        "steps": trainer.state.global_step,
        "truncation": trainer.truncation,
        "last_step": steps[-1] if steps else {},
        "last_evaluation": next((r for r in reversed(history) if "eval_loss" in r), None),
    }
