"""Supervised fine-tuning on y_ws, the stage before WRPO (paper section 4.1)."""

from __future__ import annotations

from typing import Any

from datasets import Dataset
from trl import SFTConfig, SFTTrainer

from wrpo_lib.training.data import tokenize


def sft_trainer(
    model: Any,
    args: SFTConfig,
    train_dataset: Dataset,
    processing_class: Any,
    eval_dataset: Dataset | None = None,
    **kwargs: Any,
) -> SFTTrainer:
    """TRL's ``SFTTrainer`` on (x, y_ws), loss on the response only, ready to ``train()``.

    The data need ``prompt`` and ``source_chosen``, so quadruples will do. Rows are rendered by the
    same function as in preference training, so both stages see the same tokens; a response that
    exceeds ``args.max_length`` together with its prompt loses its end, counted in the trainer's
    ``truncation``. ``kwargs`` go to ``SFTTrainer``.

    With ``args.packing`` TRL fills blocks of ``max_length`` tokens. Its strategies ``bfd`` and
    ``bfd_split`` keep the rows of a block apart; ``wrapped``, which is older, runs rows together.

    :raises WRPOError: for a missing column or an empty text, with its row.
    """
    args.completion_only_loss = True
    rows, truncation = {}, {}
    for name, data in (("SFT", train_dataset), ("SFT eval", eval_dataset)):
        if data is not None:
            made, truncation[name] = tokenize(
                data, processing_class, ("source_chosen",), args, name
            )
            rows[name] = made.map(_join, remove_columns=made.column_names)
    trainer = SFTTrainer(
        model=model,
        args=args,
        train_dataset=rows["SFT"],
        eval_dataset=rows.get("SFT eval"),
        processing_class=processing_class,
        **kwargs,
    )
    trainer.truncation = truncation
    return trainer


def _join(row: dict[str, list[int]]) -> dict[str, list[int]]:
    """Prompt and y_ws as one sequence, and which of its tokens the loss is on."""
    prompt, response = row["prompt_ids"], row["source_chosen_ids"]
    mask = [0] * len(prompt) + [1] * len(response)
    return {"input_ids": prompt + response, "completion_mask": mask}
