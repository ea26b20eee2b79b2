"""What a machine lacks is said before anything is loaded."""

import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from commandline import wrpo
from transformers import LlamaConfig

from wrpo_lib import machine
from wrpo_lib.errors import WRPOError
from wrpo_lib.models import PUBLISHED, SHAPE
from wrpo_lib.recipes import Recipe, load_recipe

LLAMA = "meta-llama/Meta-Llama-3-8B-Instruct"


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch) -> None:
    """A card with 24 GB that PyTorch sees."""
    found = SimpleNamespace(name="NVIDIA GeForce RTX 4090", total_memory=25_250_000_000)
    plan = machine.plan_recipe

    def planned(recipe: Recipe, gpus: int) -> Any:
        """The plan alone asks PyTorch for what a pretended card cannot do."""
        with monkeypatch.context() as patch:
            patch.setattr(torch.cuda, "is_available", lambda: False)
            return plan(recipe, gpus)

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda number: found)
    monkeypatch.setattr(machine, "plan_recipe", planned)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=10**12))


def made(folder: Path) -> Recipe:
    """The 4-bit recipe, as if the stage before it had written its model."""
    recipe = load_recipe("workstation", "wrpo_4bit")
    LlamaConfig(**dict(zip(SHAPE, PUBLISHED[LLAMA], strict=True))).save_pretrained(folder)
    (folder / "model.safetensors").touch()
    return replace(recipe, model=str(folder))


@pytest.mark.parametrize(
    ("built", "sentence"),
    [(None, "was built without CUDA; install its CUDA build"), ("13.0", "update the driver")],
)
def test_a_card_that_torch_cannot_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, built: str | None, sentence: str
) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho 535.161.08\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.setattr(torch.version, "cuda", built)
    assert "driver 535.161.08" in machine.describe(tmp_path)
    with pytest.raises(WRPOError, match=sentence) as error:
        machine.check(load_recipe("smol", "sft"), tmp_path / "out")
    assert "has an NVIDIA card (driver 535.161.08)" in str(error.value)
    machine.check(load_recipe("smol", "sft", use_cpu=True), tmp_path / "out")


def test_no_card_for_a_large_model(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    code, out, err = wrpo(capsys, "train", "workstation/wrpo", "--output_dir", tmp_path / "out")
    assert code == 2
    assert "no GPU was found, and 8.0 billion parameters" in err
    assert "no GPU;" in out
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("card")
def test_memory_and_disk_are_checked_against_the_plan(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "RTX 4090, 23.5 GiB" in machine.describe(tmp_path)
    machine.check(made(tmp_path), tmp_path)
    with pytest.raises(WRPOError, match=r"on a device that has 23\.5; take a 4-bit recipe"):
        machine.check(load_recipe("workstation", "sft", activation_checkpointing=False), tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=10**9))
    with pytest.raises(WRPOError, match=r"downloads about 15\.0 GiB to .*, which has 0\.9"):
        machine.check(load_recipe("workstation", "sft_4bit"), tmp_path)
    with pytest.raises(WRPOError, match=r"writes about 6\.2 GiB to .*, which has 0\.9"):
        machine.check(made(tmp_path), tmp_path)
