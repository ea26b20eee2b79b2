"""Estimates with 95 % intervals. The paper reports none; every choice here is ours.

Judgements of one question are correlated, so they are clustered; methods that answer the same
prompts are compared in pairs; seeds are few, so their mean gets a t interval.
"""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Self

import numpy as np
from scipy import stats

from wrpo_lib.errors import WRPOError

Values = Sequence[float] | np.ndarray
Labels = Sequence[Hashable] | np.ndarray


@dataclass(frozen=True)
class Estimate:
    """A value with its interval: ``n`` observations in ``n_clusters`` independent clusters;
    ``drawn``: the values on the resamples behind a bootstrap interval."""

    value: float
    low: float
    high: float
    n: int
    n_clusters: int
    method: str
    drawn: tuple[float, ...] = field(default=(), repr=False)

    def text(self, digits: int = 2) -> str:
        """``value [low, high]``, with a typographic minus sign."""
        low, high = (signed(bound, digits) for bound in (self.low, self.high))
        return f"{signed(self.value, digits)} [{low}, {high}]"

    def times(self, factor: float) -> Self:
        """The estimate in another unit."""
        value, low, high = (factor * x for x in (self.value, self.low, self.high))
        return replace(self, value=value, low=low, high=high)

    def shown(self) -> dict[str, Any]:
        """All fields but ``drawn``."""
        return {f.name: getattr(self, f.name) for f in fields(self) if f.repr}

    def spread(self, name: str) -> dict[str, float]:
        """Three columns of a table: ``name``, ``name_low``, ``name_high``."""
        return {name: self.value, f"{name}_low": self.low, f"{name}_high": self.high}


def signed(value: float, digits: int = 2) -> str:
    """A number with a typographic minus sign."""
    return f"{value:.{digits}f}".replace("-", "\N{MINUS SIGN}")


def mean_interval(values: Values, clusters: Labels | None = None) -> Estimate:
    """Mean with a t interval; with ``clusters``, cluster-robust (CR1) standard errors and as many
    degrees of freedom as clusters, minus one.

    :raises WRPOError: as all intervals do, for too few numbers or clusters, or one not finite.
    """
    x = _numbers(values)
    how = "t interval" if clusters is None else "cluster-robust t interval"
    return _t_interval(x.mean(), (x - x.mean()) / len(x), clusters, how)


def difference_interval(a: Values, a_clusters: Labels, b: Values, b_clusters: Labels) -> Estimate:
    """Mean of ``a`` minus mean of ``b``, whose rows share clusters, with a t interval: what two
    models have in common on a question cancels, though it may lack a row of either."""
    x, y = _numbers(a), _numbers(b)
    both = [*a_clusters, *b_clusters]
    scores = np.concatenate([(x - x.mean()) / len(x), (y.mean() - y) / len(y)])
    how = "cluster-robust t interval of a difference, shared clusters paired"
    return _t_interval(x.mean() - y.mean(), scores, both, how)


def slope_interval(values: Values, x: Values, clusters: Labels | None = None) -> Estimate:
    """Least-squares slope of ``values`` on ``x``, with a cluster-robust (CR1) t interval."""
    y, z = _numbers(values, 3), _numbers(x, 3)
    z = z - z.mean()
    spread = (z**2).sum()
    slope = (z * y).sum() / spread
    residual = y - y.mean() - slope * z
    correction = np.sqrt((len(y) - 1) / (len(y) - 2))
    how = "cluster-robust t interval of a slope"
    return _t_interval(slope, correction * z * residual / spread, clusters, how)


def proportion_interval(successes: int, n: int) -> Estimate:
    """Wilson interval of a proportion."""
    low, high = stats.binomtest(successes, n).proportion_ci(method="wilson")
    return Estimate(successes / n, float(low), float(high), n, n, "Wilson interval")


def detectable(estimate: Estimate) -> float | None:
    """The true difference that a two-sided 5 % test finds in 80 % of runs: of a mean from a fixed
    number, or between two; None without width."""
    half = (estimate.high - estimate.low) / 2
    se = half / float(stats.t.ppf(0.975, estimate.n_clusters - 1))
    return float((stats.norm.ppf(0.975) + stats.norm.ppf(0.8)) * se) if se > 0 else None


def bootstrap_interval(
    statistic: Callable[[np.ndarray], float],
    clusters: Labels,
    replicates: int = 1000,
    seed: int = 0,
    universe: Labels | None = None,
) -> Estimate:
    """Percentile interval of ``statistic`` from resampling whole clusters.

    ``statistic`` takes how often each row is drawn (N,), once for the estimate itself. Clusters are
    drawn from ``universe`` (default: the rows'), so with one universe and seed ``drawn`` can be
    subtracted. Replicates that are not finite are left out and counted in ``method``.
    """
    rows = [str(c) for c in clusters]
    groups = _groups(rows, len(rows))[1]
    pool = np.unique(rows if universe is None else [str(c) for c in universe])
    columns, rng = np.searchsorted(pool, rows), np.random.default_rng(seed)
    chances = np.full(len(pool), 1 / len(pool))
    counts = (rng.multinomial(len(pool), chances)[columns] for _ in range(replicates))
    drawn = [float(statistic(n.astype(float))) for n in counts]
    value = float(statistic(np.ones(len(rows))))
    finite = np.asarray(drawn)[np.isfinite(drawn)]
    if len(finite) < 2:
        raise WRPOError("the statistic is undefined in nearly every resample; add observations")
    lost = f", {len(drawn) - len(finite)} undefined" if len(finite) < len(drawn) else ""
    how = f"cluster bootstrap, {replicates} replicates, seed {seed}{lost}"
    low, high = np.quantile(finite, [0.025, 0.975])
    return Estimate(value, float(low), float(high), len(rows), groups, how, tuple(drawn))


def _numbers(values: Values, least: int = 2) -> np.ndarray:
    array = np.asarray(values, dtype=float)
    if array.ndim != 1 or len(array) < least or not np.isfinite(array).all():
        what = f"an interval needs at least {least} numbers, all finite, got {array.size}"
        raise WRPOError(f"{what}; add observations, or drop those that are not")
    return array


def _groups(clusters: Labels | None, n: int) -> tuple[np.ndarray, int]:
    """Cluster numbers of ``n`` values and how many clusters there are, at least 2."""
    if clusters is None:
        return np.arange(n), n
    names, labels = np.unique([str(c) for c in clusters], return_inverse=True)
    if len(names) < 2:
        raise WRPOError("an interval needs at least 2 clusters; add independent observations")
    return labels, len(names)


def _t_interval(value: float, scores: np.ndarray, clusters: Labels | None, method: str) -> Estimate:
    """The t interval of a sum of ``scores``, which are independent between clusters (CR1)."""
    labels, groups = _groups(clusters, len(scores))
    sums = np.bincount(labels, weights=scores, minlength=groups)
    se = np.sqrt(groups / (groups - 1) * (sums**2).sum())
    half = stats.t.ppf(0.975, groups - 1) * se
    low, high = float(value - half), float(value + half)
    return Estimate(float(value), low, high, len(scores), groups, method)
