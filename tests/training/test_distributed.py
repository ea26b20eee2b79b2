"""Two processes give the losses of one, under DDP and under FSDP2 (gloo, on CPU)."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from commandline import HANGS
from datasets import Dataset
from peft import LoraConfig
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from wrpo_lib.training.trainer import WRPOTrainer

SCRIPT = Path(__file__).with_name("distributed_run.py")
SOURCE = Path(__file__).parents[2] / "src"
LAUNCH = """-m accelerate.commands.launch --num_machines 1 --num_processes 2 --mixed_precision no
--dynamo_backend no --main_process_ip 127.0.0.1"""
KINDS = {
    "MULTI_CPU": "--multi_gpu",  # DDP; accelerate finds no GPU and takes gloo
    "FSDP": """--use_fsdp --fsdp_version 2 --fsdp_cpu_ram_efficient_loading false
    --fsdp_auto_wrap_policy TRANSFORMER_BASED_WRAP
    --fsdp_transformer_layer_cls_to_wrap LlamaDecoderLayer""",
}


def free_port() -> str:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return str(found.getsockname()[1])


@pytest.mark.parametrize(
    ("kind", "tuning"),
    [
        ("MULTI_CPU", "full"),
        ("FSDP", "full"),
        pytest.param("FSDP", "lora", marks=pytest.mark.slow),
    ],
)
def test_two_processes_give_the_losses_of_one(
    trainer: Callable[..., WRPOTrainer],
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    quadruples: Dataset,
    settings: dict[str, Any],
    tmp_path: Path,
    kind: str,
    tuning: str,
) -> None:
    """As recipes are launched: the launcher, the trainer, shared prompts, the reference once."""
    peft = LoraConfig(r=4, target_modules=["q_proj", "v_proj"]) if tuning == "lora" else None
    common = {"alpha": 0.5, "share_prompt": True}
    trainer(
        dynamics_file=tmp_path / "one.jsonl",
        per_device_train_batch_size=4,
        peft_config=peft,
        **common,
    ).train()
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    quadruples.to_json(tmp_path / "quadruples.jsonl")
    (tmp_path / "settings.json").write_text(json.dumps({**settings, **common}))
    launch = f"{LAUNCH} --main_process_port {free_port()} {KINDS[kind]}".split()
    done = subprocess.run(
        [sys.executable, *launch, str(SCRIPT), str(tmp_path), tuning],
        env={**os.environ, "PYTHONPATH": str(SOURCE), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=HANGS,
    )
    assert done.returncode == 0, done.stderr[-6000:]
    assert (tmp_path / "kind").read_text() == kind
    one, two = (
        [json.loads(line) for line in (tmp_path / f"{name}.jsonl").read_text().splitlines()]
        for name in ("one", "two")
    )
    assert len(one) == len(two) == 4
    assert one[0]["loss"] - one[-1]["loss"] > 0.01, "nothing was learned, so nothing was compared"
    for alone, together in zip(one, two, strict=True):
        for key in ("loss", "grad_norm", "alpha", "rewards/margins", "logps/rejected", "tokens"):
            assert together[key] == pytest.approx(alone[key], rel=1e-4, abs=1e-5), key
