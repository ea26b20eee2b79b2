"""Batches of quadruples: one padded row a response, or one packed row that shares the prompts."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch

from wrpo_lib import sharing
from wrpo_lib.errors import WRPOError
from wrpo_lib.quadruples.schema import RESPONSES

PROMPT_ID = "prompt_id"
PROMPT_IDS = "prompt_ids"


def ids_columns(responses: Iterable[str]) -> tuple[str, ...]:
    """Columns of token ids, responses in the order of a batch's rows."""
    return tuple(f"{name}_ids" for name in responses)


def ref_columns(responses: Iterable[str]) -> tuple[str, ...]:
    """Columns of reference log-probabilities, in the same order."""
    return tuple(f"ref_{name}_logps" for name in responses)


RESPONSE_IDS = ids_columns(RESPONSES)
REF_LOGPS = ref_columns(RESPONSES)
"""The columns of a plain quadruple."""


@dataclass
class WRPOCollator:
    """Pad tokenised quadruples on the right.

    Takes B rows with ``prompt_ids`` and ``<response>_ids`` of the R ``responses``; returns
    ``input_ids``, ``attention_mask`` and ``completion_mask``, each (R·B, T), rows in the order all
    y_ws, all y_wt, all y_l; ``lengths`` (B, R) of the responses; ``head_positions`` (N,) and
    ``shift_labels`` (1, N), the N tokens that predict a response token, counted row by row, and
    what they should predict; ``ref_<response>_logps`` (B,) and ``prompt_id`` where the rows carry
    them.

    :raises WRPOError: for an empty prompt or response: neither has a log-probability.
    """

    pad_token_id: int
    pad_to_multiple_of: int | None = None
    responses: tuple[str, ...] = RESPONSES

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        """Collate ``rows``."""
        columns = ids_columns(self.responses)
        _check(rows, columns)
        sequences = [row[PROMPT_IDS] + row[name] for name in columns for row in rows]
        starts = [len(row[PROMPT_IDS]) for row in rows] * len(columns)
        width = self._width(sequences)
        batch = {
            "lengths": _lengths(rows, columns),
            "input_ids": torch.full((len(sequences), width), self.pad_token_id),
            "attention_mask": torch.zeros((len(sequences), width), dtype=torch.long),
            "completion_mask": torch.zeros((len(sequences), width), dtype=torch.long),
        }
        heads: list[int] = []
        labels: list[int] = []
        for i, (ids, start) in enumerate(zip(sequences, starts, strict=True)):
            batch["input_ids"][i, : len(ids)] = torch.tensor(ids)
            batch["attention_mask"][i, : len(ids)] = 1
            batch["completion_mask"][i, start : len(ids)] = 1
            heads += range(i * width + start - 1, i * width + len(ids) - 1)
            labels += ids[start:]
        batch["head_positions"], batch["shift_labels"] = torch.tensor(heads), torch.tensor([labels])
        return {**batch, **_carried(rows, self.responses)}

    def _width(self, sequences: list[list[int]]) -> int:
        multiple = self.pad_to_multiple_of or 1
        return -(-max(map(len, sequences)) // multiple) * multiple


@dataclass
class PackedCollator:
    """Pack tokenised quadruples into one row in which the responses share their prompt.

    Takes the same rows; returns what :func:`wrpo_lib.sharing.pack` does, with the same ``lengths``,
    ``ref_<response>_logps`` and ``prompt_id``.

    :raises WRPOError: for an empty prompt or response.
    """

    pad_token_id: int
    pad_to_multiple_of: int | None = None
    responses: tuple[str, ...] = RESPONSES

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        """Collate ``rows``."""
        columns = ids_columns(self.responses)
        _check(rows, columns)
        packed = sharing.pack(
            [row[PROMPT_IDS] for row in rows],
            [[row[name] for name in columns] for row in rows],
            pad_token_id=self.pad_token_id,
            multiple=self.pad_to_multiple_of or 1,
        )
        lengths = {"lengths": _lengths(rows, columns)}
        return {**lengths, **packed, **_carried(rows, self.responses)}


def _lengths(rows: list[dict[str, Any]], columns: tuple[str, ...]) -> torch.Tensor:
    """(B, R); first in a batch, so that its first dimension tells how many examples there are."""
    return torch.tensor([[len(row[name]) for name in columns] for row in rows])


def _carried(rows: list[dict[str, Any]], responses: tuple[str, ...]) -> dict[str, Any]:
    """What goes along with the tokens."""
    found: dict[str, Any] = {}
    for name in ref_columns(responses):
        if name in rows[0]:
            found[name] = torch.tensor([row[name] for row in rows])
    if PROMPT_ID in rows[0]:
        found[PROMPT_ID] = [row[PROMPT_ID] for row in rows]
    return found


def _check(rows: list[dict[str, Any]], columns: tuple[str, ...]) -> None:
    for number, row in enumerate(rows, 1):
        for name in (PROMPT_IDS, *columns):
            if not row[name]:
                raise WRPOError(
                    f"row {number} of a batch has no tokens in {name!r}; remove the example"
                )
