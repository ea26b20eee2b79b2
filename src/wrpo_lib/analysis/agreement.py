"""Agreement between two judges, or of a judge with people, on the same comparisons."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np

from wrpo_lib.analysis.statistics import Estimate, Values, bootstrap_interval, mean_interval
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


def verdicts(preferences: Values, tie: float = 1.5) -> list[str | None]:
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

    Kappa and alpha get cluster-bootstrap intervals: one cluster per row unless ``clusters`` is
    given.
    """
    import sklearn
    from sklearn.metrics import cohen_kappa_score

    if len(a) != len(b):
        raise WRPOError(f"{len(a)} and {len(b)} verdicts cannot be compared; give the same rows")
    labels = range(len(a)) if clusters is None else clusters
    rows = [(x, y, c) for x, y, c in zip(a, b, labels, strict=True) if x and y]
    if len(rows) < 2:
        raise WRPOError(
            f"the two judges share {len(rows)} rows with a verdict; give rows that both judged"
        )
    both = np.array([(x, y) for x, y, _ in rows])
    equal = (both[:, 0] == both[:, 1]).astype(float)
    tied = (both == VERDICTS[1]).any(axis=1)
    questions = np.array([str(c) for _, _, c in rows])

    def kappa(counts: np.ndarray) -> float:
        drawn = counts > 0
        if len(np.unique(both[drawn])) == 1:
            return float("nan")  # one verdict alone leaves nothing beyond chance
        return float(cohen_kappa_score(*both[drawn].T, sample_weight=counts[drawn]))

    with sklearn.config_context(assume_finite=True, skip_parameter_validation=True):
        beyond_chance = bootstrap_interval(kappa, questions, replicates, seed)
    clear = len(set(questions[~tied])) > 1
    return Agreement(
        raw=mean_interval(equal, questions),
        kappa=beyond_chance,
        alpha=bootstrap_interval(lambda n: _alpha(both, n), questions, replicates, seed),
        without_ties=mean_interval(equal[~tied], questions[~tied]) if clear else None,
        n=len(rows),
        n_missing=len(a) - len(rows),
        n_tied=int(tied.sum()),
    )


def _alpha(both: np.ndarray, counts: np.ndarray) -> float:
    """Krippendorff's alpha of nominal verdicts (N, 2), each row counted ``counts`` times."""
    n = counts.sum()
    equal = counts[both[:, 0] == both[:, 1]].sum() / n
    shares = np.array([((both == v).sum(axis=1) * counts).sum() for v in np.unique(both)])
    # 2n verdicts of both judges, two of them drawn without replacement
    chance = (shares * (shares - 1)).sum() / (2 * n * (2 * n - 1))
    return float("nan") if chance == 1 else float((equal - chance) / (1 - chance))
