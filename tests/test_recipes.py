"""Recipes: the paper's values, their sources, the batch arithmetic, accelerate's own reading."""

import os
import re
from dataclasses import replace

import pandas as pd
import pytest
import yaml
from accelerate import DeepSpeedPlugin, FullyShardedDataParallelPlugin
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils.launch import prepare_deepspeed_cmd_env, prepare_multi_gpu_env

from wrpo_lib.errors import WRPOError
from wrpo_lib.recipes import load_recipe, named, recipe_names, recipes_dir
from wrpo_lib.training.inputs import load_model, lora_config, training_arguments

PROFILES = ("nano", "smol", "workstation", "paper")
LAUNCH = sorted(path.stem for path in (recipes_dir() / "accelerate").glob("*.yaml"))
METHODS = {"DPO": "dpo_on", "IPO": "ipo", "SimPO": "simpo"}
METHODS |= {"WRPO_DPO": "wrpo", "WRPO_IPO": "wrpo_ipo", "WRPO_SimPO": "wrpo_simpo"}


def test_the_papers_profile_has_the_values_of_table_6(shared):
    table = pd.read_csv(shared / "paper" / "table06_hyperparameters.csv").set_index("method")
    for method, name in METHODS.items():
        training = load_recipe("paper", name).training
        expected = table.loc[method].dropna().to_dict()
        assert {field: training[field] for field in expected} == expected
        assert training.get("objective", "dpo") == method.removeprefix("WRPO_").lower()


@pytest.mark.parametrize("profile", PROFILES[1:])
def test_search_ranges_beside_the_values_are_those_of_table_5(profile, shared):
    table = pd.read_csv(shared / "paper" / "table05_search_ranges.csv")
    ranges = table.set_index(["method", "parameter"])["values"]
    beside = re.compile(r"^  (\w+): .*searched: ([\d., ]+) \(Table 5\)", re.M)
    said = {
        (method, field): [float(v) for v in values.split(",")]
        for method, name in METHODS.items()
        for field, values in beside.findall((recipes_dir() / profile / f"{name}.yaml").read_text())
    }
    assert len(said) >= 10
    assert said == {key: [float(v) for v in str(ranges[key]).split()] for key in said}


@pytest.mark.parametrize("profile", PROFILES)
def test_every_value_has_a_source_and_every_step_the_papers_128_rows(profile):
    """What the file is about, or part of the line above, has no source."""
    exempt = ("gradient_accumulation_steps", "alpha", "alpha_schedule", "objective")
    for name in recipe_names(profile):
        text = (recipes_dir() / profile / f"{name}.yaml").read_text()
        assert text.startswith("# ")
        for line in text.partition("\ntraining:\n")[2].splitlines():
            if line.strip().partition(":")[0] not in exempt:
                assert "# " in line, f"{profile}/{name}: {line}"
        recipe, processes = load_recipe(profile, name), 1
        training_arguments(recipe, recipe.output_dir)
        if recipe.launch:
            path = recipes_dir() / "accelerate" / f"{recipe.launch}.yaml"
            processes = yaml.safe_load(path.read_text())["num_processes"]
        if profile in ("workstation", "paper"):
            sizes = ("per_device_train_batch_size", "gradient_accumulation_steps")
            device, accumulation = (recipe.training[size] for size in sizes)
            assert device * accumulation * processes == 128
            if profile == "paper" and recipe.launch == "zero3":
                assert (device, accumulation, processes) == (2, 8, 8)  # section 4.1


def test_a_base_is_added_to(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("base: workstation/wrpo\ntraining: {beta: 0.5}\n")
    base, mine = load_recipe("workstation", "wrpo"), load_recipe(str(path))
    assert mine.training == {**base.training, "beta": 0.5}
    assert (mine.name, mine.lora, mine.model) == ("mine", base.lora, base.model)


BAD = {
    "base: mine": "refers back to itself",
    "base: gone": "gone.yaml cannot be read",
    "stage: sft": "needs a `stage`, sft or preference, and fields",
    "stagee: sft": "unknown key 'stagee'; did you mean 'stage'",
    "stage: dpo": "stage: should be 'sft' or 'preference'",
    "load: null": "load: should be a valid dictionary",
    "training: [": "not valid YAML",
    "- stage": "holds no mapping",
    "{base: smol/wrpo, training: {alpha: [1]}}": "training.alpha: should be a valid number",
    "{base: smol/wrpo, training: {bta: 1}}": "unknown key 'training.bta'; did you mean 'beta'",
    "{base: smol/wrpo, quantization: {load_in_4bit: abc}}": "load_in_4bit must be a boolean",
}


@pytest.mark.parametrize("text", [*BAD, "\xff", "[" * 200_000])
def test_a_bad_recipe_is_one_sentence_with_file_and_key(tmp_path, text):
    path = tmp_path / "mine.yaml"
    path.write_text(text, encoding="latin-1")
    with pytest.raises(WRPOError) as caught:  # noqa: PT012
        recipe = load_recipe(str(path))
        with named(recipe):
            training_arguments(recipe, tmp_path)
            lora_config(recipe)
            load_model(replace(recipe, model=str(tmp_path)))
    message = str(caught.value)
    assert BAD.get(text, "not valid YAML") in message
    assert message.startswith(str(tmp_path))
    assert "\n" not in message


@pytest.mark.parametrize("name", LAUNCH)
def test_accelerate_reads_its_configurations(name, monkeypatch):
    """As far as it goes without GPUs and without deepspeed: parse, merge, build the plugins."""
    path = recipes_dir() / "accelerate" / f"{name}.yaml"
    words = ["--config_file", str(path), "-m", "wrpo_lib.cli", "train", "paper/wrpo"]
    args, defaults, _ = _validate_launch_command(launch_command_parser().parse_args(words))
    nodes = 2 if name.endswith("two_nodes") else 1
    assert (args.num_machines, args.num_processes) == (nodes, 8 * nodes)
    if args.use_deepspeed:
        args.deepspeed_fields_from_accelerate_config = ",".join(defaults.deepspeed_config)
    env = prepare_deepspeed_cmd_env(args)[1] if args.use_deepspeed else prepare_multi_gpu_env(args)
    for key, value in env.items():
        if key.startswith(("ACCELERATE_", "FSDP_")) and key not in os.environ:
            monkeypatch.setenv(key, value)
    assert env["ACCELERATE_MIXED_PRECISION"] == "bf16"
    if args.use_deepspeed:
        config = DeepSpeedPlugin().deepspeed_config
        assert config["zero_optimization"]["stage3_gather_16bit_weights_on_model_save"]
        for field in ("train_micro_batch_size_per_gpu", "gradient_clipping"):
            assert config[field] == "auto"  # the trainer fills them in
    elif name.startswith("fsdp2"):
        plugin = FullyShardedDataParallelPlugin()
        assert (plugin.fsdp_version, plugin.reshard_after_forward) == (2, True)
        assert not plugin.activation_checkpointing, "the recipe checkpoints already"
    else:
        assert args.multi_gpu
