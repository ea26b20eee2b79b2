"""Rows, masks and padding of a batch."""

from __future__ import annotations

import pytest
import torch

from wrpo_lib.errors import WRPOError
from wrpo_lib.training.collator import PackedCollator, WRPOCollator

NAMES = ("prompt_ids", "source_chosen_ids", "target_chosen_ids", "rejected_ids")
ROWS = [
    dict(zip(NAMES, ([1, 2], [3, 4], [5], [6]), strict=True)),
    dict(zip(NAMES, ([7], [8], [9], [10, 11]), strict=True)),
]


def test_rows_are_all_sources_then_all_targets_then_all_rejected() -> None:
    batch = WRPOCollator(pad_token_id=0)(ROWS)
    assert batch["input_ids"].tolist() == [
        [1, 2, 3, 4], [7, 8, 0, 0], [1, 2, 5, 0], [7, 9, 0, 0], [1, 2, 6, 0], [7, 10, 11, 0],
    ]  # fmt: skip
    assert batch["completion_mask"].tolist() == [
        [0, 0, 1, 1], [0, 1, 0, 0], [0, 0, 1, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 1, 1, 0],
    ]  # fmt: skip
    assert batch["attention_mask"].sum(dim=1).tolist() == [4, 2, 3, 2, 3, 3]
    assert not any(name.startswith("ref_") for name in batch)


def test_a_pad_token_that_is_also_content_stays_unmasked() -> None:
    """With eos as pad, an end token that belongs to a response still counts."""
    rows = [{**ROWS[0], "rejected_ids": [6, 0]}]
    batch = WRPOCollator(pad_token_id=0)(rows)
    assert batch["completion_mask"][2].tolist() == [0, 0, 1, 1]
    assert batch["attention_mask"][2].tolist() == [1, 1, 1, 1]


def test_width_is_a_multiple_where_asked() -> None:
    assert WRPOCollator(0, pad_to_multiple_of=8)(ROWS)["input_ids"].shape == (6, 8)
    assert WRPOCollator(0, pad_to_multiple_of=4)(ROWS)["input_ids"].shape == (6, 4)


def test_reference_columns_travel() -> None:
    rows = [
        {
            **row,
            "ref_source_chosen_logps": -i,
            "ref_target_chosen_logps": -2.5,
            "ref_rejected_logps": -3.0,
        }
        for i, row in enumerate(ROWS)
    ]
    batch = WRPOCollator(0)(rows)
    torch.testing.assert_close(batch["ref_source_chosen_logps"], torch.tensor([0, -1]))
    assert batch["ref_target_chosen_logps"].shape == (2,)


@pytest.mark.parametrize("name", ["prompt_ids", "source_chosen_ids", "rejected_ids"])
def test_a_row_without_tokens_is_refused(name: str) -> None:
    rows = [ROWS[0], {**ROWS[1], name: []}]
    with pytest.raises(WRPOError, match=f"row 2 of a batch has no tokens in '{name}'"):
        WRPOCollator(0)(rows)


@pytest.mark.parametrize("collator", [WRPOCollator, PackedCollator])
def test_both_kinds_tell_lengths_first_and_what_is_to_be_predicted(collator: type) -> None:
    """The Trainer takes a batch's size from its first tensor."""
    rows = [{**row, "prompt_id": f"p{i}"} for i, row in enumerate(ROWS)]
    batch = collator(0)(rows)
    assert next(iter(batch)) == "lengths"
    assert batch["lengths"].tolist() == [[2, 1, 1], [1, 1, 2]]
    assert batch["prompt_id"] == ["p0", "p1"]
    ids, heads = batch["input_ids"].flatten(), batch["head_positions"]
    # a response's first token is predicted by the prompt's last, every other by the one before it
    assert sorted(batch["shift_labels"][0].tolist()) == [3, 4, 5, 6, 8, 9, 10, 11]
    follows = dict(zip(batch["shift_labels"][0].tolist(), ids[heads].tolist(), strict=True))
    assert follows == {3: 2, 4: 3, 5: 2, 6: 2, 8: 7, 9: 7, 10: 7, 11: 10}


def test_a_packed_row_holds_every_token_once() -> None:
    batch = PackedCollator(0)(ROWS)
    assert batch["input_ids"].tolist() == [[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11]]
    assert batch["position_ids"].tolist() == [[0, 1, 2, 3, 2, 2, 0, 1, 1, 1, 2]]
    assert batch["branches"].examples == ((2, (2, 1, 1)), (1, (1, 1, 2)))
    assert PackedCollator(0, pad_to_multiple_of=8)(ROWS)["input_ids"].shape == (1, 16)
    with pytest.raises(WRPOError, match="row 1 of a batch has no tokens in 'prompt_ids'"):
        PackedCollator(0)([{**ROWS[0], "prompt_ids": []}])


def test_named_responses_alone_are_taken() -> None:
    names = ("target_chosen", "rejected")
    assert WRPOCollator(0, responses=names)(ROWS)["input_ids"].shape == (4, 3)
    assert PackedCollator(0, responses=names)(ROWS)["input_ids"].tolist() == [
        [1, 2, 5, 6, 7, 9, 10, 11]
    ]
