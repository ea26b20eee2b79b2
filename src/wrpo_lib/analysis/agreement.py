"""Agreement between two judges on the same comparisons."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from wrpo_lib.analysis.statistics import Estimate, bootstrap_interval, mean_interval
from wrpo_lib.errors import WRPOError


@dataclass(frozen=True)
class Agreement:
    """Two judges on the rows that both judged.

    ``raw``: share of equal verdicts. ``kappa``: Cohen's, agreement beyond what the two judges'
    own shares would give by chance. ``without_ties``: raw agreement where neither tied.
    ``n_missing`` rows lack one of the verdicts; in ``n_tied`` at least one judge tied.
    """

    raw: Estimate
    kappa: Estimate
    without_ties: Estimate | None
    n: int
    n_missing: int
    n_tied: int


def agreement(
    a: Sequence[str | None] | pd.Series,
    b: Sequence[str | None] | pd.Series,
    clusters: Sequence[Hashable] | Any = None,
    replicates: int = 1000,
    seed: int = 0,
) -> Agreement:
    """Agreement of two lists of verdicts, row by row; a missing verdict is None, a tie "ties".

    Kappa gets a cluster-bootstrap interval: one cluster per row unless ``clusters`` is given.
    """
    from sklearn.metrics import cohen_kappa_score

    table = pd.DataFrame({"a": list(a), "b": list(b)})
    table["cluster"] = table.index if clusters is None else clusters
    known = table.dropna()
    if len(known) < 2:
        raise WRPOError(
            f"the two judges share {len(known)} rows with a verdict; give rows that both judged"
        )

    def kappa(counts: np.ndarray) -> float:
        drawn = known[counts > 0]
        if drawn[["a", "b"]].stack().nunique() == 1:
            return float("nan")  # one verdict alone leaves nothing beyond chance
        return float(cohen_kappa_score(drawn["a"], drawn["b"], sample_weight=counts[counts > 0]))

    equal, tied = (
        (known["a"] == known["b"]).astype(float),
        (known[["a", "b"]] == "ties").any(axis=1),
    )
    clear = known["cluster"][~tied]
    return Agreement(
        raw=mean_interval(equal, known["cluster"]),
        kappa=bootstrap_interval(kappa, known["cluster"], replicates, seed),
        without_ties=mean_interval(equal[~tied], clear) if clear.nunique() > 1 else None,
        n=len(known),
        n_missing=len(table) - len(known),
        n_tied=int(tied.sum()),
    )
