"""A tiny model, a tiny tokenizer and quadruples for the trainer's tests."""

import copy
from typing import Any

import pytest
from datasets import Dataset
from trl import SFTConfig

from wrpo_lib.models import build_model, build_tokenizer
from wrpo_lib.quadruples.schema import RESPONSES
from wrpo_lib.training import DynamicsCallback, WRPOConfig, WRPOTrainer, sft_trainer

WORDS = ["reverse", "sort", "copy", "answer", "is", "the", *"abcdefgh", ".", ":"]


@pytest.fixture(scope="session")
def tokenizer():
    """Every word is one token."""
    return build_tokenizer([" ".join(WORDS), "\n".join(WORDS)])


@pytest.fixture
def model(tokenizer):
    """It has no path, as a model fresh from SFT."""
    shape = {"model_type": "llama", "hidden_size": 32, "intermediate_size": 64}
    size = {"num_hidden_layers": 2, "num_attention_heads": 4, "tie_word_embeddings": True}
    return build_model({**shape, **size}, tokenizer, seed=0)


@pytest.fixture(scope="session")
def quadruples():
    rows = []
    for i in range(12):
        x = ["abcdefgh"[(i * k + k) % 8] for k in range(1, 4 + i % 3)]
        turn = {"role": "user", "content": f"reverse : {' '.join(x)}"}
        answer = " ".join(reversed(x))
        sides = (f"the answer is {answer} .", f"answer : {answer} .")
        sides += (f"answer : {' '.join(x[: 1 + i % 3])} .",)
        texts = dict(zip(RESPONSES, sides, strict=True))
        rows.append({"prompt_id": f"p{i}", "prompt": [turn], **texts})
    return Dataset.from_list(rows)


@pytest.fixture
def settings(tmp_path):
    """Training arguments for two cores and a few steps, large ones, so that steps differ."""
    size = {"per_device_train_batch_size": 2, "per_device_eval_batch_size": 2, "max_steps": 4}
    rate = {"learning_rate": 1e-2, "warmup_steps": 0, "max_length": 64, "seed": 7}
    off = dict.fromkeys(("bf16", "activation_checkpointing", "dataloader_pin_memory"), False)
    quiet = {"logging_steps": 1, "report_to": "none", "save_strategy": "no", "disable_tqdm": True}
    return {"output_dir": str(tmp_path / "run"), "use_cpu": True, **size, **rate, **off, **quiet}


@pytest.fixture
def trainer(settings, model, quadruples, tokenizer):
    """Build a WRPOTrainer; arguments of the trainer by name, all others go to its config."""

    def build(model: Any = model, dynamics_file: Any = None, **given: Any) -> WRPOTrainer:
        own: dict[str, Any] = {"train_dataset": quadruples, "processing_class": tokenizer}
        for name in (*own, "ref_model", "eval_dataset", "peft_config", "callbacks"):
            if name in given:
                own[name] = given.pop(name)
        if dynamics_file:
            own["callbacks"] = [*own.get("callbacks", []), DynamicsCallback(dynamics_file)]
        args = WRPOConfig(**{**settings, "beta": 0.5, "max_prompt_length": 32, **given})
        return WRPOTrainer(copy.deepcopy(model), args=args, **own)

    return build


@pytest.fixture
def sft(settings, model, quadruples, tokenizer):
    """Build a trainer of SFT; ``peft_config`` goes to it, all others to its config."""

    def build(peft_config: Any = None, **given: Any) -> Any:
        data = {"train_dataset": quadruples, "processing_class": tokenizer}
        args = SFTConfig(**{**settings, **given})
        return sft_trainer(copy.deepcopy(model), args, peft_config=peft_config, **data)

    return build


@pytest.fixture
def steps():
    """A logged quantity of each training step of a trainer, the loss by default."""

    def read(trainer: Any, key: str = "loss") -> list[float]:
        return [log[key] for log in trainer.state.log_history if "loss" in log]

    return read
