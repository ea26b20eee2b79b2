"""Arena-Hard v0.1 and v2.0: two games a question against a baseline, five verdicts.

v0.1 has 500 questions and one baseline. v2.0 has 750 in two categories, each with a baseline of
its own, and is reported by category: an overall score would mix two opponents.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from wrpo_lib.analysis.statistics import Estimate, mean_interval
from wrpo_lib.errors import WRPOError

if TYPE_CHECKING:
    import pandas as pd

STRONG = 3  # a strong verdict counts as three battles
FOR_A = {
    "A>>B": (1.0, STRONG),
    "A>B": (1.0, 1),
    "A=B": (0.5, 1),
    "B>A": (0.0, 1),
    "B>>A": (0.0, STRONG),
}
"""Verdict -> what A won of a battle, and how many battles it stands for."""

BASELINES = {
    "arena-hard-v0.1": "gpt-4-0314",
    "hard_prompt": "o3-mini-2025-01-31",
    "creative_writing": "gemini-2.0-flash-001",
}
"""Category -> baseline (upstream's JUDGE_SETTINGS); v0.1 is one category."""

REPLICATES = 10_000


@dataclass(frozen=True)
class ArenaHard:
    """``score``: percent of weighted battles won, ties half.

    ``interval_rows`` resamples weighted battles as if each were independent, as upstream does
    (there 100 times; v0.1 prints 95 %, v2.0 prints 90 % of it), and is too narrow; ``interval``
    clusters by question. ``n_ties`` counts weighted battles, ``n_missing`` games without a readable
    verdict, which are left out.
    """

    score: float
    n_battles: int
    n_ties: int
    n_questions: int
    n_missing: int
    interval: Estimate
    interval_rows: Estimate


def battles(judgements: pd.DataFrame) -> pd.DataFrame:
    """``won`` (0, ½ or 1 for the model, NaN if unreadable) and ``weight`` beside each game.

    Rows have ``game`` and ``verdict``: in game 1 the baseline is A, in game 2 the model is.
    """
    found = [FOR_A.get(v, (np.nan, 0)) for v in judgements["verdict"]]
    for_a = np.array([won for won, _ in found], dtype=float)
    won = np.where(judgements["game"] == 1, 1 - for_a, for_a)
    return judgements.assign(won=won, weight=np.array([w for _, w in found], dtype=int))


def summarise(judgements: pd.DataFrame, whole_questions: bool = False) -> ArenaHard:
    """Score of one model from rows, one per game, with ``question_id``, ``game`` and ``verdict``.

    With a single baseline the Bradley–Terry win rate equals this weighted mean. Unreadable verdicts
    are counted and left out. With ``whole_questions`` the other game of such a question is left out
    and counted too: v2.0's rule, where v0.1 keeps it. Rows that already have ``won`` and ``weight``
    (:func:`battles`) are taken as they are.
    """
    rows = judgements if "won" in judgements else battles(judgements)
    unreadable = rows["won"].isna()
    if whole_questions:
        unreadable |= rows["question_id"].isin(rows.loc[unreadable, "question_id"])
    known = rows[~unreadable]
    if known.empty:
        raise WRPOError("there are no readable verdicts to score; judge the answers first")
    known = known.iloc[np.repeat(np.arange(len(known)), known["weight"])]
    percent = 100 * known["won"].to_numpy(float)
    return ArenaHard(
        score=float(percent.mean()),
        n_battles=len(percent),
        n_ties=int((percent == 50).sum()),
        n_questions=known["question_id"].nunique(),
        n_missing=int(unreadable.sum()),
        interval=mean_interval(percent, known["question_id"]),
        interval_rows=_row_bootstrap(percent),
    )


def _row_bootstrap(rows: np.ndarray) -> Estimate:
    """Upstream's interval of a mean: resampled rows, clusters ignored; ``rows`` (N,)."""
    values, counts = np.unique(rows, return_counts=True)
    n, rng = len(rows), np.random.default_rng(0)
    drawn = rng.multinomial(n, counts / n, REPLICATES) @ values / n
    low, high = np.quantile(drawn, [0.025, 0.975])
    how = f"row bootstrap, {REPLICATES} replicates, seed 0"
    return Estimate(float(rows.mean()), float(low), float(high), n, n, how)


def by_category(judgements: pd.DataFrame, whole_questions: bool = False) -> dict[str, ArenaHard]:
    """:func:`summarise` for each ``category``: what v2.0 reports."""
    return {
        str(name): summarise(part, whole_questions)
        for name, part in judgements.groupby("category", sort=True)
    }
