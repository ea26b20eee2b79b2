"""A tiny chat model with random weights."""

import pytest
from generation_rows import Tiny

from wrpo_lib.models import build_model, build_tokenizer

WORDS = "the answer is : copy reverse sort a b c d e f g h i j . sure result letters happy help"


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    """A two-layer Llama with a byte-level tokenizer and a chat template, also saved in a folder.

    Its generation configuration samples and has a top-k, as those of most hub models do.
    """
    tokenizer = build_tokenizer([WORDS] * 5)
    layers = {"num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1}
    sizes = {"hidden_size": 64, "intermediate_size": 128}
    model = build_model({"model_type": "llama", **layers, **sizes}, tokenizer, seed=0)
    model.lm_head.weight.data *= 4  # less uniform, more like a trained model
    folder = tmp_path_factory.mktemp("tiny")
    model.generation_config.update(do_sample=True, top_k=5, temperature=0.6)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return Tiny(model, tokenizer, folder)
