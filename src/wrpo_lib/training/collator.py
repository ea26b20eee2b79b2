"""Batches of quadruples: one padded row per response, or one packed row that shares the prompts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from trl.trainer.utils import pad

from wrpo_lib import packing
from wrpo_lib.quadruples.schema import RESPONSES

REF_LOGPS = ("ref_chosen_logps", "ref_rejected_logps")
"""Columns that TRL's reference pass adds, (B, chosen responses) and (B, rejected responses)."""


@dataclass
class WRPOCollator:
    """Collate tokenised quadruples.

    Takes B rows with ``prompt_ids`` and ``<response>_ids`` of the R ``responses``. Returns
    ``lengths`` (B, R), response tokens with the end token, and

    - padded: ``input_ids``, ``attention_mask``, ``completion_mask``, each (R·B, T), all y_ws
      first, then all y_wt, then all y_l;
    - with ``share_prompt``: one row (1, T) as :func:`wrpo_lib.packing.pack` makes it.

    ``prompt_id`` and the reference's log-probabilities go along where the rows have them.
    """

    pad_token_id: int
    pad_to_multiple_of: int | None = None
    responses: tuple[str, ...] = RESPONSES
    share_prompt: bool = False

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        """Collate ``rows``."""
        prompts = [row["prompt_ids"] for row in rows]
        answers = [[row[f"{name}_ids"] for name in self.responses] for row in rows]
        lengths = torch.tensor([[len(ids) for ids in of_row] for of_row in answers])
        batch: dict[str, Any] = {"lengths": lengths}  # first: accelerate counts examples by it
        if self.share_prompt:
            fill = {"pad_token_id": self.pad_token_id, "multiple": self.pad_to_multiple_of or 1}
            batch |= packing.pack(prompts, answers, **fill)
        else:
            batch |= self._rows(prompts, answers)
        for name in REF_LOGPS:
            if name in rows[0]:
                batch[name] = torch.tensor([row[name] for row in rows])
        if "prompt_id" in rows[0]:
            batch["prompt_id"] = [row["prompt_id"] for row in rows]
        return batch

    def _rows(self, prompts: list[list[int]], answers: list[list[list[int]]]) -> dict[str, Any]:
        pairs = [
            (prompt, of_row[k])
            for k in range(len(self.responses))
            for prompt, of_row in zip(prompts, answers, strict=True)
        ]
        columns = {
            "input_ids": ([p + r for p, r in pairs], self.pad_token_id),
            "attention_mask": ([[1] * len(p + r) for p, r in pairs], 0),
            "completion_mask": ([[0] * len(p) + [1] * len(r) for p, r in pairs], 0),
        }
        return {
            name: pad(list(map(torch.tensor, rows)), filler, "right", self.pad_to_multiple_of)
            for name, (rows, filler) in columns.items()
        }
