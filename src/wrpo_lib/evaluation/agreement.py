"""Agreement of two judges on what both judged."""

from __future__ import annotations

import numpy as np
import pandas as pd
from sklearn.metrics import cohen_kappa_score

from wrpo_lib.analysis.statistics import Estimate, bootstrap_interval, mean_interval
from wrpo_lib.errors import WRPOError
from wrpo_lib.evaluation.summary import KINDS

VERDICTS = {-1.0: "loses", 0.0: "ties", 1.0: "wins"}


def judges_agree(
    benchmark: str, a: pd.DataFrame, b: pd.DataFrame, replicates: int = 1000
) -> dict[str, Estimate | int]:
    """:func:`agreement` of two tables of judgements, each by one judge."""
    both = pd.concat({"a": _verdicts(benchmark, a), "b": _verdicts(benchmark, b)}, axis=1)
    return agreement(both, replicates)


def _verdicts(benchmark: str, table: pd.DataFrame) -> pd.Series:
    """Verdicts by question, model, and turn where there is one.

    A verdict is who wins a comparison, both orders or games of it together (a tie where they
    balance); in MT-Bench it is the rounded score of a turn.
    """
    if table["judge"].nunique() > 1:
        names = ", ".join(table["judge"].unique())
        raise WRPOError(f"one file holds judgements of {names}; give a file for each judge")
    key = ["question_id", "model", *(["turn"] if benchmark == "mt-bench" else [])]
    means = KINDS[benchmark][2](table).groupby(key)["points"].mean()
    return means.round().astype(str) if "turn" in key else np.sign(means - 50).map(VERDICTS)


def agreement(
    verdicts: pd.DataFrame, replicates: int = 1000, seed: int = 0
) -> dict[str, Estimate | int]:
    """Agreement of the columns ``a`` and ``b``; rows cluster by the first level of the index.

    ``raw``: share of equal verdicts. ``kappa``: Cohen's, agreement beyond what the two judges' own
    shares would give by chance. ``n`` rows have both verdicts, ``n_missing`` lack one (None).
    """
    known = verdicts.dropna()
    if len(known) < 2:
        raise WRPOError(
            f"the two judges share {len(known)} rows with a verdict; give rows that both judged"
        )
    a, b, clusters = known["a"], known["b"], known.index.get_level_values(0).astype(str)

    def kappa(counts: np.ndarray) -> float:
        drawn = counts > 0
        if pd.concat([a[drawn], b[drawn]]).nunique() == 1:
            return float("nan")  # one verdict alone leaves nothing beyond chance
        return float(cohen_kappa_score(a[drawn], b[drawn], sample_weight=counts[drawn]))

    return {
        "raw": mean_interval((a == b).astype(float), clusters),
        "kappa": bootstrap_interval(kappa, clusters, replicates, seed),
        "n": len(known),
        "n_missing": len(verdicts) - len(known),
    }
