"""Intervals that cover the truth as often as they say."""

import numpy as np
import pytest
import statsmodels.api as sm
from scipy import stats

from wrpo_lib.analysis.statistics import (
    bootstrap_interval,
    detectable,
    difference_interval,
    mean_interval,
    proportion_interval,
    slope_interval,
)
from wrpo_lib.errors import WRPOError


def test_mean_interval_is_the_t_interval() -> None:
    x = np.random.default_rng(0).normal(3, 2, 40)
    expected = pytest.approx(stats.t.interval(0.95, 39, x.mean(), stats.sem(x)), rel=1e-12)
    for clusters in (None, list(range(40))):  # clusters of one change nothing
        found = mean_interval(x, clusters)
        assert (found.low, found.high) == expected


def test_a_difference_of_what_is_shared_uses_the_pairs() -> None:
    rng = np.random.default_rng(4)
    prompt, names = rng.normal(size=100), list(range(100))
    a, b = prompt + 0.1 + 0.1 * rng.normal(size=100), prompt + 0.1 * rng.normal(size=100)
    paired = mean_interval(a - b)
    assert paired.low > 0
    unpaired = mean_interval(a).high - mean_interval(a).low
    assert paired.high - paired.low < unpaired / 3
    shared = difference_interval(a, names, b[::-1], names[::-1])
    assert (shared.low, shared.high) == pytest.approx((paired.low, paired.high), rel=1e-12)
    slope = slope_interval([*a, *b], [1] * 100 + [0] * 100, names * 2)
    assert slope.value == pytest.approx(paired.value)
    assert slope.high - slope.low == pytest.approx(paired.high - paired.low, rel=0.02)


def test_wilson_and_detectable_difference() -> None:
    found = proportion_interval(8, 10)
    assert (found.low, found.high) == pytest.approx((0.4902, 0.9433), abs=1e-4)
    x = np.random.default_rng(0).normal(size=50)
    assert detectable(mean_interval(x)) == pytest.approx(2.8016 * stats.sem(x), rel=1e-4)
    assert detectable(mean_interval([1.0, 1.0])) is None


def test_unusable_input_is_refused() -> None:
    with pytest.raises(WRPOError, match="at least 2 numbers, all finite"):
        mean_interval([1.0, float("nan")])
    with pytest.raises(WRPOError, match="at least 2 clusters"):
        mean_interval([1, 2, 3], [1, 1, 1])


def test_clustered_intervals_are_those_of_statsmodels_and_about_the_bootstraps() -> None:
    rng = np.random.default_rng(5)
    labels = np.sort(rng.integers(0, 25, 120))  # clusters of uneven size
    x = rng.normal(size=120)
    y = 0.4 * x + rng.normal(size=25)[labels] + rng.normal(size=120)
    how = {"cov_type": "cluster", "cov_kwds": {"groups": labels}, "use_t": True}
    mean = sm.OLS(y, np.ones((len(y), 1))).fit(**how)
    slope = sm.OLS(y, sm.add_constant(x)).fit(**how)
    for ours, value, bounds in (
        (mean_interval(y, labels), mean.params[0], mean.conf_int()[0]),
        (slope_interval(y, x, labels), slope.params[1], slope.conf_int()[1]),
    ):
        assert [ours.value, ours.low, ours.high] == pytest.approx([value, *bounds], rel=1e-10)
    formula = mean_interval(y, labels)
    found = bootstrap_interval(lambda n: float(np.average(y, weights=n)), labels, 2000)
    assert found.value == pytest.approx(formula.value)
    assert found.high - found.low == pytest.approx(formula.high - formula.low, rel=0.15)


def test_one_universe_gives_the_same_resamples() -> None:
    """Rows in another order, or of a part of the questions, are drawn as often."""
    names = [f"q{i}" for i in range(10)]
    a = bootstrap_interval(lambda n: float(n[2]), names, 20, universe=names)
    b = bootstrap_interval(lambda n: float(n[1]), ["q5", "q2"], 20, universe=names)
    assert a.drawn == b.drawn
    assert len(set(a.drawn)) > 1
    found = bootstrap_interval(lambda n: np.nan if n[0] == 0 else n.mean(), [*range(10)], 200)
    assert "undefined" in found.method
