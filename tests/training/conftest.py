"""A tiny model, a tiny tokenizer and quadruples for the trainer's tests."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from wrpo_lib.training.config import WRPOConfig

WORDS = ["reverse", "sort", "copy", "answer", "is", "the", *"abcdefgh", ".", ":"]
TEMPLATE = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}"
    "{% if m.role == 'assistant' %}<end>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    special = ["<pad>", "<end>", "<user>", "<assistant>"]
    vocabulary = {w: i for i, w in enumerate([*special, *WORDS])}
    core = Tokenizer(models.WordLevel(vocabulary, unk_token="<pad>"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token="<pad>",
        eos_token="<end>",
        extra_special_tokens=special[2:],
        chat_template=TEMPLATE,
    )


@pytest.fixture(scope="session")
def _model(tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=4, max_position_embeddings=64, pad_token_id=0, eos_token_id=1,
        bos_token_id=None, tie_word_embeddings=True,
    )  # fmt: skip
    return LlamaForCausalLM(config)


@pytest.fixture
def model(_model: LlamaForCausalLM) -> LlamaForCausalLM:
    return copy.deepcopy(_model)


@pytest.fixture(scope="session")
def quadruples() -> Dataset:
    letters = ["a", "b", "c", "d", "e", "f", "g", "h"]
    rows = []
    for i in range(12):
        x = [letters[(i * k + k) % 8] for k in range(1, 4 + i % 3)]
        rows.append(
            {
                "prompt_id": f"p{i}",
                "prompt": [{"role": "user", "content": f"reverse : {' '.join(x)}"}],
                "source_chosen": f"the answer is {' '.join(reversed(x))} .",
                "target_chosen": f"answer : {' '.join(reversed(x))} .",
                "rejected": f"answer : {' '.join(x[: 1 + i % 3])} .",
            }
        )
    return Dataset.from_list(rows)


@pytest.fixture
def config(tmp_path: Path) -> Any:
    """A WRPOConfig for two cores and a few steps; keyword arguments override."""

    def build(**overrides: Any) -> WRPOConfig:
        values = {
            "output_dir": str(tmp_path / "run"),
            "per_device_train_batch_size": 2,
            "max_steps": 4,
            "learning_rate": 1e-2,
            "beta": 0.5,
            "max_length": 64,
            "max_prompt_length": 32,
            "train_sampling_strategy": "sequential",
            "report_to": "none",
            "use_cpu": True,
            "bf16": False,
            "activation_checkpointing": False,
            "save_strategy": "no",
            "disable_tqdm": True,
            "dataloader_pin_memory": False,
            "seed": 7,
        }
        return WRPOConfig(**{**values, **overrides})

    return build
