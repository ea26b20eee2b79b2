"""What can be known to be wrong before a model is loaded."""

from __future__ import annotations

import json
from importlib.util import find_spec
from inspect import signature
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import DistributedType
from peft import LoraConfig
from peft.tuners.tuners_utils import check_target_module_exists
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, PretrainedConfig
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR
from transformers.utils import is_torch_bf16_gpu_available

from wrpo_lib.errors import WRPOError
from wrpo_lib.recipes import ACCELERATE, Recipe, nearest

SHARDED = (DistributedType.DEEPSPEED, DistributedType.FSDP)
"""ZeRO and FSDP keep a float32 copy of 16-bit weights; one device and DDP do not."""


def check_device(recipe: Recipe) -> None:
    """bf16, 4 bits and other attention kernels need hardware or packages; say so at once."""
    if recipe.training.get("bf16") and not is_torch_bf16_gpu_available():
        found = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
        raise WRPOError(
            f"{recipe.where} trains in bf16, which this machine cannot ({found}); pass --bf16 "
            "false --load.dtype float32, or rehearse the recipe with --rehearse"
        )
    _check_quantization(recipe)
    if recipe.load.get("attn_implementation") == "flash_attention_2" and not find_spec(
        "flash_attn"
    ):
        raise WRPOError(
            f"{recipe.where} asks for flash_attention_2, which needs the package flash-attn; "
            "install it, or pass --load.attn_implementation sdpa"
        )


def check_fields(recipe: Recipe) -> None:
    """Fields under ``quantization`` and ``lora`` that their classes have."""
    for name, fields in (("quantization", BitsAndBytesConfig), ("lora", LoraConfig)):
        known = sorted(signature(fields).parameters)
        for key in getattr(recipe, name) or {}:
            if key not in known:
                raise WRPOError(
                    f"{recipe.where}: unknown key {key!r} under `{name}`; {nearest(key, known)}"
                )


def _check_quantization(recipe: Recipe) -> None:
    """An adapter to train beside quantised weights, and the package."""
    check_fields(recipe)
    if not recipe.quantization:
        return
    if not recipe.lora:
        raise WRPOError(
            f"{recipe.where} quantises the model and trains it in full, which cannot be; add `lora`"
        )
    if find_spec("bitsandbytes") is None:
        raise WRPOError(
            f"{recipe.where} quantises the base model, which needs the package bitsandbytes; "
            'pip install -e ".[gpu]", or rehearse the recipe with --rehearse'
        )


def notes(recipe: Recipe, args: Any) -> list[str]:
    """What is allowed but seldom meant."""
    found = []
    state = args.distributed_state
    shards = state is not None and state.distributed_type in SHARDED
    if not recipe.lora and not shards and recipe.load.get("dtype") in ("bfloat16", "float16"):
        found.append(
            f"weights are trained in {recipe.load['dtype']}, which rounds small updates away; "
            "load them in float32 (bf16 then only computes)"
        )
    if recipe.launch and args.world_size == 1:
        found.append(
            "the recipe is written for accelerate launch --config_file "
            f"recipes/accelerate/{recipe.launch}.yaml -m wrpo_lib.cli; this is one process"
        )
    if torch.cuda.device_count() > 1 and args.world_size == 1:
        found.append("one GPU of several is used; accelerate launch starts a process for each")
    return found


def check_launch(recipe: Recipe, args: Any) -> None:
    """Merging loads the base model in one process, which DeepSpeed forbids: it partitions."""
    state = args.distributed_state
    deepspeed = state is not None and state.distributed_type == DistributedType.DEEPSPEED
    if recipe.merge and deepspeed:
        raise WRPOError(
            f"{recipe.where} merges its adapter, which cannot be done under DeepSpeed; start it "
            f"with recipes/{ACCELERATE}/ddp.yaml"
        )


def check_rows(rows: int, args: Any, where: str, what: str = "rows") -> None:
    """At least one optimiser step's worth of rows."""
    step = rows_a_step(args)
    if rows < step:
        raise WRPOError(
            f"{where}: the data hold {rows} {what}, fewer than one step of {batch(args)}; give "
            "more data or lower --gradient_accumulation_steps"
        )


def rows_a_step(args: Any) -> int:
    """Rows of one optimiser step, over all devices."""
    return int(args.train_batch_size * args.gradient_accumulation_steps * args.world_size)


def batch(args: Any) -> str:
    """The arithmetic of a step's rows."""
    processes = "1 process" if args.world_size == 1 else f"{args.world_size} processes"
    return (
        f"{rows_a_step(args)} ({args.train_batch_size} per device x "
        f"{args.gradient_accumulation_steps} accumulation x {processes})"
    )


def lora_config(recipe: Recipe) -> LoraConfig | None:
    """peft's configuration of a recipe's ``lora``; None for full fine-tuning."""
    if not recipe.lora:
        return None
    check_fields(recipe)
    return LoraConfig(**{"task_type": "CAUSAL_LM", **recipe.lora})


def check_lora(recipe: Recipe, config: PretrainedConfig) -> None:
    """Each name in ``target_modules`` is a module of the model, built without weights."""
    lora = lora_config(recipe)
    targets = lora.target_modules if lora else None
    if lora is None or not targets or targets == "all-linear":
        return
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    modules = dict(model.named_modules())
    for target in [targets] if isinstance(targets, str) else sorted(targets):
        lora.target_modules = target if isinstance(targets, str) else {target}
        if not any(check_target_module_exists(lora, name) for name in modules):
            linear = {
                n.rpartition(".")[2] for n, m in modules.items() if isinstance(m, torch.nn.Linear)
            }
            raise WRPOError(
                f"{recipe.where}: the LoRA target module {target!r} matches nothing in "
                f"{recipe.model!r}; it has {', '.join(sorted(linear))}"
            )


def check_evaluation(recipe: Recipe) -> None:
    """Evaluation during training needs rows to evaluate on."""
    if str(recipe.training.get("eval_strategy", "no")) != "no" and not recipe.eval_data:
        raise WRPOError(
            f"{recipe.where}: eval_strategy is {recipe.training['eval_strategy']!r} but there are "
            "no rows to evaluate on; pass --eval_data"
        )


def last_checkpoint(folder: Path) -> Path | None:
    """The newest checkpoint that was written whole: its trainer state comes last."""
    for path in sorted(
        folder.glob(f"{PREFIX_CHECKPOINT_DIR}-*"), key=checkpoint_step, reverse=True
    ):
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
