"""Recipes: the paper's values, their sources, the batch arithmetic, accelerate's own reading."""

from __future__ import annotations

import os
import re
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml

from wrpo_lib.errors import WRPOError
from wrpo_lib.recipes import (
    ACCELERATE,
    Recipe,
    load_recipe,
    profiles,
    recipe_names,
    recipes_dir,
)

ALL = [(profile, name) for profile in profiles() for name in recipe_names(profile)]
LAUNCH = sorted(path.stem for path in (recipes_dir() / ACCELERATE).glob("*.yaml"))
METHODS = {"DPO": "dpo_on", "IPO": "ipo", "SimPO": "simpo", "WRPO_DPO": "wrpo",
           "WRPO_IPO": "wrpo_ipo", "WRPO_SimPO": "wrpo_simpo"}  # fmt: skip


@pytest.mark.parametrize("method", METHODS)
def test_the_papers_profile_has_the_values_of_table_6(method: str, shared: Path) -> None:
    table = pd.read_csv(shared / "paper" / "table06_hyperparameters.csv").set_index("method")
    training = load_recipe("paper", METHODS[method]).training
    for field, value in table.loc[method].dropna().items():
        assert training[field] == value, field
    forms = {"IPO": "ipo", "SimPO": "simpo", "DPO": "dpo"}
    assert training.get("objective", "dpo") == forms[method.removeprefix("WRPO_")]


@pytest.mark.parametrize("profile", ["smol", "workstation", "paper"])
def test_search_ranges_beside_the_values_are_those_of_table_5(profile: str, shared: Path) -> None:
    table = pd.read_csv(shared / "paper" / "table05_search_ranges.csv")
    found = 0
    for method, name in METHODS.items():
        ranges = table[table["method"] == method].set_index("parameter")["values"]
        text = (recipes_dir() / profile / f"{name}.yaml").read_text()
        for field, values in re.findall(
            r"^  (\w+): .*searched: ([\d., ]+) \(Table 5\)", text, re.M
        ):
            assert [float(v) for v in values.split(",")] == [
                float(v) for v in str(ranges[field]).split()
            ], (name, field)
            found += 1
    assert found >= 10


@pytest.mark.parametrize(("profile", "name"), ALL)
def test_every_value_has_a_source(profile: str, name: str) -> None:
    """alpha of a baseline is its definition, which the file's first line says."""
    text = (recipes_dir() / profile / f"{name}.yaml").read_text()
    assert text.startswith("# ")
    for line in text.partition("\ntraining:\n")[2].splitlines():
        field = line.strip().partition(":")[0]
        if field in ("gradient_accumulation_steps", "alpha", "alpha_schedule", "objective"):
            continue  # part of the line above, or what the file is about
        assert "# " in line, f"{profile}/{name}: {line}"


def processes(recipe: Recipe) -> int:
    if recipe.launch is None:
        return 1
    path = recipes_dir() / ACCELERATE / f"{recipe.launch}.yaml"
    return int(yaml.safe_load(path.read_text())["num_processes"])


@pytest.mark.parametrize(("profile", "name"), [r for r in ALL if r[0] in ("workstation", "paper")])
def test_every_step_has_the_papers_128_rows(profile: str, name: str) -> None:
    recipe = load_recipe(profile, name)
    device = recipe.training["per_device_train_batch_size"]
    accumulation = recipe.training["gradient_accumulation_steps"]
    assert device * accumulation * processes(recipe) == 128
    if profile == "paper" and recipe.launch == "zero3":
        assert (device, accumulation, processes(recipe)) == (2, 8, 8)  # section 4.1


@pytest.mark.parametrize(("profile", "name"), ALL)
def test_weights_trained_in_full_on_one_device_are_float32(profile: str, name: str) -> None:
    recipe = load_recipe(profile, name)
    if not recipe.lora and not recipe.launch:
        assert recipe.load.get("dtype", "float32") == "float32"


def test_quantised_recipes_need_bitsandbytes_and_nothing_else_of_us() -> None:
    """Their fields are known; that package is what is missing here."""
    if find_spec("bitsandbytes"):
        pytest.skip("bitsandbytes is installed")
    from wrpo_lib.training.checks import check_device

    quantised = [load_recipe(*r, bf16=False) for r in ALL if load_recipe(*r).quantization]
    assert len(quantised) == 2
    for recipe in quantised:
        with pytest.raises(WRPOError, match="needs the package bitsandbytes"):
            check_device(recipe)


@pytest.mark.parametrize("name", LAUNCH)
def test_accelerate_reads_its_configurations(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As far as it goes without GPUs and without deepspeed: parse, merge, build the plugins."""
    from accelerate import DeepSpeedPlugin, FullyShardedDataParallelPlugin
    from accelerate.commands.launch import _validate_launch_command, launch_command_parser
    from accelerate.utils.launch import prepare_deepspeed_cmd_env, prepare_multi_gpu_env

    path = recipes_dir() / ACCELERATE / f"{name}.yaml"
    words = ["--config_file", str(path), "-m", "wrpo_lib.cli", "train", "paper/wrpo"]
    args, defaults, _ = _validate_launch_command(launch_command_parser().parse_args(words))
    nodes = 2 if name.endswith("two_nodes") else 1
    assert (args.num_machines, args.num_processes) == (nodes, 8 * nodes)
    if args.use_deepspeed:
        args.deepspeed_fields_from_accelerate_config = ",".join(defaults.deepspeed_config)
        env: dict[str, str] = prepare_deepspeed_cmd_env(args)[1]
    else:
        env = prepare_multi_gpu_env(args)
    for key, value in env.items():
        if key.startswith(("ACCELERATE_", "FSDP_")) and key not in os.environ:
            monkeypatch.setenv(key, value)
    assert env["ACCELERATE_MIXED_PRECISION"] == "bf16"
    if name.startswith("zero3"):
        check_zero3(DeepSpeedPlugin())
    elif name.startswith("fsdp2"):
        plugin = FullyShardedDataParallelPlugin()
        assert (plugin.fsdp_version, plugin.reshard_after_forward) == (2, True)
        assert not plugin.activation_checkpointing, "the recipe checkpoints already"
    else:
        assert args.multi_gpu


def check_zero3(plugin: Any) -> None:
    """Batch, accumulation and clipping are left to the trainer, which fills them on the GPUs."""
    assert plugin.zero_stage == 3
    assert plugin.zero3_init_flag
    config = plugin.deepspeed_config
    for field in ("train_micro_batch_size_per_gpu", "gradient_accumulation_steps",
                  "gradient_clipping"):  # fmt: skip
        assert config[field] == "auto"
    assert config["zero_optimization"]["stage3_gather_16bit_weights_on_model_save"]
