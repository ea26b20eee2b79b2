"""Reported intervals hold the truth at their stated rate: several hundred simulated judge runs.

Questions are drawn from a population, the judge of the testbed judges them with its biases and
noise, and each run's interval either holds the population's value or not. The value itself is the
mean over a sample so large that its error is a hundredth of an interval's width.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy.special import expit

from wrpo_lib.analysis.statistics import mean_interval
from wrpo_lib.evaluation import alpaca_eval, arena_hard, mt_bench
from wrpo_lib.nano.judge import EDGES, VERDICTS, Judge

JUDGE = Judge()
RUNS, QUESTIONS, LARGE = 400, 100, 400_000
# 0.95 plus or minus 3.3 standard errors of a share of 400 runs: one test in a thousand is outside
BAND = (0.914, 0.986)


def population(rng: np.random.Generator, n: int) -> dict[str, np.ndarray]:
    """Questions on which the model is a little better and longer than the baseline, not always."""
    return {"gap": rng.normal(0.08, 0.3, n), "longer": rng.normal(10, 30, n),
            "quality": rng.beta(4, 2, n)}  # fmt: skip


def latent(rng: np.random.Generator, drawn: dict[str, np.ndarray], second: bool) -> np.ndarray:
    """Preference for the model in logits, one a question."""
    noise = JUDGE.noise * rng.standard_normal(len(drawn["gap"]))
    found: np.ndarray = JUDGE.bias(drawn["gap"], drawn["longer"], second) + noise
    return found


def alpaca_rows(rng: np.random.Generator, n: int) -> pd.DataFrame:
    """Both orders of every question."""
    drawn = population(rng, n)
    both = [1 + expit(latent(rng, drawn, second)) for second in (True, False)]
    order = np.repeat(["baseline first", "model first"], n)
    return pd.DataFrame({"question_id": np.tile(np.arange(n), 2), "order": order,
                         "preference": np.concatenate(both)})  # fmt: skip


def arena_rows(rng: np.random.Generator, n: int) -> pd.DataFrame:
    """Both games; in the first the baseline is A, so that the model is shown second."""
    drawn = population(rng, n)
    for_a = np.concatenate([-latent(rng, drawn, True), latent(rng, drawn, False)])
    below = (for_a[:, None] < np.array(EDGES)).sum(axis=1)
    return pd.DataFrame({"question_id": np.tile(np.arange(n), 2), "game": np.repeat([1, 2], n),
                         "verdict": np.array(VERDICTS)[below]})  # fmt: skip


def mt_rows(rng: np.random.Generator, n: int) -> pd.DataFrame:
    """Two turns that share the question's quality."""
    drawn = population(rng, n)
    scores = [JUDGE.rating(drawn["quality"], 40 + drawn["longer"], rng.standard_normal(n))
              for _ in (1, 2)]  # fmt: skip
    return pd.DataFrame({"question_id": np.tile(np.arange(n), 2), "turn": np.repeat([1, 2], n),
                         "score": np.concatenate(scores)})  # fmt: skip


def alpaca(rows: pd.DataFrame) -> tuple[float, Any]:
    found = alpaca_eval.win_rate(rows)
    return found.win_rate, found.interval


def arena(rows: pd.DataFrame) -> tuple[float, Any]:
    found = arena_hard.summarise(rows)
    return found.score, found.interval


def mt(rows: pd.DataFrame) -> tuple[float, Any]:
    found = mt_bench.summarise(rows)
    return found.overall, found.interval


PROTOCOLS = {"alpaca-eval": (alpaca_rows, alpaca), "arena-hard": (arena_rows, arena),
             "mt-bench": (mt_rows, mt)}  # fmt: skip


@pytest.mark.parametrize("name", PROTOCOLS)
def test_intervals_hold_the_truth_at_their_rate(name: str) -> None:
    draw, score = PROTOCOLS[name]
    rng = np.random.default_rng(20)
    truth, tight = score(draw(rng, LARGE))
    covered, width = [], []
    for _ in range(RUNS):
        _, interval = score(draw(rng, QUESTIONS))
        covered.append(interval.low <= truth <= interval.high)
        width.append(interval.high - interval.low)
    assert tight.high - tight.low < 0.05 * np.mean(width)
    assert BAND[0] <= np.mean(covered) <= BAND[1]


def test_an_interval_over_rows_would_not() -> None:
    """Two turns of one question are not two observations: the same test finds that out."""
    rng = np.random.default_rng(21)
    truth = mt_bench.summarise(mt_rows(rng, LARGE)).overall
    covered = []
    for _ in range(RUNS):
        interval = mean_interval(mt_rows(rng, QUESTIONS)["score"].tolist())
        covered.append(interval.low <= truth <= interval.high)
    assert np.mean(covered) < BAND[0]
