"""WRPOTrainer: metrics, references, forms, evaluation, and errors before any step is taken."""

import copy
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from torch import Tensor
from transformers import LlamaForCausalLM
from transformers import PreTrainedTokenizerFast as Tokenizer

from wrpo_lib.figures.responses import token_logprobs
from wrpo_lib.objective import wrpo_simpo_loss
from wrpo_lib.quadruples.schema import RESPONSES
from wrpo_lib.tiny import build_model
from wrpo_lib.training.trainer import WRPOTrainer

Build = Callable[..., WRPOTrainer]
Steps = Callable[..., list[float]]

METRICS = """alpha loss grad_norm learning_rate num_tokens rewards/source_chosen
rewards/target_chosen rewards/fused rewards/rejected rewards/margins rewards/accuracies
rewards/source_accuracies rewards/target_accuracies logps/source_chosen logps/target_chosen
logps/rejected"""
CONSTANT = {"alpha": 0.5, "alpha_schedule": "constant", "max_steps": 2}


def logps(model: Any, tokenizer: Tokenizer, rows: Dataset) -> dict[str, Tensor]:
    """log π(y|x) (B,) of each kind of response, one row at a time."""
    found: dict[str, list[float]] = {name: [] for name in RESPONSES}
    for row in rows:
        for name, sums in found.items():
            tokens = token_logprobs(model, tokenizer, row["prompt"], row[name])
            sums.append(sum(logp for _, logp in tokens))
    return {name: torch.tensor(sums) for name, sums in found.items()}


def test_every_step_logs_every_metric(trainer: Build, steps: Steps) -> None:
    run = trainer(alpha=0.4)
    run.train()
    for log in run.state.log_history[:-1]:
        assert set(log) == {*METRICS.split(), "epoch", "step"}
    assert steps(run, "alpha") == pytest.approx([0.0, 0.1, 0.2, 0.3])
    assert steps(run)[0] == pytest.approx(math.log(2), abs=1e-6)


def test_metrics_belong_to_the_right_examples(
    trainer: Build, model: LlamaForCausalLM, tokenizer: Tokenizer, quadruples: Dataset
) -> None:
    """Against log-probabilities computed one row at a time; the official pivot_accuracies
    compares unrelated rows, which gives another number here."""
    torch.manual_seed(3)
    moved = copy.deepcopy(model)
    with torch.no_grad():
        for weight in moved.parameters():
            weight.add_(0.05 * torch.randn_like(weight))
    data = {"eval_dataset": quadruples, "per_device_eval_batch_size": 12}
    run = trainer(model=moved, ref_model=model, **{**CONSTANT, "alpha": 0.3}, **data)
    found = run.evaluate()
    policy, reference = (logps(each, tokenizer, quadruples) for each in (moved, model))
    rewards = {name: 0.5 * (policy[name] - reference[name]) for name in RESPONSES}
    source, target, rejected = rewards.values()
    fused = 0.3 * source + 0.7 * target
    for name, value in {**rewards, "fused": fused}.items():
        assert found[f"eval_rewards/{name}"] == pytest.approx(value.mean().item(), abs=1e-5)
    for name, value in policy.items():
        assert found[f"eval_logps/{name}"] == pytest.approx(value.mean().item(), rel=1e-5)
    for name, value in {"": fused, "source_": source, "target_": target}.items():
        expected = (value > rejected).float().mean().item()
        assert found[f"eval_rewards/{name}accuracies"] == pytest.approx(expected)
    wrong = (source > rejected.unsqueeze(1)).float().mean().item()
    assert found["eval_rewards/source_accuracies"] != pytest.approx(wrong)
    loss = -torch.nn.functional.logsigmoid(fused - rejected).mean().item()
    assert found["eval_loss"] == pytest.approx(loss, rel=1e-5)


@pytest.mark.parametrize("tuning", ["full", "lora"])
def test_every_way_to_a_reference_gives_the_same_losses(
    trainer: Build, steps: Steps, model: LlamaForCausalLM, tuning: str
) -> None:
    def losses(**kwargs: Any) -> list[float]:
        lora = LoraConfig(r=4, target_modules=["q_proj", "v_proj"])
        given = {"peft_config": lora if tuning == "lora" else None, "alpha": 0.5}
        run = trainer(**given, **{"precompute_ref_log_probs": False, **kwargs})
        run.train()
        return steps(run)

    implicit = losses()
    assert implicit[0] - implicit[-1] > 0.01, "nothing was learned, so nothing was compared"
    assert losses(ref_model=copy.deepcopy(model)) == pytest.approx(implicit, rel=1e-5)
    precomputed = losses(precompute_ref_log_probs=True, precompute_ref_batch_size=5)
    assert precomputed == pytest.approx(implicit, rel=1e-5)
    assert losses(activation_checkpointing=True) == pytest.approx(implicit, rel=1e-5)


def test_the_reference_is_the_model_as_given_not_as_on_disk(
    trainer: Build, steps: Steps, model: LlamaForCausalLM, tmp_path: Path
) -> None:
    """A model fine-tuned in memory still names the path it came from; that is not πref."""
    model.save_pretrained(tmp_path / "target")
    loaded = LlamaForCausalLM.from_pretrained(tmp_path / "target")
    with torch.no_grad():
        loaded.lm_head.weight.mul_(1.5)
    first = trainer(model=loaded)
    first.train()
    second = trainer(model=first.model, precompute_ref_log_probs=False)  # is so all the same
    second.train()
    for run in (first, second):
        assert steps(run)[0] == pytest.approx(math.log(2), abs=1e-6)


def test_a_trained_adapter_is_its_own_reference(
    trainer: Build, steps: Steps, model: LlamaForCausalLM
) -> None:
    adapted = get_peft_model(model, LoraConfig(r=4, target_modules=["q_proj"]))
    with torch.no_grad():
        for name, weight in adapted.named_parameters():
            if "lora_B" in name:
                weight.normal_(generator=torch.Generator().manual_seed(1))
    run = trainer(model=adapted, max_steps=2)
    run.train()
    assert run.ref_model is None
    assert steps(run)[0] == pytest.approx(math.log(2), abs=1e-6)


def test_simpo_form(
    trainer: Build, steps: Steps, model: LlamaForCausalLM, tokenizer: Tokenizer, quadruples: Dataset
) -> None:
    form = {"objective": "simpo", "beta": 2.0, "gamma": 0.3}
    run = trainer(**form, **CONSTANT, train_sampling_strategy="sequential")
    assert run.ref_model is None
    assert not any(name.startswith("ref_") for name in run.train_dataset.column_names)
    first = run.train_dataset.select([0, 1])
    lengths = [torch.tensor([len(ids) for ids in first[f"{name}_ids"]]) for name in RESPONSES]
    policy = logps(model, tokenizer, quadruples.select([0, 1])).values()
    expected = wrpo_simpo_loss(*policy, *lengths, alpha=0.5, beta=2.0, gamma=0.3)
    run.train()
    assert steps(run)[0] == pytest.approx(expected.losses.mean().item(), rel=1e-5)
    assert steps(run)[1] != pytest.approx(steps(run)[0], rel=1e-3)
    assert run.evaluate(run.train_dataset.select([0]))["eval_loss"] > 0


def test_ipo_form(trainer: Build, steps: Steps) -> None:
    run = trainer(objective="ipo", tau=0.2, **CONSTANT)
    run.train()
    assert steps(run)[0] == pytest.approx((1 / (2 * 0.2)) ** 2, rel=1e-5)
    assert steps(run)[1] != pytest.approx(steps(run)[0], rel=1e-3)


def test_mixture_of_experts_keeps_its_balancing_loss(
    trainer: Build, steps: Steps, tokenizer: Tokenizer
) -> None:
    shape = {"model_type": "mixtral", "hidden_size": 32, "intermediate_size": 32}
    shape |= {"num_hidden_layers": 1, "num_attention_heads": 4, "num_key_value_heads": 4}
    shape |= {"num_local_experts": 4, "num_experts_per_tok": 2, "router_aux_loss_coef": 0.0}
    experts = build_model(shape, tokenizer, seed=0)
    losses = []
    for weight in (0.0, 0.5):
        run = trainer(model=experts, router_aux_loss_coef=weight, max_steps=1)
        run.train()
        losses += steps(run)
    assert losses[0] == pytest.approx(math.log(2), abs=1e-5)
    assert losses[1] > losses[0] + 0.5  # balanced experts have a balancing loss of top-k, 2 here


def test_evaluation_during_training(trainer: Build, quadruples: Dataset) -> None:
    when = {"eval_dataset": quadruples.select(range(6)), "eval_strategy": "steps", "eval_steps": 2}
    run = trainer(alpha=0.4, **when)
    run.train()
    logs = [log for log in run.state.log_history if "eval_loss" in log]
    assert [log["step"] for log in logs] == [2, 4]
    assert [log["eval_alpha"] for log in logs] == pytest.approx([0.2, 0.4])  # as it stands then
    assert {f"eval_{name}" for name in METRICS.split() if "/" in name} <= set(logs[0])
    assert logs[0]["eval_rewards/fused"] != logs[1]["eval_rewards/fused"]
    assert set(run.truncation) == {"train", "eval"}
