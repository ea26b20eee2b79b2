"""Rows, labels and padding of a batch."""

from __future__ import annotations

from typing import Any

import pytest

from wrpo_lib.quadruples.schema import RESPONSES
from wrpo_lib.training.data import WRPOCollator

NAMES = ("prompt_ids", *(f"{name}_ids" for name in RESPONSES))
REFERENCE = {"ref_chosen_logps": [-1.0, -2.5], "ref_rejected_logps": [-3.0]}
ROWS: list[dict[str, Any]] = [  # 0 pads, and is a token of a response
    dict(zip(NAMES, ([1, 2], [3, 4], [5], [6, 0]), strict=True)) | {"prompt_id": "a", **REFERENCE},
    dict(zip(NAMES, ([7], [8], [9], [10, 11]), strict=True)) | {"prompt_id": "b", **REFERENCE},
]


def test_rows_are_all_sources_then_all_targets_then_all_rejected() -> None:
    batch = WRPOCollator()(ROWS)
    assert batch["input_ids"].tolist() == [
        [1, 2, 3, 4],
        [7, 8, 0, 0],
        [1, 2, 5, 0],
        [7, 9, 0, 0],
        [1, 2, 6, 0],
        [7, 10, 11, 0],
    ]
    assert batch["labels"][1].tolist() == [-100, 8, -100, -100]
    assert batch["labels"][4].tolist() == [-100, -100, 6, 0]
    assert batch["attention_mask"].sum(dim=1).tolist() == [4, 2, 3, 2, 4, 3]
    pairs = WRPOCollator(("target_chosen", "rejected"))(ROWS)
    assert pairs["input_ids"].shape == (4, 4)


def test_a_packed_row_holds_every_token_once() -> None:
    batch = WRPOCollator(share_prompt=True)(ROWS)
    assert batch["input_ids"].tolist() == [[1, 2, 3, 4, 5, 6, 0, 7, 8, 9, 10, 11]]
    assert batch["position_ids"].tolist() == [[0, 1, 2, 3, 2, 2, 3, 0, 1, 1, 1, 2]]
    assert batch["branches"].examples == ((2, (2, 1, 2)), (1, (1, 1, 2)))
    # a response's first token is predicted by the prompt's last, others by their own
    ids, labels = batch["input_ids"][0], batch["shift_labels"][0].tolist()
    follows = dict(zip(labels, ids[batch["head_positions"]].tolist(), strict=True))
    assert follows == {3: 2, 4: 3, 5: 2, 6: 2, 0: 6, 8: 7, 9: 7, 10: 7, 11: 10}


@pytest.mark.parametrize("share", [False, True])
def test_both_kinds_tell_lengths_first_and_the_reference(share: bool) -> None:
    """The Trainer takes a batch's size from its first tensor."""
    batch = WRPOCollator(share_prompt=share)(ROWS)
    assert next(iter(batch)) == "lengths"
    assert batch["lengths"].tolist() == [[2, 1, 2], [1, 1, 2]]
    assert batch["prompt_id"] == ["a", "b"]
    assert batch["ref_chosen_logps"].tolist() == [[-1.0, -2.5]] * 2
    assert batch["ref_rejected_logps"].shape == (2, 1)
