"""Batches of quadruples: one padded row a response."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from wrpo_lib.errors import WRPOError
from wrpo_lib.quadruples.schema import RESPONSES

PROMPT_IDS = "prompt_ids"
RESPONSE_IDS = tuple(f"{name}_ids" for name in RESPONSES)
REF_LOGPS = tuple(f"ref_{name}_logps" for name in RESPONSES)
"""Columns of a tokenised quadruple, responses in the order of a batch's rows."""


@dataclass
class WRPOCollator:
    """Pad tokenised quadruples on the right.

    Takes B rows with ``prompt_ids`` and ``<response>_ids``; returns ``input_ids``,
    ``attention_mask`` and ``completion_mask``, each (3B, T), rows in the order all y_ws, all y_wt,
    all y_l, and ``ref_<response>_logps`` (B,) where the rows carry them.

    :raises WRPOError: for an empty prompt or response: neither has a log-probability.
    """

    pad_token_id: int
    pad_to_multiple_of: int | None = None

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """Collate ``rows``."""
        _check(rows)
        sequences = [row[PROMPT_IDS] + row[name] for name in RESPONSE_IDS for row in rows]
        starts = [len(row[PROMPT_IDS]) for row in rows] * len(RESPONSE_IDS)
        shape = (len(sequences), self._width(sequences))
        batch = {
            "input_ids": torch.full(shape, self.pad_token_id),
            "attention_mask": torch.zeros(shape, dtype=torch.long),
            "completion_mask": torch.zeros(shape, dtype=torch.long),
        }
        for i, (ids, start) in enumerate(zip(sequences, starts, strict=True)):
            batch["input_ids"][i, : len(ids)] = torch.tensor(ids)
            batch["attention_mask"][i, : len(ids)] = 1
            batch["completion_mask"][i, start : len(ids)] = 1
        for name in REF_LOGPS:
            if name in rows[0]:
                batch[name] = torch.tensor([row[name] for row in rows])
        return batch

    def _width(self, sequences: list[list[int]]) -> int:
        multiple = self.pad_to_multiple_of or 1
        return -(-max(map(len, sequences)) // multiple) * multiple


def _check(rows: list[dict[str, Any]]) -> None:
    for number, row in enumerate(rows, 1):
        for name in (PROMPT_IDS, *RESPONSE_IDS):
            if not row[name]:
                raise WRPOError(
                    f"row {number} of a batch has no tokens in {name!r}; remove the example"
                )
