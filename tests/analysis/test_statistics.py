"""Intervals that cover the truth as often as they say."""

from __future__ import annotations

import numpy as np
import pytest
import statsmodels.api as sm
from scipy import stats

from wrpo_lib.analysis.statistics import (
    bootstrap_interval,
    detectable_difference,
    mean_interval,
    paired_difference,
    proportion_interval,
    seed_interval,
    slope_interval,
    standard_error,
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


def clustered(seed: int = 5) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Values, a regressor and clusters of uneven size."""
    rng = np.random.default_rng(seed)
    labels = np.sort(rng.integers(0, 25, 120))
    x = rng.normal(size=120)
    return 0.4 * x + rng.normal(size=25)[labels] + rng.normal(size=120), x, labels


def test_clustered_intervals_are_those_of_statsmodels() -> None:
    y, x, labels = clustered()
    how = {"cov_type": "cluster", "cov_kwds": {"groups": labels}, "use_t": True}
    mean = sm.OLS(y, np.ones((len(y), 1))).fit(**how)
    slope = sm.OLS(y, sm.add_constant(x)).fit(**how)
    ours = mean_interval(y, labels)
    assert [ours.low, ours.high] == pytest.approx(mean.conf_int()[0].tolist(), rel=1e-10)
    assert standard_error(y, labels) == pytest.approx(mean.bse[0], rel=1e-10)
    ours = slope_interval(y, x, labels)
    assert [ours.value, ours.low, ours.high] == pytest.approx(
        [slope.params[1], *slope.conf_int()[1]], rel=1e-10
    )


def test_a_slope_on_paired_groups_is_their_paired_difference() -> None:
    rng = np.random.default_rng(6)
    a, b = rng.normal(size=50), rng.normal(size=50)
    slope = slope_interval([*a, *b], [1] * 50 + [0] * 50, [*range(50)] * 2)
    paired = paired_difference(a, b)
    assert slope.value == pytest.approx(paired.value)
    assert slope.high - slope.low == pytest.approx(paired.high - paired.low, rel=0.02)
    with pytest.raises(WRPOError, match="a regressor that varies"):
        slope_interval(a, np.ones(50))


def test_the_bootstrap_agrees_with_the_formula() -> None:
    y, _, labels = clustered()
    formula = mean_interval(y, labels)
    found = bootstrap_interval(lambda n: float(np.average(y, weights=n)), labels, 2000)
    assert found.value == pytest.approx(formula.value)
    assert found.high - found.low == pytest.approx(formula.high - formula.low, rel=0.15)


def test_undefined_resamples_are_named() -> None:
    def fragile(n: np.ndarray) -> float:
        return float("nan") if n[0] == 0 else float(n.mean())

    found = bootstrap_interval(fragile, [*range(10)], 200)
    assert "undefined" in found.method
    with pytest.raises(WRPOError, match="undefined in nearly every resample"):
        bootstrap_interval(lambda n: float("nan"), [1, 2, 3], 20)
