"""The planner against real models; what a machine lacks is said before anything is loaded."""

import re
import shutil
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from commandline import wrpo
from peft import LoraConfig, get_peft_model
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForCausalLM, LlamaConfig

from wrpo_lib import machine
from wrpo_lib.errors import WRPOError
from wrpo_lib.io import write_rows
from wrpo_lib.models import build_tokenizer, model_config
from wrpo_lib.planner import CARDS, Plan, count_parameters, plan_recipe, tokens
from wrpo_lib.recipes import load_recipe
from wrpo_lib.records import project_root

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


def test_steps_are_whole_batches():
    assert planned("paper/wrpo", gpus=8, n=128 + 15, num_train_epochs=3).steps == 6
    # 19,958 x 600 tokens in blocks of 2,048, 128 a step
    assert planned("paper/sft", gpus=8, n=19_958).steps == 46


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
    assert "no room" not in said[0]
    assert {line.endswith("no room") for line in hours[1]} == {True, False}  # on one GPU


def test_a_token_budget_bounds_every_batch():
    plans = {
        budget: planned("smol/wrpo", micro_batch_tokens=budget, per_device_train_batch_size=8, n=64)
        for budget in (2048, 4096, None)
    }
    assert [len(plan.batches[0]) for plan in plans.values()] == [1, 2, 8]
    assert len(plans[2048].worst) == 1, "one example goes through, however long it is"
    assert len({plan.tokens(True) for plan in plans.values()}) == 1


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("nano/wrpo", "no model is named"),
        ("workstation/wrpo --lora.target_modules nothing", "Target modules"),
        ("workstation/wrpo merge=[1]", "unknown key 'training.merge'"),
        ("smol/wrpo --data data.jsonl", "data.jsonl, row 1, field 'rejected'"),
    ],
)
def test_bad_input_is_one_sentence(capsys, tmp_path, monkeypatch, words, sentence):
    names = ("prompt_id", "prompt", "source_chosen", "target_chosen")
    write_rows([dict.fromkeys(names, "a") | {"rejected": ["e"]}], tmp_path / "data.jsonl")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WRPO_HOME", str(project_root()))
    code, _, err = wrpo(capsys, "plan", *words.split())
    assert (code, sentence in err, len(err.splitlines())) == (2, True, 1), err


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
    assert "driver 535.161.08" in machine.describe(tmp_path)
    with pytest.raises(WRPOError, match=sentence) as error:
        machine.check(load_recipe("smol", "sft"), tmp_path / "out")
    assert "has an NVIDIA card (driver 535.161.08)" in str(error.value)
    machine.check(load_recipe("smol", "sft", use_cpu=True), tmp_path / "out")


def test_no_card_for_a_large_model(capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    code, out, err = wrpo(capsys, "train", "workstation/wrpo", "--output_dir", tmp_path / "out")
    assert code == 2
    assert "no GPU was found, and 8.0 billion parameters" in err
    assert "no GPU;" in out
    assert not (tmp_path / "out").exists()


def test_memory_and_disk_are_checked_against_the_plan(tmp_path, monkeypatch):
    """On a card with 24 GB that PyTorch sees; plans are made without what it cannot do."""
    card = SimpleNamespace(name="NVIDIA GeForce RTX 4090", total_memory=25_250_000_000)
    recipes = [load_recipe("workstation", name) for name in ("sft_4bit", "wrpo_4bit")]
    recipes.append(load_recipe("workstation", "sft", activation_checkpointing=False))
    plans = {recipe.where: plan_recipe(recipe) for recipe in recipes}
    monkeypatch.setattr(machine, "plan_recipe", lambda recipe, gpus: plans[recipe.where])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda number: card)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=10**12))
    assert "RTX 4090, 23.5 GiB" in machine.describe(tmp_path)
    machine.check(recipes[0], tmp_path)
    with pytest.raises(WRPOError, match=r"on a device that has 23\.5; take a 4-bit recipe"):
        machine.check(recipes[2], tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=10**9))
    with pytest.raises(WRPOError, match=r"downloads about 15\.0 GiB to .*, which has 0\.9"):
        machine.check(recipes[0], tmp_path)
    monkeypatch.setattr(machine, "identity", lambda model: "on this disk already")
    with pytest.raises(WRPOError, match=r"writes about 6\.2 GiB to .*, which has 0\.9"):
        machine.check(recipes[1], tmp_path)
