"""Pairing: best of all sources, best and worst of the target."""

from __future__ import annotations

import pandas as pd
import pytest

from wrpo_lib.errors import WRPOError
from wrpo_lib.quadruples import best, build_quadruples, make_split, worst

PROMPTS = {p: [{"role": "user", "content": p}] for p in ("x", "y", "z")}


def table(*rows: tuple[str, str, float]) -> pd.DataFrame:
    """Rows of prompt, model and reward; the text says both and the row's number."""
    return pd.DataFrame(
        [
            {"prompt_id": p, "model": m, "sample": k, "text": f"{m} {p} {k}", "reward": r}
            for k, (p, m, r) in enumerate(rows)
        ]
    )


SOURCES = table(("x", "a", 1.0), ("x", "b", 2.0), ("y", "a", 3.0), ("y", "b", 3.0), ("x", "a", 0.5))
TARGET = table(("x", "t", 0.2), ("x", "t", 0.9), ("x", "t", 0.4), ("y", "t", 0.7), ("y", "t", 0.7))


def test_the_row_is_best_best_worst() -> None:
    rows, report = build_quadruples(PROMPTS, SOURCES, TARGET)
    assert report.as_dict() == {"prompts": 3, "kept": 1, "tied": 1, "identical": 0, "missing": 1}
    (row,) = rows
    assert (row["source_chosen"], row["source_model"]) == ("b x 1", "b")
    assert (row["target_chosen"], row["rejected"]) == ("t x 1", "t x 0")
    rewards = [row[f"{k}_reward"] for k in ("source_chosen", "target_chosen", "rejected")]
    assert rewards == [2.0, 0.9, 0.2]
    assert row["prompt"] == PROMPTS["x"]


def test_rejected_from_source_pairs_sources_alone() -> None:
    rows, _ = build_quadruples(PROMPTS, SOURCES, TARGET, rejected_from="source")
    (row,) = rows  # the two sources tie on y
    assert (row["source_chosen"], row["rejected"]) == ("b x 1", "a x 4")


def test_ties_go_by_model_name_and_sample_never_by_row_order() -> None:
    for rows in (SOURCES, SOURCES[::-1]):
        assert best(rows).loc["y", "model"] == "a"
    for rows in (TARGET, TARGET[::-1]):
        assert worst(rows).loc["y", "text"] == "t y 3"


def test_unusable_input_is_named() -> None:
    with pytest.raises(WRPOError, match="source responses lack the column 'reward'"):
        build_quadruples(PROMPTS, SOURCES.drop(columns="reward"), TARGET)
    bad = TARGET.assign(reward=[0.1, float("nan"), 0.2, 0.3, 0.4])
    with pytest.raises(WRPOError, match="target responses, row 2: reward is NaN"):
        build_quadruples(PROMPTS, SOURCES, bad)
    with pytest.raises(WRPOError, match="choose 'target' or 'source'"):
        build_quadruples(PROMPTS, SOURCES, TARGET, rejected_from="judge")


def test_the_split_is_a_third_disjoint_and_seeded() -> None:
    ids = [f"p{i}" for i in range(3600)]
    made = make_split(ids, seed=1)
    assert (len(made.sft), len(made.preference)) == (1200, 2400)
    assert sorted(made.part("all")) == sorted(ids)
    assert make_split(ids, seed=1) == made
    assert make_split(ids, seed=2).sft != made.sft
