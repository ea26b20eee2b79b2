"""Estimates with intervals. The paper reports none; every choice here is ours.

Questions that share a prompt are correlated, so they are clustered; methods that answer the same
prompts are compared in pairs; seeds are few, so their mean gets a t interval.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy import stats

from wrpo_lib.errors import WRPOError


@dataclass(frozen=True)
class Estimate:
    """A value with its interval: ``n`` observations in ``n_clusters`` independent clusters."""

    value: float
    low: float
    high: float
    n: int
    n_clusters: int
    method: str

    def as_dict(self) -> dict[str, Any]:
        """All fields by name."""
        return asdict(self)

    def text(self, digits: int = 2) -> str:
        """``value [low, high]``, with a typographic minus sign."""
        text = f"{self.value:.{digits}f} [{self.low:.{digits}f}, {self.high:.{digits}f}]"
        return text.replace("-", "\N{MINUS SIGN}")


def _numbers(values: Sequence[float] | np.ndarray, what: str, least: int) -> np.ndarray:
    array = np.asarray(values, dtype=float)
    if array.ndim != 1 or len(array) < least:
        raise WRPOError(
            f"{what} needs at least {least} numbers, got {array.size}; add observations"
        )
    if not np.isfinite(array).all():
        where = int(np.flatnonzero(~np.isfinite(array))[0]) + 1
        raise WRPOError(f"{what}: number {where} is {array[where - 1]}; drop or repair it first")
    return array


def mean_interval(
    values: Sequence[float] | np.ndarray,
    clusters: Sequence[Hashable] | np.ndarray | None = None,
    level: float = 0.95,
) -> Estimate:
    """Mean with a t interval; with ``clusters``, cluster-robust (CR1) standard errors.

    df is the number of clusters minus one.
    """
    x = _numbers(values, "a mean", 2)
    labels, groups = _groups(clusters, len(x))
    se = _cluster_se(x - x.mean(), labels, groups) / len(x)
    how = "t interval" if clusters is None else "cluster-robust t interval"
    return _t_interval(float(x.mean()), se, len(x), groups, how, level)


def standard_error(
    values: Sequence[float] | np.ndarray,
    clusters: Sequence[Hashable] | np.ndarray | None = None,
) -> float:
    """The standard error behind :func:`mean_interval`."""
    x = _numbers(values, "a standard error", 2)
    labels, groups = _groups(clusters, len(x))
    return _cluster_se(x - x.mean(), labels, groups) / len(x)


def slope_interval(
    values: Sequence[float] | np.ndarray,
    x: Sequence[float] | np.ndarray,
    clusters: Sequence[Hashable] | np.ndarray | None = None,
    level: float = 0.95,
) -> Estimate:
    """Least-squares slope of ``values`` on ``x``, with a cluster-robust (CR1) t interval.

    With ``x`` in {0, 1} it is the difference of two means that share clusters: the position effect.
    With ``x`` a standardised length difference it is the length effect, a standard deviation.
    """
    y, z = _numbers(values, "a slope", 3), _numbers(x, "a slope", 3)
    if len(y) != len(z):
        raise WRPOError(f"{len(y)} values but {len(z)} regressors; give one a value")
    z = z - z.mean()
    spread = float((z**2).sum())
    if spread == 0:
        raise WRPOError("a slope needs a regressor that varies; all of its values are equal")
    slope = float((z * y).sum()) / spread
    labels, groups = _groups(clusters, len(y))
    residual = y - y.mean() - slope * z
    correction = np.sqrt((len(y) - 1) / (len(y) - 2))
    se = correction * _cluster_se(z * residual, labels, groups) / spread
    return _t_interval(slope, se, len(y), groups, "cluster-robust t interval of a slope", level)


def difference_interval(
    a: Sequence[float] | np.ndarray,
    a_clusters: Sequence[Hashable] | np.ndarray,
    b: Sequence[float] | np.ndarray,
    b_clusters: Sequence[Hashable] | np.ndarray,
    level: float = 0.95,
) -> Estimate:
    """Mean of ``a`` minus mean of ``b``, whose rows share clusters (questions), with a t interval.

    What two models have in common on a question cancels, as in :func:`paired_difference`, which
    this equals where each question has one row of either; unequal numbers of rows, weights given as
    repeated rows and questions that one side lacks are allowed.
    """
    x, y = _numbers(a, "a difference", 2), _numbers(b, "a difference", 2)
    both = [*_labels(a_clusters, len(x)), *_labels(b_clusters, len(y))]
    labels, groups = _groups(both, len(both))
    scores = np.concatenate([(x - x.mean()) / len(x), (y.mean() - y) / len(y)])
    se = _cluster_se(scores, labels, groups)
    how = "cluster-robust t interval of a difference, shared clusters paired"
    return _t_interval(float(x.mean() - y.mean()), se, len(both), groups, how, level)


def _groups(clusters: Sequence[Hashable] | np.ndarray | None, n: int) -> tuple[np.ndarray, int]:
    """Cluster numbers of ``n`` values and how many clusters there are, at least 2."""
    if clusters is None:
        return np.arange(n), n
    labels = np.unique(_labels(clusters, n), return_inverse=True)[1]
    groups = int(labels.max()) + 1
    if groups < 2:
        raise WRPOError(
            "an interval needs at least 2 clusters, got 1; add independent observations"
        )
    return labels, groups


def _cluster_se(scores: np.ndarray, labels: np.ndarray, groups: int) -> float:
    """Root of the CR1 variance of a sum of ``scores``: summed within, then over clusters."""
    sums = np.bincount(labels, weights=scores, minlength=groups)
    return float(np.sqrt(groups / (groups - 1) * (sums**2).sum()))


def _t_interval(
    value: float, se: float, n: int, groups: int, method: str, level: float
) -> Estimate:
    half = float(stats.t.ppf(0.5 + level / 2, groups - 1)) * se
    return Estimate(value, value - half, value + half, n, groups, method)


def _labels(clusters: Sequence[Hashable] | np.ndarray, n: int) -> np.ndarray:
    if len(clusters) != n:
        raise WRPOError(f"{n} values but {len(clusters)} cluster labels; give one a value")
    return np.asarray([str(c) for c in clusters])


def paired_difference(
    a: Sequence[float] | np.ndarray,
    b: Sequence[float] | np.ndarray,
    clusters: Sequence[Hashable] | np.ndarray | None = None,
    level: float = 0.95,
) -> Estimate:
    """Mean of a − b over pairs, with the interval of :func:`mean_interval`."""
    x, y = _numbers(a, "a paired difference", 2), _numbers(b, "a paired difference", 2)
    if len(x) != len(y):
        raise WRPOError(f"{len(x)} and {len(y)} values cannot be paired; give the same prompts")
    return mean_interval((x - y).tolist(), clusters, level)


def seed_interval(by_seed: Sequence[float] | np.ndarray, level: float = 0.95) -> Estimate:
    """Mean over seeds, one number a seed, with a t interval (df = seeds − 1).

    Seeds are whole replications, so this interval holds all variation there is; with three seeds
    it is honest and wide (t = 4.3).
    """
    found = mean_interval(by_seed, level=level)
    return Estimate(found.value, found.low, found.high, found.n, found.n, "t interval over seeds")


def proportion_interval(successes: int, n: int, level: float = 0.95) -> Estimate:
    """Wilson interval of a proportion."""
    if n < 1 or not 0 <= successes <= n:
        raise WRPOError(f"{successes} of {n} is no proportion; give 0 <= successes <= n and n >= 1")
    low, high = stats.binomtest(successes, n).proportion_ci(level, "wilson")
    return Estimate(successes / n, float(low), float(high), n, n, "Wilson interval")


def detectable_difference(se: float, power: float = 0.8, level: float = 0.95) -> float:
    """The true difference that a two-sided test finds with ``power``, given its standard error."""
    if not se > 0:
        raise WRPOError(f"the standard error is {se}; give one above 0")
    return float((stats.norm.ppf(0.5 + level / 2) + stats.norm.ppf(power)) * se)


def detectable(estimate: Estimate, power: float = 0.8) -> float | None:
    """:func:`detectable_difference` behind a 95 % interval; None where the interval has no width.

    For the interval of a mean: from a fixed number; of a difference: between the two.
    """
    half = (estimate.high - estimate.low) / 2
    se = half / float(stats.t.ppf(0.975, estimate.n_clusters - 1))
    return detectable_difference(se, power) if se > 0 else None


def resamples(groups: int, replicates: int, seed: int = 0) -> Iterator[np.ndarray]:
    """How often each of ``groups`` clusters is drawn, an array (groups,) a replicate."""
    if replicates < 2:
        raise WRPOError(f"a bootstrap needs at least 2 replicates, got {replicates}; ask for more")
    rng = np.random.default_rng(seed)
    for _ in range(replicates):
        yield rng.multinomial(groups, np.full(groups, 1 / groups)).astype(float)


def percentile_interval(
    value: float, drawn: Sequence[float] | np.ndarray, n: int, groups: int, seed: int,
    level: float = 0.95,
) -> Estimate:  # fmt: skip
    """Percentile interval of bootstrap values; undefined ones are left out and named."""
    kept = np.asarray(drawn, dtype=float)
    kept = kept[np.isfinite(kept)]
    if len(kept) < 2:
        raise WRPOError("the statistic is undefined in nearly every resample; add observations")
    low, high = np.quantile(kept, [0.5 - level / 2, 0.5 + level / 2])
    lost = f", {len(drawn) - len(kept)} undefined" if len(kept) < len(drawn) else ""
    how = f"cluster bootstrap, {len(drawn)} replicates, seed {seed}{lost}"
    return Estimate(value, float(low), float(high), n, groups, how)


def bootstrap_interval(
    statistic: Callable[[np.ndarray], float],
    clusters: Sequence[Hashable] | np.ndarray,
    replicates: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> Estimate:
    """Percentile interval of ``statistic`` from resampling whole clusters.

    ``statistic`` takes how often each row is drawn, an array (N,) of counts, all 1 for the estimate
    itself. For quantities whose standard error has no simple formula, such as a refitted model.
    Replicates where it is not finite are left out of the quantiles and named in ``method``.
    """
    labels, groups = _groups(clusters, len(clusters))
    drawn = [statistic(counts[labels]) for counts in resamples(groups, replicates, seed)]
    value = float(statistic(np.ones(len(labels))))
    return percentile_interval(value, drawn, len(labels), groups, seed, level)
