"""Supervised fine-tuning on y_ws, the stage before WRPO (paper section 4.1)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from wrpo_lib.errors import WRPOError
from wrpo_lib.quadruples.rendering import Truncation, render

if TYPE_CHECKING:
    from datasets import Dataset
    from peft import PeftConfig
    from transformers import PreTrainedModel, PreTrainedTokenizerBase
    from trl import SFTConfig, SFTTrainer


def sft_trainer(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    data: Dataset,
    args: SFTConfig,
    peft_config: PeftConfig | None = None,
) -> SFTTrainer:
    """TRL's ``SFTTrainer`` on (x, y_ws), loss on the response only.

    ``data`` needs ``prompt`` and ``source_chosen``. Rows are rendered by the same function as in
    preference training, so both stages see the same tokens. The paper packs rows into blocks of
    2048 (``packing: true``).
    """
    from trl import SFTTrainer

    missing = [c for c in ("prompt", "source_chosen") if c not in data.column_names]
    if missing:
        raise WRPOError(f"SFT data lack the column {missing[0]!r}; give quadruples or y_ws rows")
    truncation = Truncation()

    def tokenize(row: dict[str, Any]) -> dict[str, list[int]]:
        rendered = render(
            tokenizer, row["prompt"], [row["source_chosen"]], args.max_length, None
        )
        truncation.add(rendered, ["source_chosen"])
        (response,) = rendered.response_ids
        return {
            "input_ids": rendered.prompt_ids + response,
            "completion_mask": [0] * len(rendered.prompt_ids) + [1] * len(response),
        }

    rows = data.map(tokenize, remove_columns=data.column_names, load_from_cache_file=False)
    args.completion_only_loss = True
    trainer = SFTTrainer(
        model=model, args=args, train_dataset=rows, processing_class=tokenizer, peft_config=peft_config
    )
    trainer.truncation = truncation
    return trainer
