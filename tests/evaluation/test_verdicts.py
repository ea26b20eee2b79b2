"""Readings of replies, and MT-Bench's and Arena-Hard's scores: upstream's rules where sound."""

from pathlib import Path
from typing import Any

import evalica
import pandas as pd
import pytest

from wrpo_lib.analysis.statistics import mean_interval
from wrpo_lib.errors import WRPOError
from wrpo_lib.evaluation import judging
from wrpo_lib.evaluation.forms import BASELINE_FIRST, MODEL_FIRST, read_judgements
from wrpo_lib.evaluation.judging import NO_LOGPROBS, read_judgement, read_logprobs
from wrpo_lib.evaluation.scores import arena_hard, battles

BATTLES = "eval/arena_hard_v01_battles_gpt-4-0613.jsonl.gz"


def reply(content: Any, top: Any = None, **message: Any) -> dict[str, Any]:
    logprobs = None if top is None else {"content": [{"top_logprobs": top}]}
    choice = {"message": {"content": content, **message}, "logprobs": logprobs}
    return {"choices": [{**choice, "finish_reason": "stop"}]}


def listed(*pairs: tuple[Any, Any]) -> list[dict[str, Any]]:
    return [{"token": token, "logprob": value} for token, value in pairs]


@pytest.mark.parametrize(
    "pairs",
    [
        [("m", -0.1), ("M", -2.5)],
        [("M", -1e-6), ("m", -14.6)],
        [("m", -0.2)],
        [("M", -0.3), ("The", -2.0)],
        [("m", -800.0), ("M", -0.0)],
        [("m", -0.0), ("M", -900.0)],
    ],
)
def test_log_probabilities_are_read_as_the_package_does(pairs: Any, alpaca_package: Any) -> None:
    body = reply("m", listed(*pairs))
    parser = alpaca_package.completion_parsers.logprob_parser
    theirs = parser(body["choices"][0], "m", ["m", "M"], is_binarize=False)[0]
    assert read_logprobs(body) == (pytest.approx(theirs, abs=1e-12), None)


NEITHER = "neither m nor M among the log-probabilities"


@pytest.mark.parametrize(
    ("body", "reading"),
    [
        (reply("m", listed(("m", -0.01), ("the", None), (["x"], 1))), (1.0, None)),
        (reply("m", listed(("The", -0.1), ("Both", -3.0))), (None, NEITHER)),
        ({}, (None, NO_LOGPROBS)),
        *(
            (reply("m", top), (None, NO_LOGPROBS))
            for top in (None, [], {"m": -0.1, "M": -3.0}, "m")
        ),
        *(
            (reply("m", listed(("m", -0.1), ("M", odd))), (None, NO_LOGPROBS))
            for odd in (None, "x", [], 10**400, float("nan"), float("inf"), float("-inf"))
        ),
        (reply("m", listed(("m", -0.3), ("M", -1.4), ("m", -9.0))), (None, NO_LOGPROBS)),
    ],
)
def test_odd_log_probabilities_are_missing_values(body: dict[str, Any], reading: Any) -> None:
    assert read_logprobs(body) == reading


READINGS = {
    judging.read_token: {
        "m": 1.0,
        " M\n": 2.0,
        '"m".': 1.0,
        "**M**": 2.0,
        "m or M": "two verdicts",
        "The best is": "no verdict",
    },
    judging.read_label: {
        "My final verdict is [[A>B]]": "A>B",
        "[[A>B]] as said, [[A>B]]": "A>B",
        "[[A>B]], no: [[B>>A]]": "two verdicts",
        "final: [B>A]": "no verdict",
        "[[A]]": "no verdict",
    },
    judging.read_rating: {
        "Rating: [[7.5]]": 7.5,
        "[[8]], so [[8.0]]": 8.0,
        "[[8]] and later [[2]]": "two verdicts",
        "Rating: [[85]]": "score 85 is outside 1 to 10",
        "Rating: [6], see note 2": 6.0,
        "Rating: 7": "no verdict",
    },
}


@pytest.mark.parametrize("read", READINGS)
def test_written_verdicts(read: Any) -> None:
    for text, expected in READINGS[read].items():
        value, problem = read(text)
        assert expected in (value, problem), text
        assert (value is None) != (problem is None)


MT = {"benchmark": "mt-bench", "metric": "score"}
ALPACA = {"benchmark": "alpaca-eval", "metric": "weighted", "order": BASELINE_FIRST}


@pytest.mark.parametrize(
    ("row", "body", "value"),
    [
        (MT, reply("<think>[[2]]? No, 9.</think>\n\nRating: [[9]]"), 9.0),
        (MT, reply("a first guess is [[3]]\n</think>\n\nRating: [[8]]"), 8.0),
        (MT, reply("Rating: [[7]]", reasoning_content="[[4]]"), 7.0),
        (ALPACA | {"metric": "verdict"}, reply("<think>m or M?</think>M"), 2.0),
        (ALPACA | {"metric": "verdict", "order": MODEL_FIRST}, reply("<think>?</think>M"), 1.0),
        (ALPACA, reply("<think>m?</think>M", listed(("m", -20.0), ("M", -21.0))), None),
        (ALPACA, reply("M", listed(("m", -0.1)), reasoning_content="hm"), None),
    ],
)
def test_a_thought_is_no_part_of_the_verdict(
    row: dict[str, Any], body: dict[str, Any], value: float | None
) -> None:
    found = read_judgement(row, body)
    assert found[judging.FIELDS[row["benchmark"]]] == value
    assert found["problem"] == (None if value else judging.THOUGHT_FIRST)
    assert found["thought"]


def test_a_thought_without_an_answer_is_no_judgement() -> None:
    thought = reply("<think>", listed(("<think>", 0.0), ("m", -20.0), ("M", -21.0)))
    with pytest.raises(WRPOError, match="nothing but a thought"):
        read_judgement(ALPACA, thought)


def test_gpt4_0613_and_both_intervals(shared: Path) -> None:
    judged = read_judgements("arena-hard", shared / BATTLES)
    found = arena_hard(judged)
    assert found["score"] == pytest.approx(37.9019, abs=5e-5)
    assert (found["n_total"], found["n_ties"], found["n_questions"]) == (1244, 173, 500)
    assert found["interval"].high - found["score"] == pytest.approx(3.9, abs=0.15)
    # published -2.30/+2.46, the quantiles of 100 resamples of unclustered rows
    naive = mean_interval(battles(judged)["points"])
    assert naive.high - found["score"] == pytest.approx(2.38, abs=0.25)
    # the weighted mean is the Bradley-Terry win rate
    rows = pd.read_json(shared / BATTLES, lines=True)
    winners = {"model_a": evalica.Winner.X, "model_b": evalica.Winner.Y, "tie": evalica.Winner.Draw}
    sides = rows["model_a"], rows["model_b"], rows["winner"].map(winners).tolist()
    fit = evalica.bradley_terry(*sides, tolerance=1e-12, limit=1000)
    a, b = fit.scores["gpt-4-0613"], fit.scores["gpt-4-0314"]
    assert 100 * a / (a + b) == pytest.approx(found["score"], abs=1e-4)


def test_a_strong_verdict_counts_three_times_and_an_unreadable_one_not_at_all() -> None:
    games = [("q", 1, "B>>A"), ("q", 2, "A>B"), ("r", 1, "A=B"), ("r", 2, "?"), ("r", 2, None)]
    ours = arena_hard(pd.DataFrame(games, columns=["question_id", "game", "verdict"]))
    assert ours["score"] == pytest.approx(100 * (3 + 1 + 0.5) / 5)
    assert (ours["n_total"], ours["n_missing"], ours["interval"].high) == (5, 2, 100)
