"""Models made on the spot: random weights of any architecture, tokenizers trained on a few texts.

The testbed trains them, a dry run and the tests run recipes on them.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedModel, PreTrainedTokenizerBase, PreTrainedTokenizerFast

TEMPLATES = {
    "angle": "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% if m.role == 'assistant' %}"
    "<end>{% endif %}{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}",
    "turns": "{% for m in messages %}{{ '[model]' if m.role == 'assistant' else '[user]' }}"
    "{{ m.content }}<eot>{% endfor %}{% if add_generation_prompt %}[model]{% endif %}",
}
SPECIAL = {"angle": ["<end>", "<user>", "<assistant>"], "turns": ["<eot>", "[user]", "[model]"]}
"""Each template's special tokens, the end token first."""


def build_tokenizer(kind: str, template: str, corpus: Iterable[str]) -> PreTrainedTokenizerFast:
    """A tokenizer trained on ``corpus``.

    ``kind`` is one of three families: ``bpe`` (byte-level, as in Llama 3 and Qwen; it can spell any
    text), ``metaspace`` (SentencePiece style, as in Mistral and Gemma), ``wordpiece`` (as in BERT).
    """
    special = ["<pad>", *SPECIAL[template]]
    common: dict[str, Any] = {"special_tokens": special, "show_progress": False}
    trainer: Any
    if kind == "bpe":
        tokenizer, alphabet = Tokenizer(models.BPE()), pre_tokenizers.ByteLevel.alphabet()
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        common |= {"initial_alphabet": alphabet, "vocab_size": 160 + len(special) + len(alphabet)}
        trainer = trainers.BpeTrainer(**common)
    elif kind == "metaspace":
        tokenizer = Tokenizer(models.BPE(unk_token="<pad>"))
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
        tokenizer.decoder = decoders.Metaspace(prepend_scheme="first")
        trainer = trainers.BpeTrainer(vocab_size=180, **common)
    else:
        tokenizer = Tokenizer(models.WordPiece(unk_token="<pad>"))
        tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
        tokenizer.decoder = decoders.WordPiece(cleanup=False)
        trainer = trainers.WordPieceTrainer(vocab_size=150, **common)
    tokenizer.train_from_iterator(corpus, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        eos_token=SPECIAL[template][0],
        chat_template=TEMPLATES[template],
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
