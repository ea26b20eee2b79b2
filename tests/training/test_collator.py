"""Rows, masks and padding of a batch."""

from __future__ import annotations

from functools import partial

import pytest

from wrpo_lib.training.data import WRPOCollator

Packed = partial(WRPOCollator, share_prompt=True)
NAMES = ("prompt_ids", "source_chosen_ids", "target_chosen_ids", "rejected_ids")
ROWS = [
    dict(zip(NAMES, ([1, 2], [3, 4], [5], [6]), strict=True)),
    dict(zip(NAMES, ([7], [8], [9], [10, 11]), strict=True)),
]


def test_rows_are_all_sources_then_all_targets_then_all_rejected() -> None:
    batch = WRPOCollator(pad_token_id=0)(ROWS)
    assert batch["input_ids"].tolist() == [
        [1, 2, 3, 4],
        [7, 8, 0, 0],
        [1, 2, 5, 0],
        [7, 9, 0, 0],
        [1, 2, 6, 0],
        [7, 10, 11, 0],
    ]
    assert batch["completion_mask"].tolist() == [
        [0, 0, 1, 1],
        [0, 1, 0, 0],
        [0, 0, 1, 0],
        [0, 1, 0, 0],
        [0, 0, 1, 0],
        [0, 1, 1, 0],
    ]
    assert batch["attention_mask"].sum(dim=1).tolist() == [4, 2, 3, 2, 3, 3]
    assert not any(name.startswith("ref_") for name in batch)


def test_a_pad_token_that_is_also_content_stays_unmasked() -> None:
    """With eos as pad, an end token that belongs to a response still counts."""
    rows = [{**ROWS[0], "rejected_ids": [6, 0]}]
    batch = WRPOCollator(pad_token_id=0)(rows)
    assert batch["completion_mask"][2].tolist() == [0, 0, 1, 1]
    assert batch["attention_mask"][2].tolist() == [1, 1, 1, 1]


@pytest.mark.parametrize("share", [False, True])
def test_both_kinds_tell_lengths_first_and_what_is_to_be_predicted(share: bool) -> None:
    """The Trainer takes a batch's size from its first tensor."""
    extra = {"ref_chosen_logps": [-1.0, -2.5], "ref_rejected_logps": [-3.0]}
    rows = [{**row, **extra, "prompt_id": f"p{i}"} for i, row in enumerate(ROWS)]
    batch = WRPOCollator(0, share_prompt=share)(rows)
    assert batch["ref_chosen_logps"].tolist() == [[-1.0, -2.5]] * 2
    assert batch["ref_rejected_logps"].shape == (2, 1)
    assert next(iter(batch)) == "lengths"
    assert batch["lengths"].tolist() == [[2, 1, 1], [1, 1, 2]]
    assert batch["prompt_id"] == ["p0", "p1"]
    if share:  # a response's first token is predicted by the prompt's last, others by their own
        ids, labels = batch["input_ids"][0], batch["shift_labels"][0].tolist()
        follows = dict(zip(labels, ids[batch["head_positions"]].tolist(), strict=True))
        assert follows == {3: 2, 4: 3, 5: 2, 6: 2, 8: 7, 9: 7, 10: 7, 11: 10}


def test_a_packed_row_holds_every_token_once() -> None:
    batch = Packed(0)(ROWS)
    assert batch["input_ids"].tolist() == [[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11]]
    assert batch["position_ids"].tolist() == [[0, 1, 2, 3, 2, 2, 0, 1, 1, 1, 2]]
    assert batch["branches"].examples == ((2, (2, 1, 1)), (1, (1, 1, 2)))
    assert Packed(0, pad_to_multiple_of=8)(ROWS)["input_ids"].shape == (1, 16)


def test_named_responses_alone_are_taken() -> None:
    names = ("target_chosen", "rejected")
    assert WRPOCollator(0, responses=names)(ROWS)["input_ids"].shape == (4, 3)
    assert Packed(0, responses=names)(ROWS)["input_ids"].tolist() == [[1, 2, 5, 6, 7, 9, 10, 11]]
