"""The planner against real models; what a machine lacks is said before anything is loaded."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from commandline import wrpo
from peft import LoraConfig, get_peft_model
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForCausalLM, LlamaConfig

from wrpo_lib import planner
from wrpo_lib.cli.train import CARDS
from wrpo_lib.errors import WRPOError
from wrpo_lib.io import write_rows
from wrpo_lib.models import build_tokenizer, model_config
from wrpo_lib.planner import Plan, count_parameters, plan_recipe, tokens
from wrpo_lib.recipes import Recipe, load_recipe

LORA = LoraConfig(task_type="CAUSAL_LM", r=8, target_modules="all-linear")
PUBLISHED = {  # as the hub's safetensors metadata count them
    "meta-llama/Meta-Llama-3-8B-Instruct": 8_030_261_248,
    "meta-llama/Llama-3.2-1B-Instruct": 1_235_814_400,
    "HuggingFaceTB/SmolLM2-135M-Instruct": 134_515_008,
}
SHAPE = {"hidden_size": 96, "intermediate_size": 320, "num_hidden_layers": 4, "vocab_size": 4000}
CONFIG = LlamaConfig(**SHAPE, num_attention_heads=3, num_key_value_heads=1)


def planned(name: str, gpus: int = 1, n: int = 0, **changes: Any) -> Plan:
    profile, _, stage = name.partition("/")
    return plan_recipe(load_recipe(profile, stage, **changes), gpus, n=n)


def test_parameters_are_those_of_a_real_model():
    found = {name: count_parameters(model_config(name)).total for name in PUBLISHED}
    assert found == PUBLISHED
    model = AutoModelForCausalLM.from_config(CONFIG)
    found, adapted = count_parameters(CONFIG), count_parameters(CONFIG, LORA)
    assert found.total == found.trainable == model.num_parameters() == adapted.total
    assert found.total == found.layers + 2 * found.head
    real = get_peft_model(model, LORA)
    assert adapted.trainable == real.num_parameters(only_trainable=True)


def test_arithmetic_and_activations_are_those_of_a_real_pass():
    """FLOPs without attention, which torch's counter leaves out on a CPU; memory within a half."""
    model, n = AutoModelForCausalLM.from_config(CONFIG).train(), 200
    known = {p.untyped_storage()._cdata for p in model.parameters()}
    storages: dict[int, Any] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storages[tensor.untyped_storage()._cdata] = tensor.untyped_storage()
        return tensor

    counter = FlopCounterMode(display=False)
    with counter, torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
        model.model(torch.ones(2, n, dtype=torch.long))
    batch = [(1, (n - 1,)), (1, (n - 1,))]
    p = count_parameters(CONFIG)
    assert 2 * p.layers * tokens(batch, False) == pytest.approx(counter.get_total_flops(), rel=0.01)
    measured = sum(storage.nbytes() for key, storage in storages.items() if key not in known)
    plan = replace(planned("smol/wrpo"), config=CONFIG, parameters=p, batches=[batch], n=2)
    assert 2 / 3 < plan.memory(batch, False)["activations"] / measured < 3 / 2
    assert plan.flops(2 * n) == 2 * p.total * 2 * n * 4  # forward, back twice, the reference once


def test_memory_follows_the_textbook():
    paper = planned("paper/wrpo", gpus=8)
    n = paper.parameters.total
    usual = paper.memory(paper.batches[0], True)
    state = usual["weights"] + usual["gradients"] + usual["Adam states"]
    assert state == pytest.approx(16 * n / 8)  # ZeRO's sixteen bytes a parameter
    plain = planned("paper/wrpo", activation_checkpointing=False)
    assert plain.memory(paper.batches[0], True)["activations"] > 10 * usual["activations"]
    small = planned("workstation/wrpo_4bit")
    p, parts = small.parameters, small.memory(small.batches[0], True)
    assert parts["weights"] == pytest.approx(
        0.5625 * p.layers + 2 * (p.total - p.layers) + 4 * p.trainable
    )
    assert parts["Adam states"] == 8 * p.trainable == 2 * parts["gradients"]


@pytest.mark.parametrize(
    ("name", "changes", "n", "steps"),
    [
        ("paper/wrpo", {}, 39_918, 312),
        ("paper/wrpo", {"num_train_epochs": 3}, 128 + 15, 6),
        ("paper/wrpo", {"max_steps": 7}, 39_918, 7),
        ("paper/sft", {}, 19_958, 46),  # 19,958 x 600 tokens in blocks of 2,048, 128 a step
    ],
)
def test_steps_are_whole_batches(name, changes, n, steps):
    assert planned(name, gpus=8, n=n, **changes).steps == steps


def test_tokens_are_those_of_the_data(tmp_path):
    CONFIG.save_pretrained(tmp_path)
    build_tokenizer(["a b c", "a a b b"]).save_pretrained(tmp_path)
    rows = []
    for i in range(4):
        texts = {"source_chosen": " a b" * (i + 2), "target_chosen": " a" * (i + 1)}
        rows.append({"prompt_id": str(i), "prompt": " a" * (i + 1), **texts, "rejected": "c"})
    write_rows(rows, tmp_path / "q.jsonl")
    recipe = load_recipe("smol", "wrpo", per_device_train_batch_size=1)
    plan = plan_recipe(replace(recipe, model=str(tmp_path)), data=str(tmp_path / "q.jsonl"))
    lengths = [(i + 3, (2 * i + 5, i + 2, 2)) for i in range(4)]  # each response with its end
    assert [batch[0] for batch in plan.batches] == lengths
    assert plan.tokens(True) == sum(x + sum(ys) for x, ys in lengths)
    assert plan.tokens(False) == sum(3 * (x + max(ys)) for x, ys in lengths)
    assert tokens(plan.worst, False) == 3 * 1024


def test_the_command_names_the_worst_batch(capsys):
    said = [wrpo(capsys, "plan", name)[1] for name in ("workstation/wrpo_4bit", "paper/wrpo")]
    for part in ("312 steps of 8 x 16 x 1", "max_length 2048", "40% of a card's peak", "here: "):
        assert part in said[0]
    hours = [re.findall("^hours, .*", out, re.M) for out in said]
    assert len(hours[0]) == len(hours[1]) == len(CARDS)
    assert not any("no room" in line for line in hours[0])
    assert {line.endswith("no room") for line in hours[1]} == {True, False}  # on one GPU


def test_a_token_budget_bounds_every_batch():
    plan = planned("workstation/wrpo", micro_batch_tokens=2048, n=64)
    assert len(plan.batches[0]) == 1
    assert len(planned("workstation/wrpo", micro_batch_tokens=4096).batches[0]) == 2
    assert len(plan.worst) == 1, "one example goes through, however long it is"
    whole = planned("workstation/wrpo", micro_batch_tokens=None, n=64)
    assert len(whole.worst) == 8
    assert plan.tokens(True) == whole.tokens(True)


BAD = {
    "nano/wrpo": "no model is named",
    "paper/wrpo --data /no/such.jsonl": "/no/such.jsonl does not exist",
    "workstation/wrpo --lora.target_modules nothing": "Target modules",
    "workstation/wrpo merge=[1]": "unknown key 'training.merge'",
}
ROW = {"prompt_id": "a", "prompt": "b", "source_chosen": "c", "target_chosen": "d", "rejected": "e"}
FILES = {
    "field 'rejected'": json.dumps(ROW | {"rejected": ["e"]}),
    "does not end in a user turn": json.dumps(ROW | {"prompt": [{"role": "tool", "content": "x"}]}),
    "not JSON": '{"prompt_id": "a',
    "has no rows": "",
}


@pytest.mark.parametrize("case", [*BAD, *FILES])
def test_bad_input_is_one_sentence(capsys, tmp_path, case):
    path = tmp_path / "data.jsonl"
    path.write_text(FILES.get(case, ""))
    words = case.split() if case in BAD else ["smol/wrpo", "--data", path]
    code, _, err = wrpo(capsys, "plan", *words)
    assert (code, BAD.get(case, case) in err, len(err.splitlines())) == (2, True, 1), err


# --- the machine ----------------------------------------------------------------------------------

LLAMA = "meta-llama/Meta-Llama-3-8B-Instruct"


@pytest.fixture
def card(monkeypatch):
    """A card with 24 GB that PyTorch sees."""
    found = SimpleNamespace(name="NVIDIA GeForce RTX 4090", total_memory=25_250_000_000)
    plan = planner.plan_recipe

    def planned(recipe: Recipe, gpus: int) -> Any:
        """The plan alone asks PyTorch for what a pretended card cannot do."""
        with monkeypatch.context() as patch:
            patch.setattr(torch.cuda, "is_available", lambda: False)
            return plan(recipe, gpus)

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda number: found)
    monkeypatch.setattr(planner, "plan_recipe", planned)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=10**12))


def made(folder: Path) -> Recipe:
    """The 4-bit recipe, as if the stage before it had written its model."""
    recipe = load_recipe("workstation", "wrpo_4bit")
    model_config(LLAMA).save_pretrained(folder)
    (folder / "model.safetensors").touch()
    return replace(recipe, model=str(folder))


@pytest.mark.parametrize(
    ("built", "sentence"),
    [(None, "was built without CUDA; install its CUDA build"), ("13.0", "update the driver")],
)
def test_a_card_that_torch_cannot_use(tmp_path, monkeypatch, built, sentence):
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho 535.161.08\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.setattr(torch.version, "cuda", built)
    assert "driver 535.161.08" in planner.describe(tmp_path)
    with pytest.raises(WRPOError, match=sentence) as error:
        planner.check(load_recipe("smol", "sft"), tmp_path / "out")
    assert "has an NVIDIA card (driver 535.161.08)" in str(error.value)
    planner.check(load_recipe("smol", "sft", use_cpu=True), tmp_path / "out")


def test_no_card_for_a_large_model(capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    code, out, err = wrpo(capsys, "train", "workstation/wrpo", "--output_dir", tmp_path / "out")
    assert code == 2
    assert "no GPU was found, and 8.0 billion parameters" in err
    assert "no GPU;" in out
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("card")
def test_memory_and_disk_are_checked_against_the_plan(tmp_path, monkeypatch):
    assert "RTX 4090, 23.5 GiB" in planner.describe(tmp_path)
    planner.check(made(tmp_path), tmp_path)
    with pytest.raises(WRPOError, match=r"on a device that has 23\.5; take a 4-bit recipe"):
        planner.check(load_recipe("workstation", "sft", activation_checkpointing=False), tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=10**9))
    with pytest.raises(WRPOError, match=r"downloads about 15\.0 GiB to .*, which has 0\.9"):
        planner.check(load_recipe("workstation", "sft_4bit"), tmp_path)
    with pytest.raises(WRPOError, match=r"writes about 6\.2 GiB to .*, which has 0\.9"):
        planner.check(made(tmp_path), tmp_path)
