"""One process of the distributed tests: train the model of a folder, write its dynamics there.

``accelerate launch … distributed_run.py FOLDER NAME PER_DEVICE [lora]``
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import DistributedType
from datasets import Dataset
from peft import LoraConfig
from transformers import AutoModelForCausalLM, AutoTokenizer

from wrpo_lib.training.config import WRPOConfig
from wrpo_lib.training.trainer import WRPOTrainer


def allow_fsdp_on_cpu() -> None:
    """Accelerate turns FSDP on for GPUs and their like only; FSDP2 itself runs on gloo too."""
    ordinary = AcceleratorState.__init__

    def init(self: Any, *args: Any, fsdp_plugin: Any = None, **kwargs: Any) -> None:
        ordinary(self, *args, fsdp_plugin=fsdp_plugin, **kwargs)
        if fsdp_plugin is not None:
            self.fsdp_plugin = fsdp_plugin
            self.distributed_type = DistributedType.FSDP
            PartialState._shared_state["distributed_type"] = DistributedType.FSDP

    AcceleratorState.__init__ = init


def main(folder: Path, name: str, per_device: int, lora: bool) -> None:
    if os.environ.get("ACCELERATE_USE_FSDP") == "true":
        allow_fsdp_on_cpu()
    args = WRPOConfig(
        output_dir=str(folder / name),
        dynamics_file=str(folder / f"{name}.jsonl"),
        per_device_train_batch_size=per_device,
        max_steps=4,
        learning_rate=1e-2,
        warmup_steps=0,
        beta=0.5,
        alpha=0.5,
        max_length=64,
        max_prompt_length=32,
        report_to="none",
        use_cpu=True,
        bf16=False,
        activation_checkpointing=False,
        save_strategy="no",
        disable_tqdm=True,
        dataloader_pin_memory=False,
        seed=7,
        share_prompt=True,
    )
    trainer = WRPOTrainer(
        model=AutoModelForCausalLM.from_pretrained(folder / "model"),
        args=args,
        train_dataset=Dataset.from_json(str(folder / "quadruples.jsonl")),
        processing_class=AutoTokenizer.from_pretrained(folder / "model"),
        peft_config=LoraConfig(r=4, target_modules=["q_proj", "v_proj"]) if lora else None,
    )
    trainer.train()
    kind = trainer.accelerator.distributed_type.value
    if trainer.accelerator.is_main_process:
        wrapped = type(trainer.model_wrapped).__name__
        (folder / f"{name}.json").write_text(json.dumps({"kind": kind, "model": wrapped}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), "lora" in sys.argv)
