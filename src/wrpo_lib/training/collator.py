"""Batches of quadruples: one padded row a response."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from wrpo_lib.errors import WRPOError

RESPONSES = ("source_chosen", "target_chosen", "rejected")
"""The three responses, in the order of a batch's rows: all y_ws, then all y_wt, then all y_l."""


@dataclass
class WRPOCollator:
    """Pad tokenised quadruples on the right.

    Takes B rows with ``prompt_ids`` and ``<response>_ids``; returns ``input_ids``,
    ``attention_mask``, ``completion_mask``, each (3B, T), and ``ref_<response>_logps`` (B,) where
    the rows carry them.
    """

    pad_token_id: int
    pad_to_multiple_of: int | None = None

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """Collate ``rows``; an empty response is an error, it has no log-probability."""
        sequences, starts = [], []
        for name in RESPONSES:
            for row in rows:
                if not row[f"{name}_ids"]:
                    raise WRPOError(f"a row has an empty {name}; remove it from the data")
                sequences.append(row["prompt_ids"] + row[f"{name}_ids"])
                starts.append(len(row["prompt_ids"]))
        width = max(map(len, sequences))
        if self.pad_to_multiple_of:
            width = -(-width // self.pad_to_multiple_of) * self.pad_to_multiple_of
        batch = {
            "input_ids": torch.full((len(sequences), width), self.pad_token_id),
            "attention_mask": torch.zeros((len(sequences), width), dtype=torch.long),
            "completion_mask": torch.zeros((len(sequences), width), dtype=torch.long),
        }
        for i, (ids, start) in enumerate(zip(sequences, starts, strict=True)):
            batch["input_ids"][i, : len(ids)] = torch.tensor(ids)
            batch["attention_mask"][i, : len(ids)] = 1
            batch["completion_mask"][i, start : len(ids)] = 1
        for name in RESPONSES:
            key = f"ref_{name}_logps"
            if key in rows[0]:
                batch[key] = torch.tensor([row[key] for row in rows])
        return batch
