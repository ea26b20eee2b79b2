"""Supervised fine-tuning on y_ws, the stage before WRPO (paper section 4.1)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from datasets import Dataset
    from peft import PeftConfig
    from transformers import PreTrainedModel, PreTrainedTokenizerBase
    from trl import SFTConfig, SFTTrainer

    from wrpo_lib.chat import Truncation

PAPER = {
    "learning_rate": 7e-6,
    "lr_scheduler_type": "cosine",
    "warmup_steps": 0.1,  # a share of all steps
    "num_train_epochs": 1,
    "max_length": 2048,
}
"""The paper's SFT settings (section 4.1), with 128 blocks a step; it packs (``packing=True``)."""


def sft_config(output_dir: str, **overrides: Any) -> SFTConfig:
    """TRL's ``SFTConfig`` with the paper's settings; ``overrides`` replace or add fields."""
    from trl import SFTConfig

    values = {"activation_checkpointing": True, "completion_only_loss": True, **PAPER, **overrides}
    return SFTConfig(output_dir=output_dir, **values)


def sft_trainer(
    model: str | PreTrainedModel,
    args: SFTConfig,
    train_dataset: Dataset,
    processing_class: PreTrainedTokenizerBase,
    eval_dataset: Dataset | None = None,
    peft_config: PeftConfig | None = None,
) -> SFTTrainer:
    """TRL's ``SFTTrainer`` on (x, y_ws), loss on the response only, ready to ``train()``.

    ``train_dataset`` needs ``prompt`` and ``source_chosen``, so quadruples will do. Rows are
    rendered by the same function as in preference training, so both stages see the same tokens; a
    response that exceeds ``args.max_length`` together with its prompt loses its end, counted in
    the trainer's ``truncation``. ``eval_dataset`` holds rows of the same kind.

    With ``args.packing`` TRL fills blocks of ``max_length`` tokens. Its strategies ``bfd`` and
    ``bfd_split`` keep the rows of a block apart; ``wrapped``, which is older, runs rows together.

    :raises WRPOError: for a missing column or an empty text, with its row.
    """
    from trl import SFTTrainer

    args.completion_only_loss = True
    train, truncation = _tokens(train_dataset, processing_class, args, "SFT")
    trainer = SFTTrainer(
        model=model,
        args=args,
        train_dataset=train,
        eval_dataset=_tokens(eval_dataset, processing_class, args, "SFT eval")[0]
        if eval_dataset
        else None,
        processing_class=processing_class,
        peft_config=peft_config,
    )
    trainer.truncation = truncation
    return trainer


def _tokens(
    data: Dataset, tokenizer: PreTrainedTokenizerBase, args: SFTConfig, name: str
) -> tuple[Dataset, Truncation]:
    """Whole sequences of prompt and y_ws, and what was cut of them."""
    from wrpo_lib.training.data import tokenize

    rows, truncation = tokenize(
        data,
        tokenizer,
        ("source_chosen",),
        max_length=args.max_length,
        max_prompt_length=None,
        num_proc=args.dataset_num_proc,
        name=name,
    )
    return rows.map(_join, remove_columns=rows.column_names), truncation


def _join(row: dict[str, list[int]]) -> dict[str, list[int]]:
    """Prompt and y_ws as one sequence, and which of its tokens the loss is on."""
    prompt, response = row["prompt_ids"], row["source_chosen_ids"]
    return {
        "input_ids": prompt + response,
        "completion_mask": [0] * len(prompt) + [1] * len(response),
    }
