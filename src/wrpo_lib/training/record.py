"""The record of one training run, ``run.json``: what was run on what, and how far it came.

It is written before training and completed after it. A resumed run is compared with it, so that a
folder never holds half of one run and half of another.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from transformers.trainer_utils import sort_checkpoints

from wrpo_lib.errors import WRPOError
from wrpo_lib.io import file_hash
from wrpo_lib.models import locate
from wrpo_lib.recipes import Recipe
from wrpo_lib.records import provenance

RECORD = "run.json"
FREE = ("per_device_", "gradient_accumulation", "logging_", "save_", "eval_", "report_to", "ref_")
"""Training fields (by their beginning) that may change on resume: the steps stay the same."""


def last_checkpoint(folder: Path) -> Path | None:
    """The newest checkpoint that was written whole: its trainer state comes last."""
    for path in map(Path, reversed(sort_checkpoints(str(folder)))):
        try:
            json.loads((path / "trainer_state.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue  # a kill cut it short
        return path
    return None


def describe(recipe: Recipe, args: Any, rows: int) -> dict[str, Any]:
    """The record of a run about to start; ``settings`` must be the same when it is resumed."""
    training = {k: v for k, v in recipe.training.items() if not k.startswith(FREE)}
    place, gguf = locate(str(recipe.model))
    weights = sorted(Path(place).glob(gguf.get("gguf_file", "*.safetensors")))  # none of a hub id
    record = {
        "status": "running",
        "recipe": f"{recipe.profile}/{recipe.name}",
        "settings": {
            "stage": recipe.stage,
            "model": {path.name: file_hash(path) for path in weights} or recipe.model,
            "data": {"rows": rows, "sha256": file_hash(Path(str(recipe.data)))},
            "rows_per_step": rows_per_step(args),
            "lora": recipe.lora,
            "load": recipe.load,
            "quantization": recipe.quantization,
            **{f"training.{key}": value for key, value in training.items()},
            "training.seed": args.seed,
        },
        "data": recipe.data,
        "processes": args.world_size,
        "devices": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        **provenance(),
        "arguments": args.to_sanitized_dict(),
    }
    plain: dict[str, Any] = json.loads(json.dumps(record))
    return plain


def rows_per_step(args: Any) -> int:
    """Rows of one optimiser step, over all devices."""
    return int(args.train_batch_size * args.gradient_accumulation_steps * args.world_size)


def check_folder(folder: Path, record: dict[str, Any], resume: bool) -> Path | None:
    """The checkpoint to resume from, or None for a fresh run.

    :raises WRPOError: for a fresh run over another's checkpoints or model, and for a resume of
        nothing or of a run with other settings, with the first difference.
    """
    checkpoint, path = last_checkpoint(folder), folder / RECORD
    old = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    if not resume:
        if checkpoint or old.get("status") == "finished":
            raise WRPOError(f"{folder} holds a run already; pass --resume or another --output_dir")
        return None
    if not checkpoint or not old:
        raise WRPOError(f"{folder} holds no whole checkpoint to resume from; leave out --resume")
    before, now = old["settings"], record["settings"]
    for name in sorted({*before, *now}):
        if before.get(name) != now.get(name):
            raise WRPOError(
                f"{folder} was started with {name} {before.get(name)!r}, this run has "
                f"{now.get(name)!r}; resume with the same recipe, or use another --output_dir"
            )
    return checkpoint
