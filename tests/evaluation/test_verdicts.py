"""Readings of a judge's reply: upstream's rules where sound, a reason where there is no verdict."""

from __future__ import annotations

from typing import Any

import pytest

from wrpo_lib.evaluation import verdicts
from wrpo_lib.evaluation.verdicts import BASELINE_FIRST, MODEL_FIRST


def body(listed: dict[str, float] | None) -> dict[str, Any]:
    tokens = [{"token": t, "logprob": v} for t, v in (listed or {}).items()]
    logprobs = None if listed is None else {"content": [{"top_logprobs": tokens}]}
    return {"choices": [{"message": {"content": "m"}, "logprobs": logprobs}]}


LISTED: list[dict[str, float]] = [
    {"m": -0.1, "M": -2.5},
    {"M": -1e-6, "m": -14.6},
    {"m": -0.2},
    {"M": -0.3, "The": -2.0},
    {"m": -800.0, "M": -0.0},
    {"m": -0.0, "M": -900.0},
]


@pytest.mark.parametrize("listed", LISTED)
def test_log_probabilities_are_read_as_the_package_does(
    listed: dict[str, float], alpaca_package: Any
) -> None:
    parser = alpaca_package.completion_parsers.logprob_parser
    theirs = parser(body(listed)["choices"][0], "m", ["m", "M"], is_binarize=False)[0]
    value, problem = verdicts.read_logprobs(body(listed))
    assert (value, problem) == (pytest.approx(theirs, abs=1e-12), None)


def test_missing_log_probabilities_are_named() -> None:
    for reply in (body(None), {}):
        assert verdicts.read_logprobs(reply) == (None, "log-probabilities missing")
    none = verdicts.read_logprobs(body({"The": -0.1, "Both": -3.0}))
    assert none == (None, "neither m nor M among the log-probabilities")


READINGS = {
    verdicts.read_token: {
        "m": 1.0,
        " M\n": 2.0,
        '"m".': 1.0,
        "**M**": 2.0,
        "m or M": "two verdicts",
        "The best is": "no verdict",
        "": "empty reply",
    },
    verdicts.read_arena: {
        "My final verdict is [[A>B]]": "A>B",
        "[[A>B]] as said, [[A>B]]": "A>B",
        "[[A>B]], no: [[B>>A]]": "two verdicts",
        "final: [B>A]": "no verdict",
        "[[A]]": "no verdict",
        "": "empty reply",
    },
    verdicts.read_rating: {
        "Rating: [[7.5]]": 7.5,
        "[[8]] and later [[2]]": 8.0,  # FastChat's rule
        "Rating: [[85]]": "score 85 is outside 1 to 10",
        "Rating: 7": "no verdict",
    },
}


@pytest.mark.parametrize("read", READINGS)
def test_written_verdicts(read: Any) -> None:
    for text, expected in READINGS[read].items():
        value, problem = read(text)
        assert expected in (value, problem), text
        assert (value is None) != (problem is None)


def test_a_reply_without_text_is_empty() -> None:
    choices: list[Any] = [[], [{}], [{"message": None}], [{"message": {"content": None}}]]
    for reply in ({}, *({"choices": found} for found in choices)):
        assert verdicts.text_of(reply) == ""


def test_a_preference_is_for_whoever_was_shown_there() -> None:
    reply = {"choices": [{"message": {"content": "M"}}]}
    row = {"benchmark": "alpaca-eval", "metric": "verdict"}
    for order, preference in ((BASELINE_FIRST, 2.0), (MODEL_FIRST, 1.0)):
        assert verdicts.result({**row, "order": order}, reply)["preference"] == preference
