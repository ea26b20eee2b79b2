"""One process of the distributed tests: train the model of a folder, write its dynamics there.

``accelerate launch … distributed_run.py FOLDER [lora]``; FOLDER holds ``settings.json``, too.
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

from wrpo_lib.training import DynamicsCallback, WRPOConfig, WRPOTrainer


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


def main(folder: Path, lora: bool) -> None:
    if os.environ.get("ACCELERATE_USE_FSDP") == "true":
        allow_fsdp_on_cpu()
    trainer = WRPOTrainer(
        model=AutoModelForCausalLM.from_pretrained(folder / "model"),
        args=WRPOConfig(**json.loads((folder / "settings.json").read_text())),
        train_dataset=Dataset.from_json(str(folder / "quadruples.jsonl")),
        processing_class=AutoTokenizer.from_pretrained(folder / "model"),
        peft_config=LoraConfig(r=4, target_modules=["q_proj", "v_proj"]) if lora else None,
        callbacks=[DynamicsCallback(folder / "two.jsonl")],
    )
    trainer.train()
    if trainer.accelerator.is_main_process:
        (folder / "kind").write_text(trainer.accelerator.distributed_type.value)


if __name__ == "__main__":
    main(Path(sys.argv[1]), "lora" in sys.argv)
