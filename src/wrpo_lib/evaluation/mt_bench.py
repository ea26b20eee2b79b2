"""MT-Bench: single-answer scores of two turns, and the pairwise mode (both as FastChat's)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from wrpo_lib.analysis.statistics import Estimate, mean_interval
from wrpo_lib.errors import WRPOError

if TYPE_CHECKING:
    import pandas as pd

_DOUBLE = re.compile(r"\[\[(\d+\.?\d*)\]\]")
_SINGLE = re.compile(r"\[(\d+\.?\d*)\]")

CATEGORIES = ("writing", "roleplay", "reasoning", "math", "coding", "extraction", "stem",
              "humanities")  # fmt: skip
"""Categories in the order of the questions: ten each, 81 to 160."""

REFERENCED = ("math", "reasoning", "coding")
"""Categories that are judged beside a reference answer."""

TIE_DELTA = 0.1  # FastChat: scores this close tie


def parse_score(reply: str) -> float | None:
    """The first ``[[x]]``, else the first ``[x]``, else None (FastChat's rule)."""
    found = _DOUBLE.search(reply) or _SINGLE.search(reply)
    return float(found.group(1)) if found else None


def category(question_id: object) -> str | None:
    """Category of one of MT-Bench's 80 questions; None for any other question."""
    text = str(question_id)
    number = int(text) if text.isdecimal() else 0
    return CATEGORIES[(number - 81) // 10] if 81 <= number <= 160 else None


@dataclass(frozen=True)
class MTBench:
    """Mean scores over all rows, as upstream; intervals cluster both turns of a question.

    ``categories``: mean score with interval, in the order of the questions (the radar figure).
    ``n_duplicates`` rows repeat a (question, turn); they are kept, as upstream keeps them.
    ``n_without_reference`` rows of math, reasoning and coding were judged without a reference
    answer, where the rows say so; such scores are those of another protocol.
    """

    first_turn: float
    second_turn: float
    overall: float
    n_total: int
    n_missing: int
    n_duplicates: int
    n_questions: int
    n_without_reference: int
    interval: Estimate
    categories: dict[str, Estimate]


def _scored(judgements: pd.DataFrame) -> tuple[pd.DataFrame, pd.Series]:
    """All rows with a number or NaN in ``score``, and which are missing."""
    if judgements.empty:
        raise WRPOError("there are no judgements to summarise; judge the answers first")
    rows = judgements.copy()
    if "score" not in rows:
        rows["score"] = [parse_score(reply) for reply in rows["judgment"]]
    rows["score"] = rows["score"].astype(float)
    return rows, rows["score"].isna() | (rows["score"] < 0)


def summarise(judgements: pd.DataFrame) -> MTBench:
    """Scores of one model from rows with ``question_id``, ``turn`` and ``score`` or ``judgment``.

    A score of −1 (upstream's mark for an unreadable reply) or none counts as missing and is left
    out. ``category`` and ``with_reference`` are used where they are there.
    """
    rows, missing = _scored(judgements)
    if "category" not in rows:
        rows["category"] = [category(q) for q in rows["question_id"]]
    kept = rows[~missing]
    if len(kept) < 2:
        raise WRPOError(f"{len(kept)} of {len(rows)} judgements have a score; judge the rest first")
    bare = rows["with_reference"].eq(False) if "with_reference" in rows else np.zeros(len(rows))
    turns = kept.groupby("turn")["score"].mean()
    by_category = kept.groupby("category", sort=False)
    return MTBench(
        first_turn=float(turns.get(1, float("nan"))),
        second_turn=float(turns.get(2, float("nan"))),
        overall=float(kept["score"].mean()),
        n_total=len(kept),
        n_missing=int(missing.sum()),
        n_duplicates=int(rows.duplicated(["question_id", "turn"]).sum()),
        n_questions=kept["question_id"].nunique(),
        n_without_reference=int((rows["category"].isin(REFERENCED) & bare.astype(bool)).sum()),
        interval=_interval(kept),
        categories={
            str(name): _interval(part)
            for name, part in sorted(by_category, key=lambda item: _place(str(item[0])))
            if part["question_id"].nunique() > 1
        },
    )


def _interval(rows: pd.DataFrame) -> Estimate:
    return mean_interval(rows["score"].to_numpy(float), rows["question_id"].tolist())


def _place(name: str) -> tuple[int, str]:
    return (CATEGORIES.index(name) if name in CATEGORIES else len(CATEGORIES), name)


@dataclass(frozen=True)
class Pairwise:
    """One model against another; counts and shares named as FastChat names them.

    A comparison is won if both orders say so, otherwise it is a tie. ``win_rate_adjusted`` counts
    a tie as half a win; ``interval`` is of that, clustered by question. ``n_missing`` comparisons
    have no readable verdict in one of the orders and are left out.
    """

    win: int
    loss: int
    tie: int
    win_rate: float
    loss_rate: float
    win_rate_adjusted: float
    n_total: int
    n_missing: int
    n_questions: int
    interval: Estimate


def _pairwise(won: np.ndarray, questions: list[object], missing: int) -> Pairwise:
    if len(won) < 2:
        raise WRPOError(f"{len(won)} comparisons have a verdict; give the same questions of both")
    win, loss = int((won == 1).sum()), int((won == 0).sum())
    return Pairwise(
        win=win,
        loss=loss,
        tie=len(won) - win - loss,
        win_rate=win / len(won),
        loss_rate=loss / len(won),
        win_rate_adjusted=float(won.mean()),
        n_total=len(won),
        n_missing=missing,
        n_questions=len(set(questions)),
        interval=mean_interval(won, questions),
    )


def pairwise(judgements: pd.DataFrame, model: str) -> Pairwise:
    """Of ``model``, from rows with ``question_id``, two models and the winners of both games.

    Fields are FastChat's: ``model_1``, ``model_2``, ``g1_winner``, ``g2_winner``.
    Winners are ``model_1``, ``model_2``, ``tie`` or ``error`` (missing).
    """
    own = judgements[(judgements["model_1"] == model) | (judgements["model_2"] == model)]
    if own.empty:
        raise WRPOError(f"no pairwise judgement is of {model!r}; check the name")
    readable = ["model_1", "model_2", "tie"]
    known = own["g1_winner"].isin(readable) & own["g2_winner"].isin(readable)
    kept = own[known]
    side = np.where(kept["model_1"] == model, "model_1", "model_2")
    agreed = (kept["g1_winner"] == kept["g2_winner"]) & (kept["g1_winner"] != "tie")
    won = np.where(agreed, (kept["g1_winner"] == side).astype(float), 0.5)
    return _pairwise(won, kept["question_id"].tolist(), int((~known).sum()))


def compare(a: pd.DataFrame, b: pd.DataFrame) -> Pairwise:
    """Model ``a`` against ``b`` by their single-answer scores of the same (question, turn).

    Repeated rows are averaged first; scores within 0.1 of each other tie.
    """
    means = []
    for judgements in (a, b):
        rows, missing = _scored(judgements)
        means.append(rows[~missing].groupby(["question_id", "turn"])["score"].mean())
    both = means[0].to_frame("a").join(means[1].rename("b"), how="outer")
    kept = both.dropna()
    gap = (kept["a"] - kept["b"]).to_numpy()
    won = np.where(np.abs(gap) <= TIE_DELTA + 1e-9, 0.5, (gap > 0).astype(float))
    questions = kept.index.get_level_values("question_id").tolist()
    return _pairwise(won, questions, len(both) - len(kept))
