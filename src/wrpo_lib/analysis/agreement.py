"""Agreement between two judges, or of a judge with people, on the same comparisons."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from wrpo_lib.analysis.statistics import Estimate, bootstrap_interval, mean_interval
from wrpo_lib.errors import WRPOError

VERDICTS = ("loses", "ties", "wins")


@dataclass(frozen=True)
class Agreement:
    """Two judges on the rows that both judged.

    ``raw``: share of equal verdicts. ``kappa``: Cohen's, agreement beyond what the two judges'
    own shares would give by chance. ``alpha``: Krippendorff's for nominal verdicts, the same with
    chance taken from both judges together. ``without_ties``: raw agreement where neither tied.
    ``n_missing`` rows lack one of the verdicts; in ``n_tied`` at least one judge tied.
    """

    raw: Estimate
    kappa: Estimate
    alpha: Estimate
    without_ties: Estimate | None
    n: int
    n_missing: int
    n_tied: int

    def as_dict(self) -> dict[str, Any]:
        """All fields by name, intervals as dictionaries."""
        return asdict(self)


def verdicts(preferences: Sequence[float] | np.ndarray, tie: float = 1.5) -> list[str | None]:
    """``wins`` above ``tie``, ``loses`` below, ``ties`` at it, None where the preference is NaN."""
    return [
        None if np.isnan(p) else VERDICTS[1 + int(np.sign(p - tie))]
        for p in np.asarray(preferences, dtype=float)
    ]


def agreement(
    a: Sequence[str | None],
    b: Sequence[str | None],
    clusters: Sequence[Hashable] | None = None,
    replicates: int = 1000,
    seed: int = 0,
) -> Agreement:
    """Agreement of two lists of verdicts, row by row; a missing verdict is None.

    Kappa and alpha get cluster-bootstrap intervals: one cluster a row unless ``clusters`` is given.
    """
    if len(a) != len(b):
        raise WRPOError(f"{len(a)} and {len(b)} verdicts cannot be compared; give the same rows")
    labels = range(len(a)) if clusters is None else clusters
    rows = [
        (x, y, c) for x, y, c in zip(a, b, labels, strict=True) if x is not None and y is not None
    ]
    if len(rows) < 2:
        raise WRPOError(
            f"the two judges share {len(rows)} rows with a verdict; give rows that both judged"
        )
    names = sorted({v for x, y, _ in rows for v in (x, y)})
    first = np.array([names.index(x) for x, _, _ in rows])
    second = np.array([names.index(y) for _, y, _ in rows])
    kept = [c for _, _, c in rows]
    tied = np.array([VERDICTS[1] in (x, y) for x, y, _ in rows])
    equal = (first == second).astype(float)

    def kappa(counts: np.ndarray) -> float:
        return _beyond_chance(_table(first, second, counts, len(names)), pooled=False)

    def alpha(counts: np.ndarray) -> float:
        return _beyond_chance(_table(first, second, counts, len(names)), pooled=True)

    clear = [c for c, t in zip(kept, tied, strict=True) if not t]
    return Agreement(
        raw=mean_interval(equal, kept),
        kappa=bootstrap_interval(kappa, kept, replicates, seed=seed),
        alpha=bootstrap_interval(alpha, kept, replicates, seed=seed),
        without_ties=mean_interval(equal[~tied], clear) if len(set(clear)) > 1 else None,
        n=len(rows),
        n_missing=len(a) - len(rows),
        n_tied=int(tied.sum()),
    )


def _table(a: np.ndarray, b: np.ndarray, counts: np.ndarray, k: int) -> np.ndarray:
    """Cross table (k, k) of two judges' verdicts, each row counted ``counts`` times."""
    return np.bincount(a * k + b, weights=counts, minlength=k * k).reshape(k, k)


def _beyond_chance(table: np.ndarray, pooled: bool) -> float:
    """Cohen's kappa of a cross table; with ``pooled``, Krippendorff's nominal alpha."""
    n = table.sum()
    if pooled:
        values = table.sum(0) + table.sum(1)  # 2n verdicts, drawn without replacement
        chance = (values * (values - 1)).sum() / (2 * n * (2 * n - 1))
    else:
        chance = (table.sum(0) * table.sum(1)).sum() / n**2
    return float("nan") if chance == 1 else float((np.trace(table) / n - chance) / (1 - chance))
