"""`wrpo train` and `wrpo sft`: bad input before a model is loaded, kill and resume, processes."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from commandline import HANGS, wait_until, wrpo
from safetensors.torch import load_file

from wrpo_lib.recipes import load_recipe
from wrpo_lib.training.dry_run import shrink
from wrpo_lib.training.run import last_checkpoint

STEPS = {
    "per_device_train_batch_size": 4,
    "gradient_accumulation_steps": 1,
    "learning_rate": 1e-2,
    "beta": 0.5,
    "warmup_steps": 0,
    "max_steps": 40,
    "save_steps": 4,
    "dataloader_pin_memory": False,
}


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model and 32 quadruples, as a dry run makes them."""
    folder = tmp_path_factory.mktemp("small")
    shrink(load_recipe("smol", "wrpo"), folder)
    return folder


def words(small: Path, out: Path, **overrides: Any) -> list[str]:
    """A command line on the tiny model."""
    values = {**STEPS, "ref_cache_dir": out / "reference", **overrides}
    named = ["--model", small / "model", "--data", small / "rows.jsonl", "--output_dir", out]
    return [*map(str, named), *(f"{key}={value}" for key, value in values.items())]


def lines(out: Path) -> list[dict[str, Any]]:
    """The training dynamics so far, whole lines only."""
    path = out / "dynamics.jsonl"
    text = path.read_text() if path.is_file() else ""
    return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]


def start(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={k: v for k, v in os.environ.items() if k != "TQDM_DISABLE"},
    )


# --- a whole run ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def whole(small: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished, uninterrupted run in a process of its own."""
    out = tmp_path_factory.mktemp("whole") / "out"
    run = start("wrpo_lib.cli", "train", "smol/wrpo", *words(small, out))
    printed, err = run.communicate(timeout=HANGS)
    assert run.returncode == 0, err
    assert "32 rows, 4 per step (per device 4 x accumulation 1 x processes 1)" in printed
    for shown in ("40/40", "alpha=0.", "loss="):
        assert shown in err
    return out


def test_a_run_leaves_model_card_record_and_no_pickle(whole: Path, small: Path) -> None:
    names = {path.name for path in whole.iterdir()}
    assert {"model.safetensors", "config.json", "tokenizer.json", "README.md", "run.json"} <= names
    assert not [name for name in names if name.endswith((".bin", ".pt", ".pth"))]
    card = (whole / "README.md").read_text()
    assert f"a fine-tuned version of `{small / 'model'}`" in card
    assert "Weighted-Reward Preference Optimization for Implicit Model Fusion" in card
    assert "None" not in card
    record = json.loads((whole / "run.json").read_text())
    assert (record["status"], record["settings"]["training.beta"]) == ("finished", 0.5)
    assert set(record["settings"]["model"]) == {"model.safetensors"}
    assert len(record["settings"]["data"]["sha256"]) == 64
    assert not record["arguments"]["push_to_hub"]
    assert [row["step"] for row in lines(whole)] == list(range(1, 41))
    assert lines(whole)[-1]["loss"] < lines(whole)[0]["loss"]


def test_a_folder_with_a_run_is_not_run_over(
    whole: Path, small: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (whole / "run.json").read_text()
    code, _, err = wrpo(capsys, "train", "smol/wrpo", *words(small, whole))
    assert (code, "holds a run already; pass --resume" in err) == (2, True)
    code, _, err = wrpo(capsys, "train", "smol/wrpo", *words(small, whole, beta=0.3), "--resume")
    assert code == 2
    assert "was started with training.beta 0.5, this run has 0.3" in err
    assert (whole / "run.json").read_text() == before


# --- kill and resume --------------------------------------------------------------------------


def stopped(small: Path, out: Path, how: signal.Signals) -> tuple[int, str]:
    """Start a run, stop it between two checkpoints; its exit status and last words."""
    run = start("wrpo_lib.cli", "train", "smol/wrpo", *words(small, out))
    wait_until(lambda: len(lines(out)) >= 6, run)
    run.send_signal(how)
    return run.wait(timeout=HANGS), run.communicate()[1]


def test_kill_and_resume_gives_the_same_dynamics(
    small: Path, whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    code, _ = stopped(small, out, signal.SIGKILL)
    assert code == -signal.SIGKILL
    done = len(lines(out))
    assert 6 <= done < 40, "it was not killed in the middle"
    newest = last_checkpoint(out)
    assert newest is not None
    torn = out / "checkpoint-39"  # as a kill while a checkpoint is written leaves it
    shutil.copytree(newest, torn)
    (torn / "trainer_state.json").write_text('{"epoch": 1.')
    code, printed, err = wrpo(
        capsys, "train", "smol/wrpo", *words(small, out, report_to="none"), "--resume"
    )
    assert code == 0, err
    assert f"resuming from {newest}" in printed

    expected, found = lines(whole), lines(out)
    for row in expected + found:
        assert row.pop("seconds") > 0
    assert found == expected
    weights = load_file(whole / "model.safetensors")
    again = load_file(out / "model.safetensors")
    assert all(again[name].equal(weight) for name, weight in weights.items())
    assert json.loads((out / "run.json").read_text())["status"] == "finished"


def test_ctrl_c_says_how_to_resume(small: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    code, err = stopped(small, out, signal.SIGINT)
    assert code == 130
    newest = last_checkpoint(out)
    assert newest is not None
    hint = f"add --resume to the same command to go on from {newest}"
    assert f"wrpo: interrupted; {hint}" in err.splitlines()
    assert "Traceback" not in err


# --- several processes ------------------------------------------------------------------------


def test_two_processes_give_the_losses_of_one(
    small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Started by torchrun, on gloo; test_distributed has accelerate's launcher and FSDP2."""
    one, two = tmp_path / "one", tmp_path / "two"
    code, _, err = wrpo(capsys, "train", "smol/wrpo", *words(small, one, max_steps=4))
    assert code == 0, err
    command = words(small, two, per_device_train_batch_size=2, max_steps=4)
    launcher = ["torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m"]
    run = start(*launcher, "wrpo_lib.cli", "train", "smol/wrpo", *command)
    printed, err = run.communicate(timeout=HANGS)
    assert run.returncode == 0, err
    assert "4 per step (per device 2 x accumulation 1 x processes 2)" in printed
    assert printed.count("steps done") == 1, "one process speaks"
    losses = [[row["loss"] for row in lines(out)] for out in (one, two)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    assert (two / "model.safetensors").is_file()


# --- bad input --------------------------------------------------------------------------------


def test_fields_of_lora_and_load_and_evaluation(
    small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    extra = [
        *["--lora.r", "4", "load.dtype=float32", "--eval_strategy", "steps", "--eval_steps=2"],
        *["--lora.target_modules", "[q_proj,v_proj]", "--learning-rate", "1e-3", "--eval_data"],
        small / "rows.jsonl",
    ]
    code, _, err = wrpo(capsys, "train", "smol/wrpo", *words(small, out, max_steps=4), *extra)
    assert code == 0, err
    adapter = json.loads((out / "adapter_config.json").read_text())
    assert (adapter["r"], sorted(adapter["target_modules"])) == (4, ["q_proj", "v_proj"])
    record = json.loads((out / "run.json").read_text())
    assert record["log"][0]["step"] == 4
    assert "eval_loss" in record["log"][0]
    assert record["settings"]["training.learning_rate"] == 1e-3


def test_preference_pairs_serve_where_one_preferred_response_is_read(
    small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The pairs of TRL's format give the losses of the quadruples they come from."""
    pairs = tmp_path / "pairs.jsonl"
    rows = [json.loads(line) for line in (small / "rows.jsonl").read_text().splitlines()]
    for row in rows:
        row["chosen"] = [{"role": "assistant", "content": row.pop("source_chosen")}]
        row["rejected"] = [{"role": "assistant", "content": row["rejected"]}]
        del row["target_chosen"]
    pairs.write_text("".join(json.dumps(row) + "\n" for row in rows))
    losses = []
    for name, data in (("quadruples", small / "rows.jsonl"), ("pairs", pairs)):
        out = tmp_path / name
        command = [*words(small, out, max_steps=3), "--data", str(data)]
        code, _, err = wrpo(capsys, "train", "smol/dpo_off", *command)
        assert code == 0, err
        losses.append([row["loss"] for row in lines(out)])
    assert losses[0] == losses[1]
    assert losses[0][-1] < losses[0][0]
    command = [*words(small, tmp_path / "out"), "--data", str(pairs)]
    code, _, err = wrpo(capsys, "train", "smol/wrpo", *command)
    assert (code, "pairs.jsonl, row 1, field 'source_chosen'" in err) == (2, True), err


BAD = {
    "--learning_rat 1e-5": "did you mean 'learning_rate'?",
    "beta 0.1": "unknown option 'beta'",
    "--beta high": "invalid float value: 'high'",
    "alpha=3": "recipes/smol/wrpo.yaml: alpha is 3.0, outside [0, 1]",
    "lr_scheduler_type=cosin": "cosin is not a valid SchedulerType",
    "--model runs/no/where": "the model folder 'runs/no/where' does not exist",
    "--model no/model": "cannot load 'no/model'",
    "--model no/where.gguf": "the model 'no/where.gguf' does not exist",
    "--model package:none-such": "'none-such' is not installed",
    "--model package:pyyaml": "the package 'pyyaml' carries no GGUF file",
    "--data no/where.jsonl": "no/where.jsonl does not exist",
    "--lora.r 8 --lora.target_modules=[c_attn]": "Target modules {'c_attn'} not found",
    "--lora.rank 8": "unexpected keyword argument 'rank'",
    "--lora.r 8 --quantization.load_in_4bit true": "bitsandbytes",
    "load.attn_implementation=flash_attention_2": "FlashAttention2",
    "load.dtype=float33": "has no attribute 'float33'",
    "--resume": "holds no whole checkpoint to resume from",
    "--eval_strategy steps": "eval_dataset",
    "--output_dir /dev/null/out": "/dev/null/out",
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_sentence_before_training(
    small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], case: str
) -> None:
    arguments, sentence = case.split(), BAD[case]
    out = tmp_path / "out"
    code, printed, err = wrpo(capsys, "train", "smol/wrpo", *words(small, out), *arguments)
    assert code == 2, err
    said = [line for line in err.splitlines() if line.startswith("wrpo: ")]
    assert len(said) == 1
    assert sentence in said[0]
    assert "Traceback" not in err
    assert not (out / "dynamics.jsonl").exists()
    assert "steps done" not in printed


def test_a_recipe_may_stand_on_one_of_the_checkout(
    small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("base: smol/wrpo_ipo\ntraining:\n  learning_rate: 1e-3\n  tau: 0.1\n")
    code, _, err = wrpo(
        capsys, "train", path, *words(small, tmp_path / "out", max_steps=2), "learning_rate=1e-3"
    )
    assert code == 0, err
    settings = json.loads((tmp_path / "out" / "run.json").read_text())["settings"]
    found = [settings[f"training.{key}"] for key in ("objective", "tau", "learning_rate")]
    assert found == ["ipo", 0.1, 1e-3]
