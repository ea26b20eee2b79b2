"""Models made on the spot: random weights of any architecture, tokenizers trained on a few texts.

A dry run and the tests run recipes on them.
"""

from collections.abc import Iterable
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedModel, PreTrainedTokenizerBase, PreTrainedTokenizerFast

SPECIAL = ["<pad>", "<end>", "<user>", "<assistant>"]
TEMPLATE = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% if m.role == 'assistant' %}"
    "<end>{% endif %}{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
)


def build_tokenizer(corpus: Iterable[str]) -> PreTrainedTokenizerFast:
    """A byte-level BPE trained on ``corpus``, as in Llama 3 and Qwen; it can spell any text."""
    tokenizer, alphabet = Tokenizer(models.BPE()), pre_tokenizers.ByteLevel.alphabet()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    learn: dict[str, Any] = {"special_tokens": SPECIAL, "initial_alphabet": alphabet}
    learn |= {"vocab_size": 160 + len(SPECIAL) + len(alphabet), "show_progress": False}
    tokenizer.train_from_iterator(corpus, trainers.BpeTrainer(**learn))
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        eos_token="<end>",
        chat_template=TEMPLATE,
        clean_up_tokenization_spaces=False,
    )


def build_model(
    config: dict[str, Any], tokenizer: PreTrainedTokenizerBase, seed: int
) -> PreTrainedModel:
    """A randomly initialised causal LM of any Hugging Face architecture (``model_type``)."""
    ids = {"pad_token_id": tokenizer.pad_token_id, "eos_token_id": tokenizer.eos_token_id}
    common = {"vocab_size": len(tokenizer), "bos_token_id": None, "max_position_embeddings": 256}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        settings = transformers.AutoConfig.for_model(**{**common, **ids, **config})
        model = transformers.AutoModelForCausalLM.from_config(settings)
    model.generation_config.update(**ids)
    return model
