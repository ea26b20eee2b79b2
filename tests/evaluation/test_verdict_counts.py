"""Reading verdicts, counting what is missing, refusing what is wrong."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from wrpo_lib.errors import WRPOError
from wrpo_lib.evaluation import alpaca_eval, arena_hard, mt_bench


@pytest.mark.parametrize(
    ("reply", "score"),
    [("Rating: [[7]]", 7), ("[3] then [[8.5]]", 8.5), ("Rating: [4]", 4), ("no verdict", None)],
)
def test_mt_bench_score_is_read_as_fastchat_does(reply: str, score: float | None) -> None:
    assert mt_bench.parse_score(reply) == score


def test_missing_and_doubled_mt_bench_rows_are_counted() -> None:
    rows = pd.DataFrame(
        {"question_id": [1, 1, 1, 2, 2], "turn": [1, 1, 2, 1, 2], "score": [8, 6, 4, -1, 10]}
    )
    ours = mt_bench.summarise(rows)
    assert (ours.n_total, ours.n_missing, ours.n_duplicates) == (4, 1, 1)
    assert ours.overall == 7.0


def test_arena_verdicts_of_both_games() -> None:
    rows = pd.DataFrame(
        {
            "question_id": ["q", "q", "r", "r"],
            "game": [1, 2, 1, 2],
            "verdict": ["B>>A", "A>B", "A=B", "?"],
        }
    )
    ours = arena_hard.summarise(rows)
    # 3 strong wins, 1 win, 1 tie: (3 + 1 + 0.5) / 5
    assert ours.score == pytest.approx(90.0)
    assert (ours.n_battles, ours.n_missing) == (5, 1)


def test_a_preference_outside_its_range_is_named() -> None:
    rows = pd.DataFrame({"question_id": [1, 2], "preference": [1.5, 2.5]})
    with pytest.raises(WRPOError, match=r"judgement 2: preference 2\.5"):
        alpaca_eval.win_rate(rows)
    with pytest.raises(WRPOError, match="no judgements"):
        alpaca_eval.win_rate(rows[:0])


def test_missing_preferences_are_counted_not_dropped_silently() -> None:
    rows = pd.DataFrame({"question_id": [1, 2, 3], "preference": [1.0, np.nan, 2.0]})
    ours = alpaca_eval.win_rate(rows)
    assert (ours.win_rate, ours.n_total, ours.n_missing) == (50.0, 2, 1)
