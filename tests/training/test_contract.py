"""What we lean on in TRL, so that an upgrade fails here, by name, and not somewhere in training."""

import inspect
from dataclasses import fields
from importlib import metadata
from typing import Any

import pytest
from transformers import LlamaForCausalLM, Trainer
from trl import DPOConfig, DPOTrainer
from trl.trainer import utils

from wrpo_lib import packing
from wrpo_lib.quadruples.schema import RESPONSES
from wrpo_lib.training.config import UNSUPPORTED, WRPOConfig
from wrpo_lib.training.data import WRPOCollator
from wrpo_lib.training.trainer import WRPOTrainer

WHERE = "TRL changed; adapt src/wrpo_lib/training/trainer.py and then this test: "

SIGNATURES = {
    "_prepare_dataset": ["self", "dataset", "processing_class", "args", "dataset_name"],
    "_precompute_ref_logps": ["self", "dataset", "name", "batch_size"],
    "compute_ref_log_probs": ["self", "model", "inputs"],
    "compute_loss": ["self", "model", "inputs", "return_outputs", "num_items_in_batch"],
}
OWN = """objective alpha alpha_schedule tau gamma max_prompt_length alpha_rejected score_unused
share_prompt share_prompt_backend micro_batch_tokens ref_cache_dir"""
USED = """activation_offloading beta dataset_num_proc disable_dropout discopop_tau
f_alpha_divergence_coef learning_rate max_length model_init_kwargs precompute_ref_batch_size
precompute_ref_log_probs ref_model_mixup_alpha ref_model_sync_steps router_aux_loss_coef
trust_remote_code"""


def test_the_trainer_overrides_what_it_did_in_the_pinned_version() -> None:
    version = metadata.version("trl")
    assert version.startswith("1.16."), f"{WHERE}written for TRL 1.16, found {version}"
    assert DPOTrainer.loss_is_scaled_for_ga is False, f"{WHERE}loss_is_scaled_for_ga"
    ours = {name for name, value in vars(WRPOTrainer).items() if inspect.isfunction(value)}
    inherited = {name for name in ours if hasattr(DPOTrainer, name)}
    assert inherited == {"__init__", "training_step", *SIGNATURES}, (
        f"{WHERE}a helper of ours now hides one of TRL's"
    )
    for name, parameters in SIGNATURES.items():
        for owner in (DPOTrainer, WRPOTrainer):
            found = inspect.signature(getattr(owner, name)).parameters
            assert list(found) == parameters, f"{WHERE}{owner.__name__}.{name}"


def test_config_fields_are_those_we_looked_at() -> None:
    """A new option of DPOConfig may change its loss: support it, or add it to UNSUPPORTED."""
    parent = {field.name for field in fields(DPOConfig)}
    assert {field.name for field in fields(WRPOConfig)} - parent == set(OWN.split())
    assert set(UNSUPPORTED) <= parent
    known = {*UNSUPPORTED, *USED.split()} - {"train_sampling_strategy"}
    declared = set(DPOConfig.__annotations__) - {"_VALID_DICT_FIELDS"}
    assert declared == known, f"{WHERE}DPOConfig gained {declared - known}, lost {known - declared}"


def test_trainer_counts_optimiser_steps_before_the_update() -> None:
    """alpha reads state.global_step inside compute_loss: it must rise after the update only."""
    source = inspect.getsource(Trainer)
    step = source.index("self.optimizer.step()")
    assert source.index("global_step += 1") > step, "transformers changed when global_step rises"


def test_the_tile_of_the_fused_head_is_read_at_each_call(
    model: LlamaForCausalLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    """packing.response_logps sets it on a CPU."""
    seen, ordinary = [], utils._ChunkedLogProbFunction.apply

    def apply(*args: Any) -> Any:
        seen.append(args[5])
        return ordinary(*args)

    utils.add_fused_lm_head(model)
    monkeypatch.setattr(utils._ChunkedLogProbFunction, "apply", apply)
    monkeypatch.setattr(utils, "_CHUNKED_LOGPROB_CHUNK_SIZE", 8)  # fails where TRL has it no more
    row = {key: [2, 3] for key in ("prompt_ids", *(f"{name}_ids" for name in RESPONSES))}
    packing.response_logps(model, WRPOCollator()([row]))
    assert seen == [packing.CPU_TILE]
