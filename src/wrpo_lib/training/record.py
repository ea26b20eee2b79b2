"""The record of one training run, ``run.json``: what was run on what, and how far it came.

It is written before training and completed after it. A resumed run is compared with it, so that a
folder never holds half of one run and half of another.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from transformers import PretrainedConfig

from wrpo_lib.errors import WRPOError
from wrpo_lib.io import file_hash, write_json
from wrpo_lib.recipes import Recipe
from wrpo_lib.records import provenance
from wrpo_lib.training.checks import batch, last_checkpoint, rows_a_step
from wrpo_lib.training.inputs import locate

SCHEMA = 1
FILE = "run.json"
WEIGHTS = ("*.safetensors", "*.gguf", "*.bin")

MACHINE = (
    "output_dir", "save_", "logging_", "log_", "report_to", "run_name", "disable_tqdm", "eval_",
    "dataloader_", "push_to_hub", "hub_", "dynamics_file", "ref_cache_dir", "dataset_num_proc",
    "per_device_", "gradient_accumulation_steps", "activation_checkpointing",
)  # fmt: skip
"""Training fields (by their beginning) that may change on resume: the steps stay the same. Of the
batch, only the rows of one step count."""


def describe(recipe: Recipe, args: Any, config: PretrainedConfig, rows: int) -> dict[str, Any]:
    """The record of a run about to start."""
    return {
        "schema": SCHEMA,
        "status": "running",
        "recipe": f"{recipe.profile}/{recipe.name}",
        "settings": {
            "stage": recipe.stage,
            "model": _model(recipe, config),
            "data": {
                "file": recipe.data,
                "rows": rows,
                "sha256": file_hash(Path(str(recipe.data))),
            },
            "rows_a_step": rows_a_step(args),
            "lora": recipe.lora,
            "load": recipe.load,
            "quantization": recipe.quantization,
            "training": {"seed": args.seed, **recipe.training},
        },
        "batch": batch(args),
        "parallel": str(args.distributed_state.distributed_type.value)
        if args.distributed_state
        else "NO",
        "devices": devices(),
        **provenance(),
        "arguments": args.to_sanitized_dict(),
    }


def _model(recipe: Recipe, config: PretrainedConfig) -> dict[str, Any]:
    """Name and hub revision of a model, or the hashes of a local one's weights."""
    place, where = locate(recipe)
    folder, revision = Path(place), getattr(config, "_commit_hash", None)
    if not folder.is_dir():
        return {"name": recipe.model, "revision": revision}
    names = [where["gguf_file"]] if where else [p.name for w in WEIGHTS for p in folder.glob(w)]
    files = {
        name: file_hash(folder / name) for name in sorted(names) if name != "training_args.bin"
    }
    return {"name": recipe.model, "sha256": files}


def devices() -> list[str]:
    """The GPUs of this node, or the CPU."""
    if not torch.cuda.is_available():
        return ["cpu"]
    return [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]


def start(folder: Path, record: dict[str, Any], resume: bool) -> Path | None:
    """Write the record of a run; the checkpoint to resume from, or None for a fresh run.

    A resumed run keeps what the record said of its parts so far under ``earlier``. Every process
    checks, the main one writes.

    :raises WRPOError: for a fresh run over another's checkpoints or model, and for a resume of
        nothing or of a run with other settings, with the first difference.
    """
    checkpoint, old = check_folder(folder, record, resume)
    if checkpoint is not None:
        part = {key: old.get(key) for key in ("commit", "written", "versions", "devices", "batch")}
        record["earlier"] = [*old.get("earlier", []), part]
    if PartialState().is_main_process:
        try:
            write_json(folder / FILE, record)
        except OSError as error:
            raise WRPOError(
                f"{folder} cannot be written ({error.strerror}); give another --output_dir"
            ) from error
    return checkpoint


def check_folder(
    folder: Path, record: dict[str, Any], resume: bool
) -> tuple[Path | None, dict[str, Any]]:
    """The checkpoint to go on from, if any, and the record it belongs to."""
    checkpoint, old = last_checkpoint(folder), _read(folder)
    if not resume:
        if checkpoint is not None or old.get("status") == "finished":
            raise WRPOError(
                f"{folder} holds a run already; pass --resume to go on with it, or another "
                "--output_dir"
            )
        return None, {}
    if checkpoint is None:
        raise WRPOError(
            f"{folder} holds no whole checkpoint to resume from; start without --resume"
        )
    if not old:
        raise WRPOError(
            f"{folder} holds checkpoints but no {FILE} that says what they are of; start anew in "
            "another --output_dir"
        )
    for name, before, now in differences(old.get("settings", {}), record["settings"]):
        raise WRPOError(
            f"{folder} was started with {name} {before!r}, this run has {now!r}; resume with the "
            "same recipe, or start anew in another --output_dir"
        )
    return checkpoint, old


def _read(folder: Path) -> dict[str, Any]:
    path = folder / FILE
    if not path.is_file():
        return {}
    try:
        record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise WRPOError(
            f"{path} is not JSON ({error.msg}); delete the run or restore it"
        ) from error
    return record


def differences(old: dict[str, Any], new: dict[str, Any]) -> list[tuple[str, Any, Any]]:
    """Settings that change the trajectory, before and now, by dotted name."""
    before, now = _flat(old), _flat(new)
    return [
        (name, before.get(name), now.get(name))
        for name in sorted({*before, *now})
        if before.get(name) != now.get(name)
    ]


def _flat(settings: dict[str, Any]) -> dict[str, Any]:
    """One level of names; paths count by content, so a moved file is the same data."""
    flat: dict[str, Any] = {}
    for name, value in json.loads(json.dumps(settings)).items():
        if not isinstance(value, dict):
            flat[name] = value
            continue
        for key, inner in value.items():
            local_name = key in ("file", "name") and "sha256" in value
            if not local_name and not (name == "training" and key.startswith(MACHINE)):
                flat[f"{name}.{key}"] = inner
    return flat


def finish(folder: Path, record: dict[str, Any], **outcome: Any) -> None:
    """Complete the record of a run."""
    write_json(folder / FILE, {**record, "status": "finished", **outcome})
