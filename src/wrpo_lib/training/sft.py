"""Supervised fine-tuning on the best source responses, the stage before WRPO (section 4.1)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from datasets import Dataset
from transformers.integrations import is_deepspeed_zero3_enabled
from trl import SFTConfig, SFTTrainer

from wrpo_lib import sharing
from wrpo_lib.packing import Branches
from wrpo_lib.training.data import pad_token_id, tokenize
from wrpo_lib.training.trainer import bare, keep_adapters_in_float32


def sft_trainer(
    model: Any,
    args: SFTConfig,
    train_dataset: Dataset,
    processing_class: Any,
    eval_dataset: Dataset | None = None,
    **kwargs: Any,
) -> SFTTrainer:
    """TRL's ``SFTTrainer`` on (x, y_ws), loss on the response only, before WRPO (section 4.1).

    The data need ``prompt`` and ``source_chosen``, so quadruples will do. Rows are rendered as in
    preference training; a response that exceeds ``args.max_length`` together with its prompt loses
    its end, counted in the trainer's ``truncation``. ``kwargs`` go to ``SFTTrainer``.

    With ``args.packing`` TRL fills blocks of ``max_length`` tokens. Its strategies ``bfd`` and
    ``bfd_split`` keep the rows of a block apart, which then costs no mask where the model can run
    packed rows; ``wrapped``, which is older, runs rows together.

    :raises WRPOError: for a missing column or an empty text, with its row.
    """
    args.completion_only_loss = True
    pad_token_id(processing_class)
    rows, truncation = {}, {}
    for name, data in (("SFT", train_dataset), ("SFT eval", eval_dataset)):
        if data is not None:
            fields = ("source_chosen",)
            made, truncation[name] = tokenize(data, processing_class, fields, args, name)
            rows[name] = made.map(_join, remove_columns=made.column_names)
    trainer = SFTTrainer(
        model, args, None, rows["SFT"], rows.get("SFT eval"), processing_class, **kwargs
    )
    trainer.truncation = truncation
    keep_adapters_in_float32(trainer.model)
    if trainer.padding_free and not args.torch_compile:
        trial = not is_deepspeed_zero3_enabled()
        if sharing.obstacle(bare(trainer, trainer.model), args.max_length, trial=trial) is None:
            trainer.data_collator = PackedCollator(trainer.data_collator)
    return trainer


def _join(row: dict[str, list[int]]) -> dict[str, list[int]]:
    """Prompt and y_ws as one sequence, and which of its tokens the loss is on."""
    prompt, response = row["prompt_ids"], row["source_chosen_ids"]
    mask = [0] * len(prompt) + [1] * len(response)
    return {"input_ids": prompt + response, "completion_mask": mask}


@dataclass
class PackedCollator:
    """TRL's batches of packed SFT rows, and with ``branches`` where each row ends.

    So attention runs row by row (:mod:`wrpo_lib.sharing`), without a mask of the block's length
    squared and without another package.
    """

    collate: Callable[[list[dict[str, Any]]], dict[str, Any]]

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        """Collate ``rows``, blocks of TRL's packing, into one row (1, T)."""
        batch = self.collate(rows)
        lengths = batch["cu_seq_lens_q"].diff().tolist()
        return {**batch, "branches": Branches(tuple((n, ()) for n in lengths))}
