"""Defaults are the paper's; what cannot go well is one sentence; what we lean on in TRL."""

import inspect
import math
from dataclasses import fields
from importlib import metadata
from typing import Any

import pandas as pd
import pytest
from datasets import Dataset
from transformers import TrainerCallback
from trl import DPOConfig, DPOTrainer
from trl.trainer import utils

from wrpo_lib.errors import WRPOError
from wrpo_lib.quadruples.schema import RESPONSES
from wrpo_lib.training import WRPOConfig, WRPOTrainer
from wrpo_lib.training.inputs import UNSUPPORTED


def test_defaults_are_those_of_table_6_and_section_4_1(shared, tmp_path):
    table = pd.read_csv(shared / "paper" / "table06_hyperparameters.csv").set_index("method")
    args = WRPOConfig(str(tmp_path), bf16=False, use_cpu=True)
    row = table.loc["WRPO_DPO"]
    assert (args.beta, args.alpha, args.learning_rate) == (row.beta, row.alpha, row.learning_rate)
    assert args.tau == table.loc["WRPO_IPO"].tau
    assert args.gamma == table.loc["WRPO_SimPO"].gamma
    assert (args.max_length, args.max_prompt_length) == (2048, 1800)
    assert (args.lr_scheduler_type, args.num_train_epochs, args.seed) == ("cosine", 1, 42)
    assert args.get_warmup_steps(311) == 32  # a share of 0.1, rounded up
    assert args.alpha_schedule == "linear"
    assert args.activation_checkpointing


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(("alpha", value) for value in (-0.1, 1.1, math.nan)),
        *((name, "other") for name in ("objective", "alpha_schedule", *UNSUPPORTED)),
        *(("share_prompt", "other"), ("share_prompt_backend", "other")),
        ("micro_batch_tokens", 0),
    ],
)
def test_values_without_meaning_are_refused(field, value):
    with pytest.raises(WRPOError, match=field) as error:
        WRPOConfig(bf16=False, use_cpu=True, **{field: value})
    assert "\n" not in str(error.value)


def test_a_missing_column_or_an_empty_response_is_named(trainer, quadruples):
    for name, column in (("train", "prompt"), ("eval", "rejected")):
        with pytest.raises(WRPOError, match=f"the {name} data lack the column '{column}'"):
            trainer(**{f"{name}_dataset": quadruples.remove_columns(column)})
    for column, text in zip(RESPONSES, ("", "  \n", None), strict=True):
        rows = quadruples.to_list()
        rows[4][column] = text
        with pytest.raises(WRPOError, match=f"the train data, row 5: field '{column}'"):
            trainer(train_dataset=Dataset.from_list(rows))


class Poison(TrainerCallback):
    """Make the weights NaN after step 2, as a diverged run does."""

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == 2:
            kwargs["model"].lm_head.weight.data[5] = float("nan")


def test_a_loss_that_is_not_finite_stops_the_run(trainer, tmp_path):
    saving = {"save_strategy": "steps", "save_steps": 1, "train_sampling_strategy": "sequential"}
    run = trainer(callbacks=[Poison()], **saving)
    with pytest.raises(WRPOError, match="is not finite in step 3, for the prompts p4, p5;"):
        run.train()
    assert (tmp_path / "run" / "checkpoint-2" / "model.safetensors").is_file()


def test_what_is_cut_is_counted_and_nothing_left_is_refused(trainer):
    with pytest.raises(WRPOError, match="every response of the train data is longer than max_leng"):
        trainer(max_length=8, max_prompt_length=6)
    with pytest.raises(WRPOError, match=r"the train data, row 1: a prompt of 7 tokens leaves no"):
        trainer(max_length=7, max_prompt_length=None)
    found = trainer(max_length=14, max_prompt_length=8).truncation["train"]
    assert 0 < found["rejected"] < 12
    assert found["prompt"] > 0


# --- what we lean on in TRL, so that an upgrade fails here, by name ------------------------------

WHERE = "TRL changed; adapt src/wrpo_lib/training/trainer.py and then this test: "
SIGNATURES = {
    "_prepare_dataset": ["self", "dataset", "processing_class", "args", "dataset_name"],
    "_precompute_ref_logps": ["self", "dataset", "name", "batch_size"],
    "compute_ref_log_probs": ["self", "model", "inputs"],
    "compute_loss": ["self", "model", "inputs", "return_outputs", "num_items_in_batch"],
}
USED = """activation_offloading beta dataset_num_proc disable_dropout discopop_tau
f_alpha_divergence_coef learning_rate max_length model_init_kwargs precompute_ref_batch_size
precompute_ref_log_probs ref_model_mixup_alpha ref_model_sync_steps router_aux_loss_coef
trust_remote_code"""


def test_the_trainer_overrides_what_it_did_in_the_pinned_version():
    version = metadata.version("trl")
    assert version.startswith("1.16."), f"{WHERE}written for TRL 1.16, found {version}"
    assert DPOTrainer.loss_is_scaled_for_ga is False, f"{WHERE}loss_is_scaled_for_ga"
    tile = "_CHUNKED_LOGPROB_CHUNK_SIZE"  # set, and read at each call; smaller on a CPU
    assert inspect.getsource(utils).count(tile) == 2, f"{WHERE}{tile}"
    ours = {name for name, value in vars(WRPOTrainer).items() if inspect.isfunction(value)}
    inherited = {name for name in ours if hasattr(DPOTrainer, name)}
    assert inherited == {"__init__", "training_step", *SIGNATURES}, (
        f"{WHERE}a helper of ours now hides one of TRL's"
    )
    for name, parameters in SIGNATURES.items():
        for owner in (DPOTrainer, WRPOTrainer):
            found = inspect.signature(getattr(owner, name)).parameters
            assert list(found) == parameters, f"{WHERE}{owner.__name__}.{name}"


def test_config_fields_are_those_we_looked_at():
    """A new option of DPOConfig may change its loss: support it, or add it to UNSUPPORTED."""
    assert set(UNSUPPORTED) <= {field.name for field in fields(DPOConfig)}
    known = {*UNSUPPORTED, *USED.split()} - {"train_sampling_strategy"}
    declared = set(DPOConfig.__annotations__) - {"_VALID_DICT_FIELDS"}
    assert declared == known, f"{WHERE}DPOConfig gained {declared - known}, lost {known - declared}"
