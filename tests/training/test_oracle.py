"""The official trainer's recorded trajectory, reproduced through WRPOTrainer.

The oracle was recorded with the official code and its pinned versions (trl 0.9.6) on
SmolLM2-135M-Instruct; the same weights come from a package here, so nothing is downloaded.
"""

import copy
import functools
import gzip
import json
from pathlib import Path
from typing import Any

import gguf
import pytest
import torch
from datasets import Dataset

from wrpo_lib.models import load_tokenizer, load_trainable
from wrpo_lib.quadruples.schema import RESPONSES
from wrpo_lib.training import DynamicsCallback, WRPOConfig, WRPOTrainer

NAMES = dict(zip(("y_ws", "y_wt", "y_l"), RESPONSES, strict=True))


@pytest.fixture(scope="module")
def smollm2(smollm2_file: Path) -> Any:
    """SmolLM2-135M-Instruct in float32 and its tokenizer, from the installed package."""
    path = str(smollm2_file)
    with pytest.MonkeyPatch.context() as patch:  # else the file is parsed three times
        for name in ("GGUFReader", "get_tensor_name_map"):
            patch.setattr(gguf, name, functools.cache(getattr(gguf, name)))
        return load_trainable(path, dtype=torch.float32), load_tokenizer(path)


def train(
    smollm2: Any, shared: Path, tmp_path: Path, name: str, sharing: bool
) -> tuple[list, list]:
    """Our steps and the recorded ones."""
    oracle = json.loads((shared / "oracle" / f"{name}.json").read_text())
    settings, steps = oracle["config"], oracle["steps"]
    with gzip.open(shared / "oracle" / f"{name}.jsonl.gz", "rt") as file:
        rows = [json.loads(line) for line in file][: len(steps) * settings["batch"]]
    data = Dataset.from_list(rows).rename_columns(NAMES).select_columns(["prompt", *RESPONSES])
    model, tokenizer = copy.deepcopy(smollm2[0]), smollm2[1]
    same = ("beta", "alpha", "max_length", "max_prompt_length", "max_grad_norm")
    off = ("bf16", "activation_checkpointing", "dataloader_pin_memory")
    args = WRPOConfig(
        output_dir=str(tmp_path),
        per_device_train_batch_size=settings["batch"],
        learning_rate=settings["lr"],
        **{name: settings[name] for name in same},
        **dict.fromkeys(off, False),
        lr_scheduler_type="constant",
        warmup_steps=0,
        train_sampling_strategy="sequential",
        use_cpu=True,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        share_prompt=sharing,
    )
    written = DynamicsCallback(tmp_path / "dynamics.jsonl")
    given = {"train_dataset": data, "processing_class": tokenizer, "callbacks": [written]}
    trainer = WRPOTrainer(model, args=args, **given)
    assert trainer.truncation["train"].report() == f"nothing truncated in {len(rows)} rows"
    for row, made in zip(rows, trainer.train_dataset, strict=True):
        lengths = [len(made[f"{name}_ids"]) for name in ("prompt", *RESPONSES)]
        assert lengths == [row[f"n_{k}"] for k in ("prompt", "ws", "wt", "l")]
    assert trainer.shares_prompts is sharing
    trainer.train()
    ours = [json.loads(line) for line in (tmp_path / "dynamics.jsonl").read_text().splitlines()]
    return ours, steps


def assert_same_steps(
    ours: list[dict[str, float]], steps: list[dict[str, Any]], loss: float = 2e-6
) -> None:
    """Far tighter than the 1e-4 and 1e-3 asked for: at this learning rate rewards are about 1e-4.

    Largest deviations measured: losses 2e-6, rewards 4e-6; relative, log-probabilities 5e-6 and
    gradient norms 1e-5. The order of additions is the processor's.
    """
    assert len(ours) == len(steps)
    # "chosen" is the fused reward; official pivot_accuracies compares unrelated rows
    names = ("source_chosen", "target_chosen", "rejected", "margins")
    rewards = {"fused": "chosen", **{name: name for name in names}}
    responses = {"source_chosen": "source", "target_chosen": "target", "rejected": "rejected"}
    for mine, theirs in zip(ours, steps, strict=True):
        assert mine["alpha"] == pytest.approx(theirs["alpha"], abs=1e-12)
        assert mine["loss"] == pytest.approx(theirs["loss"], abs=loss)
        for name, official in rewards.items():
            assert mine[f"rewards/{name}"] == pytest.approx(theirs[f"rewards/{official}"], abs=5e-6)
        for name in ("accuracies", "source_accuracies"):
            assert mine[f"rewards/{name}"] == theirs[f"rewards/{name}"]
        for name, official in responses.items():
            recorded = theirs[f"policy_{official}"]
            mean = sum(recorded) / len(recorded)
            assert mine[f"logps/{name}"] == pytest.approx(mean, rel=3e-5)
        assert mine["grad_norm"] == pytest.approx(theirs["grad_norm"], rel=1e-4)
    margins = [sum(step["rewards/margins"] for step in run) / len(run) for run in (ours, steps)]
    assert abs(margins[0] - margins[1]) < 2e-6, "the deviations lean to one side"


# that padded rows give what shared prompts give is tested on tiny models too
WAYS = [True, pytest.param(False, marks=pytest.mark.slow)]


@pytest.mark.parametrize("sharing", WAYS, ids=["shared", "padded"])
def test_short_trajectory(smollm2: Any, shared: Path, tmp_path: Path, sharing: bool) -> None:
    assert_same_steps(*train(smollm2, shared, tmp_path, "short", sharing))


@pytest.mark.slow
@pytest.mark.parametrize("sharing", [True, False], ids=["shared", "padded"])
def test_ordinary_trajectory(smollm2: Any, shared: Path, tmp_path: Path, sharing: bool) -> None:
    assert_same_steps(*train(smollm2, shared, tmp_path, "ordinary", sharing), loss=5e-6)
