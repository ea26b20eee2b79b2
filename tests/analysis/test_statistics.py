"""Intervals that cover the truth as often as they say."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from wrpo_lib.analysis.statistics import (
    detectable_difference,
    mean_interval,
    paired_difference,
    proportion_interval,
    seed_interval,
)
from wrpo_lib.errors import WRPOError


def test_mean_interval_is_the_t_interval() -> None:
    x = np.random.default_rng(0).normal(3, 2, 40)
    low, high = stats.t.interval(0.95, 39, x.mean(), stats.sem(x))
    found = mean_interval(x)
    assert (found.low, found.high) == pytest.approx((low, high), rel=1e-12)


def test_clustered_interval_covers_and_the_naive_one_does_not() -> None:
    rng = np.random.default_rng(1)
    hits = {"clustered": 0, "naive": 0}
    for _ in range(600):
        x = np.repeat(rng.normal(size=30), 4) + 0.5 * rng.normal(size=120)
        labels = np.repeat(np.arange(30), 4)
        for name, found in (("clustered", mean_interval(x, labels)), ("naive", mean_interval(x))):
            hits[name] += found.low < 0 < found.high
    assert 0.92 < hits["clustered"] / 600 < 0.975
    assert hits["naive"] / 600 < 0.80


def test_clusters_of_one_change_nothing() -> None:
    x = np.random.default_rng(2).normal(size=20)
    plain, single = mean_interval(x), mean_interval(x, list(range(20)))
    assert (plain.low, plain.high) == pytest.approx((single.low, single.high), rel=1e-12)


def test_seed_interval_covers_with_three_seeds() -> None:
    rng = np.random.default_rng(3)
    found = [seed_interval(rng.normal(size=3)) for _ in range(1000)]
    assert 0.93 < np.mean([f.low < 0 < f.high for f in found]) < 0.97


def test_paired_difference_uses_the_pairs() -> None:
    rng = np.random.default_rng(4)
    prompt = rng.normal(size=100)
    a, b = prompt + 0.1 + 0.1 * rng.normal(size=100), prompt + 0.1 * rng.normal(size=100)
    paired = paired_difference(a, b)
    assert paired.low > 0
    unpaired = mean_interval(a).high - mean_interval(a).low
    assert paired.high - paired.low < unpaired / 3


def test_wilson_and_detectable_difference() -> None:
    found = proportion_interval(8, 10)
    assert (found.low, found.high) == pytest.approx((0.4902, 0.9433), abs=1e-4)
    assert detectable_difference(1.0) == pytest.approx(2.8016, abs=1e-4)


@pytest.mark.parametrize("bad", [[], [1.0], [1.0, float("nan")], [1.0, float("inf")]])
def test_unusable_numbers_are_refused(bad: list[float]) -> None:
    with pytest.raises(WRPOError, match="mean"):
        mean_interval(bad)


def test_mismatched_inputs_are_refused() -> None:
    with pytest.raises(WRPOError, match="cannot be paired"):
        paired_difference([1, 2, 3], [1, 2])
    with pytest.raises(WRPOError, match="cluster labels"):
        mean_interval([1, 2, 3], [1, 2])
