"""WRPOTrainer and SFT: metrics, references, forms, evaluation; prompts that cannot be shared."""

import copy
import math
from typing import Any

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from torch import Tensor
from transformers import LlamaForCausalLM

from wrpo_lib import sharing
from wrpo_lib.figures.responses import token_logprobs
from wrpo_lib.models import build_model
from wrpo_lib.objective import wrpo_simpo_loss
from wrpo_lib.quadruples.schema import RESPONSES
from wrpo_lib.training import WRPOTrainer

METRICS = """alpha loss grad_norm learning_rate num_tokens rewards/source_chosen
rewards/target_chosen rewards/fused rewards/rejected rewards/margins rewards/accuracies
rewards/source_accuracies rewards/target_accuracies logps/source_chosen logps/target_chosen
logps/rejected"""
CONSTANT = {"alpha": 0.5, "alpha_schedule": "constant", "max_steps": 2}


def logps(model: Any, tokenizer: Any, rows: Any) -> dict[str, Tensor]:
    """log π(y|x) (B,) of each kind of response, one row at a time."""
    found: dict[str, list[float]] = {name: [] for name in RESPONSES}
    for row in rows:
        for name, sums in found.items():
            tokens = token_logprobs(model, tokenizer, row["prompt"], row[name])
            sums.append(sum(logp for _, logp in tokens))
    return {name: torch.tensor(sums) for name, sums in found.items()}


def test_every_step_logs_every_metric_and_evaluation_its_own(trainer, steps, quadruples):
    when = {"eval_dataset": quadruples.select(range(6)), "eval_strategy": "steps", "eval_steps": 2}
    run = trainer(alpha=0.4, **when)
    run.train()
    for log in [log for log in run.state.log_history if "loss" in log]:
        assert set(log) == {*METRICS.split(), "epoch", "step"}
    assert steps(run, "alpha") == pytest.approx([0.0, 0.1, 0.2, 0.3])
    assert steps(run)[0] == pytest.approx(math.log(2), abs=1e-6)
    first, second = [log for log in run.state.log_history if "eval_loss" in log]
    assert (first["step"], second["step"]) == (2, 4)
    assert (first["eval_alpha"], second["eval_alpha"]) == pytest.approx((0.2, 0.4))
    assert {f"eval_{name}" for name in METRICS.split() if "/" in name} <= set(first)
    assert first["eval_rewards/fused"] != second["eval_rewards/fused"]
    assert set(run.truncation) == {"train", "eval"}


def test_metrics_belong_to_the_right_examples(trainer, model, tokenizer, quadruples):
    """Against log-probabilities computed one row at a time; the official pivot_accuracies
    compares unrelated rows, which gives another number here."""
    torch.manual_seed(3)
    moved = copy.deepcopy(model)
    with torch.no_grad():
        for weight in moved.parameters():
            weight.add_(0.05 * torch.randn_like(weight))
    data = {"eval_dataset": quadruples, "per_device_eval_batch_size": 12}
    found = trainer(model=moved, ref_model=model, **{**CONSTANT, "alpha": 0.3}, **data).evaluate()
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
    assert found["eval_loss"] == pytest.approx(-(fused - rejected).sigmoid().log().mean().item())


@pytest.mark.parametrize("tuning", ["full", "lora"])
def test_every_way_to_a_reference_gives_the_same_losses(trainer, steps, model, tuning):
    def losses(**kwargs: Any) -> list[float]:
        lora = LoraConfig(r=4, target_modules=["q_proj", "v_proj"]) if tuning == "lora" else None
        run = trainer(peft_config=lora, alpha=0.5, **{"precompute_ref_log_probs": False, **kwargs})
        run.train()
        return steps(run)

    implicit = losses()
    assert implicit[0] - implicit[-1] > 0.01, "nothing was learned, so nothing was compared"
    assert losses(ref_model=copy.deepcopy(model)) == pytest.approx(implicit, rel=1e-5)
    precomputed = losses(precompute_ref_log_probs=True, precompute_ref_batch_size=5)
    assert precomputed == pytest.approx(implicit, rel=1e-5)
    assert losses(activation_checkpointing=True) == pytest.approx(implicit, rel=1e-5)


def test_the_reference_is_the_model_as_given_not_as_on_disk(trainer, steps, model, tmp_path):
    """A model fine-tuned in memory still names the path it came from; that is not πref.
    A trained adapter is its own reference."""
    model.save_pretrained(tmp_path / "target")
    loaded = LlamaForCausalLM.from_pretrained(tmp_path / "target")
    adapted = get_peft_model(model, LoraConfig(r=4, target_modules=["q_proj"]))
    with torch.no_grad():
        loaded.lm_head.weight.mul_(1.5)
        for name, weight in adapted.named_parameters():
            if "lora_B" in name:
                weight.normal_(generator=torch.Generator().manual_seed(1))
    for start in (loaded, adapted):
        run = trainer(model=start, max_steps=2, precompute_ref_log_probs=start is adapted)
        run.train()
        assert run.ref_model is None
        assert steps(run)[0] == pytest.approx(math.log(2), abs=1e-6)


def test_simpo_form(trainer, steps, model, tokenizer, quadruples):
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
    assert run.evaluate(run.train_dataset.select([0]))["eval_loss"] > 0


def test_mixture_of_experts_keeps_its_balancing_loss(trainer, steps, tokenizer):
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


# --- SFT on y_ws: the same tokens as preference training, the loss on the response alone ----------


def test_first_sft_loss_is_the_mean_over_response_tokens(sft, trainer, steps):
    in_order = {"train_sampling_strategy": "sequential"}
    preference = trainer(alpha=1.0, alpha_schedule="constant", **in_order)
    preference.train()
    first_two = preference.train_dataset.select([0, 1])
    tokens = sum(map(len, first_two["source_chosen_ids"]))
    expected = -2 * steps(preference, "logps/source_chosen")[0] / tokens

    run = sft(**in_order)
    ids = first_two[0]["prompt_ids"] + first_two[0]["source_chosen_ids"]
    assert run.train_dataset[0]["input_ids"] == ids
    run.train()
    losses = steps(run)
    assert losses[0] == pytest.approx(expected, rel=1e-4)
    assert losses[-1] < losses[0]
    cut = sft(max_length=17).truncation["train"]
    assert cut["rows"] == 12
    assert 0 < cut["source_chosen"] < 12


def test_a_packed_block_of_sft_needs_no_mask(sft, steps, monkeypatch):
    """Rows that follow each other train as TRL trains them with a mask of the block squared."""
    settings = {"packing": True, "packing_strategy": "bfd", "max_length": 40, "max_steps": 3}
    seen: list[Any] = []
    ordinary = sharing._sdpa
    monkeypatch.setattr(sharing, "_sdpa", lambda *given: seen.append(given[3]) or ordinary(*given))
    ours = sft(**settings)
    ours.train()
    assert len(seen[-1].examples) > 2, "rows were packed"
    monkeypatch.setattr(sharing, "obstacle", lambda *given, **named: "switched off")
    theirs = sft(**settings)
    theirs.train()
    assert steps(ours) == pytest.approx(steps(theirs), rel=1e-5)
    assert steps(ours, "grad_norm") == pytest.approx(steps(theirs, "grad_norm"), rel=1e-4)
    assert steps(ours)[-1] < steps(ours)[0]


def test_adapters_of_a_quantised_base_are_float32(sft, trainer, model):
    """TRL makes them bfloat16, in which small updates round away."""
    model.is_loaded_in_4bit = True  # as bitsandbytes leaves it; the weights here are whole
    for build in (trainer, sft):
        run = build(peft_config=LoraConfig(r=4, target_modules=["q_proj"]))
        trained = {p.dtype for p in run.model.parameters() if p.requires_grad}
        assert trained == {torch.float32}


# --- a reference is found again where nothing changed; a stopped run goes on exactly --------------


def test_a_reference_is_computed_once_until_what_it_depends_on_changes(
    trainer, steps, monkeypatch, tmp_path, model, quadruples, tokenizer
):
    rows_done, ordinary = [], WRPOTrainer.compute_ref_log_probs

    def counted(self: WRPOTrainer, model: Any, inputs: dict[str, Any]) -> Any:
        rows_done.append(len(inputs["lengths"]))
        return ordinary(self, model, inputs)

    monkeypatch.setattr(WRPOTrainer, "compute_ref_log_probs", counted)
    cache = {"ref_cache_dir": str(tmp_path / "cache")}
    first = trainer(alpha=0.5, **cache)
    first.train()
    assert sum(rows_done) == 12, "the reference ran during training"
    for change in ({"alpha": 0.1}, {"beta": 0.1}, {"objective": "ipo"}, {"learning_rate": 1e-4}):
        trainer(**{"alpha": 0.5, **change}, **cache)
    again = trainer(alpha=0.5, **cache)
    assert sum(rows_done) == 12, "it ran again though nothing changed"
    again.train()
    assert steps(again) == steps(first)

    other_template = copy.deepcopy(tokenizer)
    other_template.chat_template = tokenizer.chat_template.replace("{{ m.c", ": {{ m.c")
    rows = quadruples.to_list()
    rows[5]["rejected"] = "a b"
    moved = copy.deepcopy(model)
    with torch.no_grad():
        moved.lm_head.weight[3, 3] += 1e-3
    for change in (
        {"model": moved},
        {"bf16": True},
        {"processing_class": other_template},
        {"max_length": 17, "max_prompt_length": 10},
        {"train_dataset": Dataset.from_list(rows)},
        {"alpha": 0.0, "score_unused": False},
    ):
        rows_done.clear()
        trainer(**change, **cache)
        assert sum(rows_done) == 12, change


def test_a_resumed_adapter_is_where_it_was(trainer, steps, tmp_path):
    """Neither shared nor precomputed; the command's test kills a run that is both."""
    same = {"precompute_ref_log_probs": False, "share_prompt": False, "alpha": 0.5}
    same |= {"gradient_accumulation_steps": 2, "max_steps": 6, "save_strategy": "steps"}
    lora = {"r": 4, "target_modules": ["q_proj", "v_proj"]}
    whole, resumed = (trainer(**same, save_steps=4, peft_config=LoraConfig(**lora)) for _ in "ab")
    whole.train()
    resumed.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-4"))
    assert steps(resumed) == steps(whole)
    for name, weight in whole.model.named_parameters():
        assert weight.equal(resumed.model.get_parameter(name)), name
