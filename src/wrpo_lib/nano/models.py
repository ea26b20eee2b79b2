"""The nano models: five architectures, five tokenizers, five chat templates, and their training.

Text is the only thing the models share, which is the point of implicit fusion.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

from wrpo_lib.errors import WRPOError

TEMPLATES = {
    "angle": "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% if m.role == 'assistant' %}"
    "<end>{% endif %}{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}",
    "turns": "{% for m in messages %}{{ '[model]' if m.role == 'assistant' else '[user]' }}"
    "{{ m.content }}<eot>{% endfor %}{% if add_generation_prompt %}[model]{% endif %}",
}
SPECIAL = {
    "angle": {"eos_token": "<end>", "extra": ["<user>", "<assistant>"]},
    "turns": {"eos_token": "<eot>", "extra": ["[user]", "[model]"]},
}


def build_tokenizer(kind: str, template: str, corpus: Iterable[str]) -> PreTrainedTokenizerFast:
    """A tokenizer of one's own, trained on ``corpus``.

    ``kind`` is one of the three families in use: ``bpe`` (byte-level, as in Llama 3 and Qwen; it
    can spell any text), ``metaspace`` (SentencePiece style, as in Mistral and Gemma) and
    ``wordpiece`` (BERT style).
    """
    if kind not in ("bpe", "metaspace", "wordpiece"):
        raise WRPOError(f"unknown tokenizer kind {kind!r}; choose bpe, metaspace or wordpiece")
    special = ["<pad>", str(SPECIAL[template]["eos_token"]), *SPECIAL[template]["extra"]]
    tokenizer, trainer = {"bpe": _bpe, "metaspace": _metaspace, "wordpiece": _wordpiece}[kind](
        special
    )
    tokenizer.train_from_iterator(corpus, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        eos_token=SPECIAL[template]["eos_token"],
        chat_template=TEMPLATES[template],
        clean_up_tokenization_spaces=False,
    )


def _bpe(special: list[str]) -> tuple[Tokenizer, Any]:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    return tokenizer, trainers.BpeTrainer(
        vocab_size=len(special) + len(alphabet) + 160,
        special_tokens=special,
        initial_alphabet=alphabet,
        show_progress=False,
    )


def _metaspace(special: list[str]) -> tuple[Tokenizer, Any]:
    tokenizer = Tokenizer(models.BPE(unk_token="<pad>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="first")
    return tokenizer, trainers.BpeTrainer(
        vocab_size=180, special_tokens=special, show_progress=False
    )


def _wordpiece(special: list[str]) -> tuple[Tokenizer, Any]:
    tokenizer = Tokenizer(models.WordPiece(unk_token="<pad>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.decoder = decoders.WordPiece(cleanup=False)
    return tokenizer, trainers.WordPieceTrainer(
        vocab_size=150, special_tokens=special, show_progress=False
    )


def build_model(
    config: dict[str, Any], tokenizer: PreTrainedTokenizerBase, seed: int
) -> PreTrainedModel:
    """A randomly initialised causal LM of any Hugging Face architecture (``model_type``)."""
    import torch

    values = dict(config)
    settings = AutoConfig.for_model(
        values.pop("model_type"),
        vocab_size=len(tokenizer),
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
        max_position_embeddings=256,
        **values,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(settings)
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    return model


def encode_conversations(
    tokenizer: PreTrainedTokenizerBase, conversations: list[list[dict[str, str]]]
) -> list[dict[str, list[int]]]:
    """Token ids and labels; only the last assistant turn is learned (the rest is -100)."""
    prompts = tokenizer.apply_chat_template(
        [c[:-1] for c in conversations], tokenize=False, add_generation_prompt=True
    )
    prompt_ids = tokenizer(prompts, add_special_tokens=False)["input_ids"]
    replies = [c[-1]["content"] + tokenizer.eos_token for c in conversations]
    reply_ids = tokenizer(replies, add_special_tokens=False)["input_ids"]
    return [
        {"input_ids": p + r, "labels": [-100] * len(p) + r}
        for p, r in zip(prompt_ids, reply_ids, strict=True)
    ]


def pretrain(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    conversations: list[list[dict[str, str]]],
    output_dir: Path,
    seed: int,
    learning_rate: float = 2e-3,
    batch_size: int = 64,
) -> float:
    """Train a model from scratch on its speaker's corpus, one epoch; returns the last loss."""
    from transformers import (
        DataCollatorForSeq2Seq,
        PrinterCallback,
        Trainer,
        TrainingArguments,
    )

    rows = encode_conversations(tokenizer, conversations)
    trainer = Trainer(
        model=model,
        args=TrainingArguments(
            output_dir=str(output_dir),
            per_device_train_batch_size=batch_size,
            num_train_epochs=1,
            learning_rate=learning_rate,
            lr_scheduler_type="cosine",
            warmup_steps=0.05,
            weight_decay=0.01,
            adam_beta2=0.98,
            logging_steps=10,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            use_cpu=True,
            seed=seed,
            dataloader_pin_memory=False,
        ),
        train_dataset=rows,
        data_collator=DataCollatorForSeq2Seq(tokenizer, label_pad_token_id=-100),
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    losses = [r["loss"] for r in trainer.state.log_history if "loss" in r]
    return float(np.mean(losses[-3:]))
