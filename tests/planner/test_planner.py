"""The planner against real models: parameters exactly, tokens exactly, arithmetic and memory."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from commandline import wrpo
from peft import LoraConfig, get_peft_model
from tokenizers import Tokenizer, models, pre_tokenizers
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedTokenizerFast

from wrpo_lib import planner
from wrpo_lib.io import write_rows
from wrpo_lib.planner import Plan, count_parameters, forward_flops, plan_recipe, tokens
from wrpo_lib.recipes import load_recipe

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated")

LORA = LoraConfig(task_type="CAUSAL_LM", r=8, target_modules="all-linear")
PUBLISHED = {  # as the hub's safetensors metadata count them
    "meta-llama/Meta-Llama-3-8B-Instruct": 8_030_261_248,
    "meta-llama/Llama-3.2-1B-Instruct": 1_235_814_400,
    "HuggingFaceTB/SmolLM2-135M-Instruct": 134_515_008,
}


CONFIG = LlamaConfig(
    vocab_size=4000,
    hidden_size=96,
    intermediate_size=320,
    num_hidden_layers=4,
    num_attention_heads=3,
    num_key_value_heads=1,
    tie_word_embeddings=False,
)


def planned(name: str, gpus: int = 1, n: int = 0, **changes: Any) -> Plan:
    profile, _, stage = name.partition("/")
    return plan_recipe(load_recipe(profile, stage, **changes), gpus, n=n)


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_shapes_have_the_published_parameters(name: str) -> None:
    assert count_parameters(LlamaConfig(**planner.PUBLISHED[name])).total == PUBLISHED[name]


def test_parameters_are_those_of_a_real_model() -> None:
    model = AutoModelForCausalLM.from_config(CONFIG)
    found, adapted = count_parameters(CONFIG), count_parameters(CONFIG, LORA)
    assert found.total == found.trainable == model.num_parameters() == adapted.total
    assert found.total == found.layers + 2 * found.head
    real = get_peft_model(model, LORA)
    assert adapted.trainable == real.num_parameters(only_trainable=True)


def test_arithmetic_and_activations_are_those_of_a_real_pass() -> None:
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
    layers, head = forward_flops(count_parameters(CONFIG), CONFIG, batch, sharing=False)
    attention = 4 * CONFIG.num_hidden_layers * CONFIG.hidden_size * 2 * n * (n + 1) // 2
    assert layers - attention == pytest.approx(counter.get_total_flops(), rel=0.01)
    assert head == 2 * 4000 * 96 * 2 * (n - 1)
    measured = sum(storage.nbytes() for key, storage in storages.items() if key not in known)
    plan = replace(planned("smol/wrpo"), config=CONFIG)
    assert 2 / 3 < plan.memory(batch, False)["activations"] / measured < 3 / 2


def test_memory_follows_the_textbook() -> None:
    paper = planned("paper/wrpo", gpus=8)
    n = paper.parameters.total
    usual = paper.memory(paper.batches[0], True)
    state = usual["weights"] + usual["gradients"] + usual["Adam states"]
    assert state == pytest.approx(16 * n / 8)  # ZeRO's sixteen bytes a parameter
    held = planned("paper/wrpo", gpus=8, precompute_ref_log_probs=False)
    assert held.memory(held.batches[0], True)["reference"] == usual["weights"]
    assert usual["reference"] == 0
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
def test_steps_are_whole_batches(name: str, changes: Any, n: int, steps: int) -> None:
    assert planned(name, gpus=8, n=n, **changes).steps == steps


def test_tokens_are_those_of_the_data(tmp_path: Path) -> None:
    CONFIG.save_pretrained(tmp_path)
    core = Tokenizer(models.WordLevel({"<end>": 0, "a": 1}, unk_token="a"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    template = "{% for m in messages %}{{ m.content }} {% endfor %}"
    made = PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<end>", chat_template=template)
    made.save_pretrained(tmp_path)
    rows = []
    for i in range(4):
        texts = {"source_chosen": "a b " * (i + 2), "target_chosen": "a " * (i + 1)}
        rows.append({"prompt_id": str(i), "prompt": "a " * (i + 1), **texts, "rejected": "c "})
    write_rows(rows, tmp_path / "q.jsonl")
    recipe = load_recipe("smol", "wrpo", per_device_train_batch_size=1)
    plan = plan_recipe(replace(recipe, model=str(tmp_path)), data=str(tmp_path / "q.jsonl"))
    lengths = [(i + 1, (2 * i + 5, i + 2, 2)) for i in range(4)]  # each response with its end
    assert [batch[0] for batch in plan.batches] == lengths
    assert plan.tokens(True) == sum(x + sum(ys) for x, ys in lengths)
    assert plan.tokens(False) == sum(3 * (x + max(ys)) for x, ys in lengths)
    assert tokens(plan.worst, False) == 3 * 1024


def test_the_command_names_the_worst_batch(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = wrpo(capsys, "plan", "workstation/wrpo_4bit", "--utilisation", 0.3)
    assert code == 0
    for part in ("312 steps of 1 x 128 x 1", "fits 24 GB, 48 GB, 80 GB", "assumed: 30%", "H100"):
        assert part in out
    assert "fits none" in wrpo(capsys, "plan", "paper/wrpo")[1]  # on one GPU


BAD = {
    "nano/wrpo": "names no model",
    "paper/wrpo --data /no/such.jsonl": "/no/such.jsonl does not exist",
    "workstation/wrpo --lora.target_modules nothing": "Target modules",
}


@pytest.mark.parametrize("words", BAD)
def test_bad_input_is_one_sentence(capsys: pytest.CaptureFixture[str], words: str) -> None:
    code, _, err = wrpo(capsys, "plan", *words.split())
    assert (code, BAD[words] in err) == (2, True)
