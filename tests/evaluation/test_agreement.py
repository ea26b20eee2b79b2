"""Agreement of two judges against scikit-learn."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import cohen_kappa_score

from wrpo_lib.errors import WRPOError
from wrpo_lib.evaluation.agreement import agreement, judges_agree


def verdicts(a: Sequence[Any], b: Sequence[Any], clusters: Sequence[int] = ()) -> pd.DataFrame:
    return pd.DataFrame({"a": a, "b": b}, index=clusters or range(len(a)))


def two_judges(n: int = 200) -> tuple[list[str], list[str]]:
    rng = np.random.default_rng(0)
    names = ["wins", "ties", "loses"]
    a = rng.choice(names, n, p=[0.5, 0.2, 0.3])
    b = np.where(rng.random(n) < 0.6, a, rng.choice(names, n))
    return a.tolist(), b.tolist()


def test_kappa_is_scikit_learns() -> None:
    a, b = two_judges()
    ours = agreement(verdicts(a, b), replicates=200)
    assert ours["kappa"].value == pytest.approx(cohen_kappa_score(a, b))
    assert ours["raw"].value == np.mean([x == y for x, y in zip(a, b, strict=True)])
    assert ours["kappa"].low < ours["kappa"].value < ours["kappa"].high


def test_missing_verdicts_are_counted() -> None:
    a = ["wins", None, "ties", "wins", "loses"]
    ours = agreement(verdicts(a, ["wins", "wins", "wins", None, "loses"]))
    assert (ours["n"], ours["n_missing"]) == (3, 2)
    assert ours["raw"].value == pytest.approx(2 / 3)


def test_clusters_widen_the_interval() -> None:
    a, b = two_judges(60)
    narrow = agreement(verdicts(a * 4, b * 4), replicates=300)["kappa"]
    wide = agreement(verdicts(a * 4, b * 4, [*range(60)] * 4), replicates=300)["kappa"]
    assert wide.high - wide.low > 1.5 * (narrow.high - narrow.low)


def test_judges_without_common_rows_and_two_in_one_file_are_refused() -> None:
    with pytest.raises(WRPOError, match="share 0 rows"):
        agreement(verdicts(["wins", None], [None, "wins"]))
    rows = pd.DataFrame(
        {"question_id": [1, 1], "turn": 1, "model": "m", "score": [5, 9], "judge": ["j", "k"]}
    )
    with pytest.raises(WRPOError, match="one file holds judgements of j, k"):
        judges_agree("mt-bench", rows, rows[:1])
