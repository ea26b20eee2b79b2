"""What we lean on in TRL, so that an upgrade fails here, by name, and not somewhere in training."""

from __future__ import annotations

import copy
import inspect
from dataclasses import fields
from importlib import metadata
from typing import Any

import torch
from accelerate.utils import send_to_device
from transformers import (
    AttentionInterface,
    AttentionMaskInterface,
    LlamaConfig,
    LlamaForCausalLM,
    Trainer,
)
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.trainer_pt_utils import find_batch_size
from trl import DPOConfig, DPOTrainer
from trl.trainer.utils import add_fused_lm_head

from wrpo_lib.packing import Branches
from wrpo_lib.training.config import UNSUPPORTED, WRPOConfig
from wrpo_lib.training.trainer import WRPOTrainer

WHERE = "TRL changed; adapt src/wrpo_lib/training/trainer.py and then this test: "

SIGNATURES = {
    "_prepare_dataset": ["self", "dataset", "processing_class", "args", "dataset_name"],
    "_set_signature_columns_if_needed": ["self"],
    "_precompute_ref_logps": ["self", "dataset", "name", "batch_size"],
    "compute_ref_log_probs": ["self", "model", "inputs"],
    "prediction_step": ["self", "model", "inputs", "prediction_loss_only", "ignore_keys"],
    "compute_loss": ["self", "model", "inputs", "return_outputs", "num_items_in_batch"],
}


def test_version_is_the_pinned_one() -> None:
    version = metadata.version("trl")
    assert version.startswith("1.16."), f"{WHERE}written for TRL 1.16, found {version}"


def test_no_other_method_of_the_parents_is_overridden() -> None:
    ours = {name for name, value in vars(WRPOTrainer).items() if inspect.isfunction(value)}
    inherited = {name for name in ours if hasattr(DPOTrainer, name)}
    assert inherited == {"__init__", *SIGNATURES}, f"{WHERE}a helper of ours now hides one of TRL's"


def test_a_batch_mean_is_divided_by_the_accumulation_steps() -> None:
    """compute_loss returns a mean over the batch, which the Trainer must know."""
    assert DPOTrainer.loss_is_scaled_for_ga is False, f"{WHERE}loss_is_scaled_for_ga"


def test_config_fields_we_refuse_or_override_exist() -> None:
    parent = {field.name for field in fields(DPOConfig)}
    missing = set(UNSUPPORTED) - parent
    assert not missing, f"{WHERE}DPOConfig dropped {missing}"
    own = {
        "objective",
        "alpha",
        "alpha_schedule",
        "tau",
        "gamma",
        "max_prompt_length",
        "alpha_rejected",
        "score_unused",
        "share_prompt",
        "share_prompt_backend",
        "ref_cache_dir",
        "dynamics_file",
    }
    assert not own & parent, f"{WHERE}DPOConfig now has {own & parent} itself"
    assert {field.name for field in fields(WRPOConfig)} - parent == own


def test_new_config_fields_are_looked_at() -> None:
    """A new option of DPOConfig may change its loss: support it, or add it to UNSUPPORTED."""
    known = set(UNSUPPORTED) | {
        "activation_offloading",
        "beta",
        "dataset_num_proc",
        "disable_dropout",
        "discopop_tau",
        "f_alpha_divergence_coef",
        "learning_rate",
        "max_length",
        "model_init_kwargs",
        "pad_to_multiple_of",
        "precompute_ref_batch_size",
        "precompute_ref_log_probs",
        "ref_model_mixup_alpha",
        "ref_model_sync_steps",
        "router_aux_loss_coef",
        "trust_remote_code",
    }
    declared = set(DPOConfig.__annotations__) - {"_VALID_DICT_FIELDS"}
    assert declared == known, f"{WHERE}DPOConfig gained {declared - known}, lost {known - declared}"


def test_fused_head_gives_masked_log_probabilities(model: LlamaForCausalLM) -> None:
    """(rows, T-1) log-probabilities of the labels, 0 where the label is -100."""
    patched = copy.deepcopy(model)
    add_fused_lm_head(patched)
    ids = torch.randint(4, 20, (3, 9), generator=torch.Generator().manual_seed(0))
    labels = ids.clone()
    labels[:, :4] = -100
    found = patched(input_ids=ids, labels=labels, use_cache=False, fused_lm_head=True).log_probs
    assert found.shape == (3, 8), f"{WHERE}fused_lm_head's log_probs"
    with torch.no_grad():
        plain = model(input_ids=ids).logits[:, :-1].log_softmax(-1)
    expected = plain.gather(-1, ids[:, 1:, None]).squeeze(-1) * (labels[:, 1:] != -100)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_fused_head_takes_shifted_labels_and_looks_its_backbone_up(
    model: LlamaForCausalLM,
) -> None:
    """Hidden states as the backbone's hooks leave them, labels that need no shift."""
    patched = copy.deepcopy(model)
    add_fused_lm_head(patched, outputs=("log_probs",))
    patched.base_model.register_forward_hook(lambda m, args, out: _keep_two(out))
    ids = torch.tensor([[4, 5, 6, 7]])
    labels = torch.tensor([[6, 7]])
    found = patched(input_ids=ids, shift_labels=labels, use_cache=False, fused_lm_head=True)
    with torch.no_grad():
        expected = model(input_ids=ids).logits[:, 1:3].log_softmax(-1)
    torch.testing.assert_close(found.log_probs, expected.gather(-1, labels[..., None])[..., 0])


def _keep_two(output: Any) -> Any:
    output.last_hidden_state = output.last_hidden_state[:, 1:3]
    return output


def test_transformers_lets_attention_be_replaced() -> None:
    """What sharing leans on: registers, keyword arguments that reach attention, 4-D masks."""
    seen = []

    def attend(module: Any, q: Any, k: Any, v: Any, mask: Any, **kwargs: Any) -> Any:
        seen.append((mask, kwargs["branches"], kwargs["scaling"]))
        return v.transpose(1, 2), None

    AttentionInterface.register("contract", attend)
    AttentionMaskInterface.register("contract", ALL_MASK_ATTENTION_FUNCTIONS["sdpa"])
    config = LlamaConfig(
        vocab_size=9, hidden_size=8, intermediate_size=8, num_hidden_layers=2, num_attention_heads=2
    )
    tiny = LlamaForCausalLM(config)
    assert tiny._supports_attention_backend, "transformers renamed it; adapt sharing.obstacle"
    tiny.set_attn_implementation("contract")
    mask = torch.ones(1, 1, 1, 1, dtype=torch.bool)
    tiny.model(input_ids=torch.tensor([[3, 4]]), attention_mask=mask, branches="here")
    assert [(m is mask, b) for m, b, _ in seen] == [(True, "here")] * 2
    assert "attn_implementation" not in tiny.config.to_json_string()  # a checkpoint stays plain


def test_accelerate_leaves_what_is_no_tensor_in_a_batch() -> None:
    branches = Branches(((1, (1,)),))
    batch = {"lengths": torch.ones(1, 1), "branches": branches, "prompt_id": ["a"]}
    moved = send_to_device(batch, "cpu")
    assert moved["branches"] is branches
    assert moved["prompt_id"] == ["a"]
    assert find_batch_size({"lengths": torch.ones(5, 3), "input_ids": torch.ones(1, 40)}) == 5


def test_trainer_counts_optimiser_steps_before_the_update() -> None:
    """alpha reads state.global_step inside compute_loss: it must rise after the update only."""
    source = inspect.getsource(Trainer)
    step = source.index("self.optimizer.step()")
    assert source.index("global_step += 1") > step, "transformers changed when global_step rises"
