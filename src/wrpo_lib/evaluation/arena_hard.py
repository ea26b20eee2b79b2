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


def score_battles(
    won: np.ndarray, weight: np.ndarray, questions: list[str], missing: int
) -> ArenaHard:
    """Score of weighted battles: ``won`` in {0, ½, 1}, ``weight`` whole numbers, (N,) each.

    With a single baseline the Bradley–Terry win rate equals this weighted mean.
    """
    if len(won) == 0:
        raise WRPOError("there are no readable verdicts to score; judge the answers first")
    rows = np.repeat(100 * won, weight)
    labels = np.repeat(np.asarray(questions), weight)
    return ArenaHard(
        score=float(rows.mean()),
        n_battles=len(rows),
        n_ties=int((rows == 50).sum()),
        n_questions=len(set(questions)),
        n_missing=missing,
        interval=mean_interval(rows, labels.tolist()),
        interval_rows=row_bootstrap(rows),
    )


def row_bootstrap(rows: np.ndarray, level: float = 0.95, seed: int = 0) -> Estimate:
    """Upstream's interval of a mean: resampled rows, clusters ignored; ``rows`` (N,)."""
    values, counts = np.unique(rows, return_counts=True)
    rng = np.random.default_rng(seed)
    drawn = rng.multinomial(len(rows), counts / len(rows), REPLICATES) @ values / len(rows)
    low, high = np.quantile(drawn, [0.5 - level / 2, 0.5 + level / 2])
    how = f"row bootstrap, {REPLICATES} replicates, seed {seed}"
    return Estimate(float(rows.mean()), float(low), float(high), len(rows), len(rows), how)


def battles(judgements: pd.DataFrame) -> pd.DataFrame:
    """``won`` (0, ½ or 1 for the model, NaN if unreadable) and ``weight`` beside each game.

    Rows have ``game`` and ``verdict``: in game 1 the baseline is A, in game 2 the model is.
    """
    known = judgements["verdict"].isin(list(FOR_A)).to_numpy()
    pairs = [FOR_A.get(v, (np.nan, 0)) if k else (np.nan, 0)
             for v, k in zip(judgements["verdict"], known, strict=True)]  # fmt: skip
    for_a = np.array([p[0] for p in pairs], dtype=float)
    won = np.where(judgements["game"] == 1, 1 - for_a, for_a)
    return judgements.assign(won=won, weight=np.array([p[1] for p in pairs], dtype=int))


def summarise(judgements: pd.DataFrame, whole_questions: bool = False) -> ArenaHard:
    """Score of one model from rows with ``question_id`` and, a game a row, ``game``, ``verdict``.

    Unreadable verdicts are counted and left out. With ``whole_questions`` the other game of such a
    question is left out and counted too: v2.0's rule, where v0.1 keeps it. Rows that already have
    ``won`` and ``weight`` (:func:`battles`, :func:`from_battles`) are taken as they are.
    """
    rows = judgements if "won" in judgements else battles(judgements)
    unreadable = rows["won"].isna()
    if whole_questions:
        unreadable = unreadable | rows["question_id"].isin(rows.loc[unreadable, "question_id"])
    kept = rows[~unreadable]
    return score_battles(
        kept["won"].to_numpy(float),
        kept["weight"].to_numpy(int),
        kept["question_id"].tolist(),
        int(unreadable.sum()),
    )


def by_category(judgements: pd.DataFrame, whole_questions: bool = False) -> dict[str, ArenaHard]:
    """:func:`summarise` for each ``category``: what v2.0 reports."""
    return {
        str(name): summarise(part, whole_questions)
        for name, part in judgements.groupby("category", sort=True)
    }


def from_battles(rows: pd.DataFrame, model: str) -> pd.DataFrame:
    """Upstream's battle rows (``model_a``, ``model_b``, ``winner``) of ``model`` in our form.

    Upstream repeats a row per weight, so each counts once here.
    """
    mine = rows[(rows["model_a"] == model) | (rows["model_b"] == model)]
    if mine.empty:
        raise WRPOError(f"no battle is of {model!r}; check the name")
    winner = mine["winner"].astype(str)
    tie = winner.str.startswith("tie")
    readable = tie | winner.isin(["model_a", "model_b"])
    is_a = mine["model_a"] == model
    won = np.where(tie, 0.5, ((winner == "model_a") == is_a).astype(float))
    return mine.assign(won=np.where(readable, won, np.nan), weight=1)


def summarise_battles(rows: pd.DataFrame, model: str) -> ArenaHard:
    """Score of ``model`` from upstream's battle rows."""
    return summarise(from_battles(rows, model))
