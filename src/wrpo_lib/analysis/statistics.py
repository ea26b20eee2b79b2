"""Estimates with intervals. The paper reports none; every choice here is ours.

Questions that share a prompt are correlated, so they are clustered; methods that answer the same
prompts are compared in pairs; seeds are few, so their mean gets a t interval.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
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
    labels = (
        np.arange(len(x))
        if clusters is None
        else np.unique(_labels(clusters, x), return_inverse=True)[1]
    )
    groups = int(labels.max()) + 1
    if groups < 2:
        raise WRPOError(
            "an interval needs at least 2 clusters, got 1; add independent observations"
        )
    sums = np.bincount(labels, weights=x - x.mean())
    se = np.sqrt(groups / (groups - 1) * (sums**2).sum()) / len(x)
    half = stats.t.ppf(0.5 + level / 2, groups - 1) * se
    how = "t interval" if clusters is None else "cluster-robust t interval"
    return Estimate(float(x.mean()), float(x.mean() - half), float(x.mean() + half),
                    len(x), groups, how)  # fmt: skip


def _labels(clusters: Sequence[Hashable] | np.ndarray, x: np.ndarray) -> np.ndarray:
    if len(clusters) != len(x):
        raise WRPOError(f"{len(x)} values but {len(clusters)} cluster labels; give one a value")
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
