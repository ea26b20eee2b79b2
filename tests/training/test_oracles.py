"""Losses are those of others: TRL's own trainer on pairs, and the official code's recorded run.

With alpha fixed at an end, WRPO is DPO on pairs. The trajectory was recorded with the official code
and its pinned versions (trl 0.9.6) on SmolLM2-135M-Instruct, which a package carries.
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
from peft import LoraConfig
from trl import DPOConfig, DPOTrainer

from wrpo_lib.models import load_tokenizer, load_trainable
from wrpo_lib.quadruples.schema import RESPONSES
from wrpo_lib.training import DynamicsCallback, WRPOConfig, WRPOTrainer

NAMES = dict(zip(("y_ws", "y_wt", "y_l"), RESPONSES, strict=True))
MODULES = ["q_proj", "v_proj", "down_proj"]


@pytest.mark.parametrize("accumulation", [1, 2])
@pytest.mark.parametrize("tuning", ["full", "lora"])
@pytest.mark.parametrize(
    ("alpha", "chosen"), [(0.0, "target_chosen"), (1.0, "source_chosen")], ids=["on", "hybrid"]
)
def test_losses_equal_those_of_trl(
    trainer, steps, settings, model, quadruples, tokenizer, alpha, chosen, tuning, accumulation
):
    """Data shuffled by the same seed, batches of 2 of 10 rows, so accumulation ends unevenly."""
    shared = {"beta": 0.5, "gradient_accumulation_steps": accumulation, "max_steps": 6}
    shared |= {"lr_scheduler_type": "cosine"}

    def lora() -> LoraConfig | None:
        made = LoraConfig(r=4, lora_alpha=16, target_modules=MODULES)
        return made if tuning == "lora" else None

    def sides(row: dict[str, Any]) -> dict[str, Any]:
        texts = {"chosen": row[chosen], "rejected": row["rejected"]}
        return {name: [{"role": "assistant", "content": text}] for name, text in texts.items()}

    data = quadruples.select(range(10))
    constant = {"alpha": alpha, "alpha_schedule": "constant"}
    ours = trainer(train_dataset=data, peft_config=lora(), **constant, **shared)
    theirs = DPOTrainer(
        model=copy.deepcopy(model),
        ref_model=None if lora() else copy.deepcopy(model),
        args=DPOConfig(**{**settings, **shared}),
        train_dataset=data.map(sides, remove_columns=data.column_names[2:]),
        processing_class=tokenizer,
        peft_config=lora(),
    )
    for mine, their in zip(ours.train_dataset, theirs.train_dataset, strict=True):
        for name, its in (("prompt", "prompt"), (chosen, "chosen"), ("rejected", "rejected")):
            assert mine[f"{name}_ids"] == their[f"{its}_ids"]
    ours.train()
    theirs.train()
    losses = steps(ours)
    assert losses == pytest.approx(steps(theirs), rel=1e-5)
    assert steps(ours, "grad_norm") == pytest.approx(steps(theirs, "grad_norm"), rel=1e-4)
    assert losses[0] - losses[-1] > 0.05, "nothing was learned, so nothing was compared"
    for key in (f"rewards/{chosen}", "rewards/rejected", "rewards/margins"):
        expected = steps(theirs, key.replace(chosen, "chosen"))
        assert steps(ours, key) == pytest.approx(expected, rel=1e-4, abs=1e-5)


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
        **{"lr_scheduler_type": "constant", "warmup_steps": 0, "share_prompt": sharing},
        **{"train_sampling_strategy": "sequential", "use_cpu": True, "save_strategy": "no"},
        **{"report_to": "none", "disable_tqdm": True},
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


SLOW = pytest.mark.slow  # that padded rows give what shared prompts give is tested on tiny models


@pytest.mark.parametrize(
    ("name", "sharing", "loss"),
    [
        ("short", True, 2e-6),
        pytest.param("short", False, 2e-6, marks=SLOW),
        pytest.param("ordinary", True, 5e-6, marks=SLOW),
        pytest.param("ordinary", False, 5e-6, marks=SLOW),
    ],
)
def test_the_official_trajectory(smollm2, shared, tmp_path, name, sharing, loss):
    assert_same_steps(*train(smollm2, shared, tmp_path, name, sharing), loss=loss)
