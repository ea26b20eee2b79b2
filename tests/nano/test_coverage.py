"""Reported intervals hold the truth at their stated rate: several hundred simulated judge runs.

Questions are drawn from a population, the judge of the testbed judges them with its biases and
noise, and each run's interval either holds the population's value or not. The value itself is the
mean over a sample so large that its error is a hundredth of an interval's width.
"""

from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy.special import expit

from wrpo_lib.analysis.statistics import Estimate
from wrpo_lib.evaluation.scores import arena_hard, mt_bench, win_rate
from wrpo_lib.nano.judge import EDGES, VERDICTS, Judge

JUDGE = Judge()
RUNS, QUESTIONS, LARGE = 400, 100, 400_000
# 0.95 plus or minus 3.3 standard errors of a share of 400 runs: one test in a thousand is outside
BAND = (0.914, 0.986)


def latent(rng: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Preference in logits for the model shown second and shown first, one a question.

    The model is a little better and longer than the baseline, not always.
    """
    gap, longer = rng.normal(0.08, 0.3, n), rng.normal(3, 9, n)
    noise = rng.standard_normal((2, n))
    return tuple(JUDGE.prefers(gap, longer, second, noise[int(second)]) for second in (True, False))


def rows(n: int, **columns: Any) -> pd.DataFrame:
    """Two judgements of each question."""
    return pd.DataFrame({"question_id": np.tile(np.arange(n), 2), **columns})


def alpaca(rng: np.random.Generator, n: int) -> Estimate:
    """Both orders of every question."""
    order = np.repeat(["baseline first", "model first"], n)
    preference = 1 + expit(np.concatenate(latent(rng, n)))
    return win_rate(rows(n, order=order, preference=preference))["interval"]


def arena(rng: np.random.Generator, n: int) -> Estimate:
    """Both games; in the first the baseline is A, so that the model is shown second."""
    second, first = latent(rng, n)
    below = (np.concatenate([-second, first])[:, None] < np.array(EDGES)).sum(axis=1)
    judged = rows(n, game=np.repeat([1, 2], n), verdict=np.array(VERDICTS)[below])
    return arena_hard(judged)["interval"]


def mt(rng: np.random.Generator, n: int) -> Estimate:
    """Two turns that share the question's quality."""
    quality, length = rng.beta(4, 2, n), 12 + rng.normal(3, 9, n)
    scores = [JUDGE.rating(quality, length, rng.standard_normal(n)) for _ in (1, 2)]
    judged = rows(n, turn=np.repeat([1, 2], n), score=np.concatenate(scores))
    return mt_bench(judged)["interval"]


@pytest.mark.parametrize("protocol", [alpaca, arena, mt])
def test_intervals_hold_the_truth_at_their_rate(protocol: Any) -> None:
    rng = np.random.default_rng(20)
    truth = protocol(rng, LARGE)
    found = [protocol(rng, QUESTIONS) for _ in range(RUNS)]
    width = np.mean([interval.high - interval.low for interval in found])
    assert truth.high - truth.low < 0.05 * width
    assert BAND[0] <= np.mean([i.low <= truth.value <= i.high for i in found]) <= BAND[1]
