"""MT-Bench: single-answer scores of two turns."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from wrpo_lib.analysis.statistics import Estimate, mean_interval
from wrpo_lib.errors import WRPOError

if TYPE_CHECKING:
    import pandas as pd

_DOUBLE = re.compile(r"\[\[(\d+\.?\d*)\]\]")
_SINGLE = re.compile(r"\[(\d+\.?\d*)\]")


def parse_score(reply: str) -> float | None:
    """The first ``[[x]]``, else the first ``[x]``, else None (FastChat's rule)."""
    found = _DOUBLE.search(reply) or _SINGLE.search(reply)
    return float(found.group(1)) if found else None


@dataclass(frozen=True)
class MTBench:
    """Mean scores over all rows; the interval clusters both turns of a question."""

    first_turn: float
    second_turn: float
    overall: float
    n_total: int
    n_missing: int
    n_duplicates: int
    interval: Estimate


def summarise(judgements: pd.DataFrame) -> MTBench:
    """Scores of one model from rows with ``question_id``, ``turn`` and ``score`` or ``judgment``.

    A score of −1 (upstream's mark for an unreadable reply) or none counts as missing and is left
    out; repeated (question, turn) rows are kept, as upstream does, and counted.
    """
    if judgements.empty:
        raise WRPOError("there are no judgements to summarise; judge the answers first")
    rows = judgements.copy()
    if "score" not in rows:
        rows["score"] = [parse_score(reply) for reply in rows["judgment"]]
    rows["score"] = rows["score"].astype(float)
    missing = rows["score"].isna() | (rows["score"] < 0)
    kept = rows[~missing]
    turns = kept.groupby("turn")["score"].mean()
    return MTBench(
        first_turn=float(turns.get(1, float("nan"))),
        second_turn=float(turns.get(2, float("nan"))),
        overall=float(kept["score"].mean()),
        n_total=len(kept),
        n_missing=int(missing.sum()),
        n_duplicates=int(rows.duplicated(["question_id", "turn"]).sum()),
        interval=mean_interval(kept["score"].tolist(), kept["question_id"].tolist()),
    )
