"""Readings of a judge's reply: upstream's rules where sound, a reason where there is no verdict."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd
import pytest

from wrpo_lib.errors import WRPOError
from wrpo_lib.evaluation import alpaca_eval, arena_hard, mt_bench, verdicts
from wrpo_lib.evaluation.verdicts import BASELINE_FIRST, MODEL_FIRST, winner


def body(listed: dict[str, float] | None) -> dict[str, Any]:
    tokens = [{"token": t, "logprob": v} for t, v in (listed or {}).items()]
    logprobs = None if listed is None else {"content": [{"top_logprobs": tokens}]}
    return {"choices": [{"message": {"content": "m"}, "logprobs": logprobs}]}


@pytest.mark.parametrize(
    "listed",
    [{"m": -0.1, "M": -2.5}, {"M": -1e-6, "m": -14.6}, {"m": -0.2}, {"M": -0.3, "The": -2.0},
     {"m": -800.0, "M": -0.0}, {"m": -0.0, "M": -900.0}],
)  # fmt: skip
def test_log_probabilities_are_read_as_the_package_does(
    listed: dict[str, float], alpaca_package: Any
) -> None:
    parser = alpaca_package.completion_parsers.logprob_parser
    theirs = parser(body(listed)["choices"][0], "m", ["m", "M"], is_binarize=False)[0]
    found = verdicts.read_logprobs(body(listed))
    assert found.value == pytest.approx(theirs, abs=1e-12)
    assert found.problem is None


def test_missing_log_probabilities_are_named() -> None:
    assert verdicts.read_logprobs(body(None)).problem == "log-probabilities missing"
    assert verdicts.read_logprobs({}).problem == "log-probabilities missing"
    none = verdicts.read_logprobs(body({"The": -0.1, "Both": -3.0}))
    assert (none.value, none.problem) == (None, "neither m nor M among the log-probabilities")


@pytest.mark.parametrize(
    ("text", "value", "problem"),
    [("m", 1.0, None), (" M\n", 2.0, None), ('"m".', 1.0, None), ("**M**", 2.0, None),
     ("m or M", None, "two verdicts"), ("The best is", None, "no verdict"),
     ("", None, "empty reply"), ("<html>m</html>", None, "HTML instead of a verdict")],
)  # fmt: skip
def test_a_written_token(text: str, value: float | None, problem: str | None) -> None:
    assert verdicts.read_token(text) == verdicts.Reading(value, problem)


@pytest.mark.parametrize(
    ("text", "old", "new"),
    [("My final verdict is [[A>B]]", "A>B", "A>B"),
     ("[[A>B]] as said, [[A>B]]", "A>B", "A>B"),
     ("[[A>B]], no: [[B>>A]]", None, "B>>A"),
     ("final: [B>A]", None, "B>A"),
     ("[[a>b]]", None, "A>B"),
     ("[[A<<B]]", "B>>A", "B>>A"),
     ("[[A]]", None, None),
     ("", None, None)],
)  # fmt: skip
def test_arena_labels_by_version(text: str, old: str | None, new: str | None) -> None:
    assert verdicts.read_arena(text, "v0.1").value == old
    assert verdicts.read_arena(text, "v2.0").value == new


def test_ratings_and_pairs() -> None:
    assert verdicts.read_rating("Rating: [[7.5]]").value == 7.5
    assert verdicts.read_rating("[[8]] and later [[2]]").value == 8  # FastChat's rule
    assert verdicts.read_rating("Rating: [[85]]").problem == "score 85 is outside 1 to 10"
    assert verdicts.read_rating("Rating: 7").problem == "no verdict"
    assert verdicts.read_pair("so [[C]]").value == "C"
    assert verdicts.read_pair("[[A]] or [[B]]").problem == "two verdicts"
    assert verdicts.read_pair("[[A]] I say [[A]]").value == "A"


@pytest.mark.parametrize("reply", [{}, {"choices": []}, {"choices": [{}]},
                                   {"choices": [{"message": None}]},
                                   {"choices": [{"message": {"content": None}}]}])  # fmt: skip
def test_a_reply_without_text_is_empty(reply: dict[str, Any]) -> None:
    assert verdicts.text_of(reply) == ""


def test_a_verdict_is_for_whoever_was_shown_there() -> None:
    assert winner("A>>B", BASELINE_FIRST) == "baseline"
    assert winner("A>B", MODEL_FIRST) == "model"
    assert winner("B", BASELINE_FIRST) == "model"
    assert winner("C", MODEL_FIRST) == winner("A=B", MODEL_FIRST) == "tie"
    assert winner(None, MODEL_FIRST) is None
    assert math.isfinite(verdicts.read_logprobs(body({"m": -1e4, "M": -1e-9})).value or math.nan)


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
