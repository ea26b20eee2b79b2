"""Two models on the same questions, and two judges on the same answers.

Only what agrees in judge, version, template, metric and baseline is subtracted.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import pandas as pd

from wrpo_lib.analysis.agreement import Agreement, agreement, verdicts
from wrpo_lib.analysis.statistics import Estimate, detectable, difference_interval
from wrpo_lib.evaluation.length_control import length_controlled_difference
from wrpo_lib.evaluation.summary import SAME, Summary


@dataclass(frozen=True)
class Difference:
    """Two models on the same questions: ``difference`` of the first minus the second, or why not.

    ``detectable_difference``: what a test at 5 % would have found in 80 % of the runs.
    """

    model: str
    against: str
    difference: Estimate | None
    detectable_difference: float | None
    n_shared_questions: int
    lc_difference: Estimate | None = None
    lc_detectable_difference: float | None = None
    reason: str = ""

    def as_dict(self) -> dict[str, Any]:
        """All fields by name."""
        return asdict(self)


def disagreement(a: dict[str, str], b: dict[str, str]) -> str:
    """Why two settings may not be compared: the first of SAME that differs; empty if none does."""
    for name in SAME:
        if a.get(name, "") != b.get(name, ""):
            return f"the {name} is {a.get(name) or 'not named'}, not {b.get(name) or 'named'}"
    return "" if a.get("judge") else "the judge is not named"


def differences(summaries: list[Summary]) -> list[Difference]:
    """Every summary against the first one."""
    return [_difference(other, summaries[0]) for other in summaries[1:]]


def _difference(a: Summary, b: Summary) -> Difference:
    shared = len(set(a.questions) & set(b.questions))
    reason = disagreement(a.setting, b.setting)
    if reason == "the judge is not named":
        reason = ""  # two files of one origin may be compared with each other
    if not reason and shared < 2:
        reason = f"they share {shared} questions"
    if reason:
        return Difference(a.model, b.model, None, None, shared, reason=reason)
    found = difference_interval(a.rows, a.questions, b.rows, b.questions)
    lc = None
    if a.controlled is not None and b.controlled is not None:
        lc = length_controlled_difference(a.controlled, b.controlled)
    return Difference(
        a.model, b.model, found, detectable(found), shared, lc, detectable(lc) if lc else None
    )


def judges_agree(
    benchmark: str, a: pd.DataFrame, b: pd.DataFrame, replicates: int = 1000
) -> Agreement:
    """Agreement of two tables of judgements on what both judged, clustered by question.

    A verdict is who wins a comparison, all orders, games and votes of it together (a tie where they
    balance); in MT-Bench's single-answer mode it is the rounded score of a turn. Comparisons are
    matched whichever model a file names first.
    """
    sides = [_verdicts(benchmark, table) for table in (a, b)]
    both = sides[0].to_frame("a").join(sides[1].rename("b"), how="outer")
    first, second = ([v if isinstance(v, str) else None for v in both[n]] for n in ("a", "b"))
    questions = [str(q) for q in both.index.get_level_values("question_id")]
    return agreement(first, second, questions, replicates)


def _verdicts(benchmark: str, table: pd.DataFrame) -> pd.Series:
    key = ["model", "question_id"]
    if benchmark == "alpaca-eval":
        means = table.groupby(key)["preference"].mean()
        return pd.Series(verdicts(means), index=means.index)
    if benchmark == "arena-hard":
        table = table.assign(total=table["won"] * table["weight"])
        sums = table.groupby(key)[["total", "weight"]].sum()
        means = sums["total"] / sums["weight"].where(sums["weight"] > 0)
        return pd.Series(verdicts(means, 0.5), index=means.index)
    if "g1_winner" in table:
        return _majority(table)
    means = table["score"].where(table["score"] >= 0).groupby([table[k] for k in [*key, "turn"]])
    rounded = means.mean().round()
    return pd.Series([None if r != r else str(int(r)) for r in rounded], index=rounded.index)


def _majority(table: pd.DataFrame) -> pd.Series:
    """Verdict for the first model of each pair in alphabetical order, by question and turn."""
    readable = ["model_1", "model_2", "tie"]
    known = table["g1_winner"].isin(readable) & table["g2_winner"].isin(readable)
    agreed = table["g1_winner"].where(table["g1_winner"] == table["g2_winner"], "tie")
    points = agreed.map({"model_1": 1.0, "model_2": -1.0, "tie": 0.0}).where(known)
    swapped = table["model_1"].astype(str) > table["model_2"].astype(str)
    pairs = [" and ".join(sorted(map(str, p))) for p in zip(table["model_1"], table["model_2"],
                                                            strict=True)]  # fmt: skip
    rows = table.assign(model=pairs, points=points.where(~swapped, -points))
    means = rows.groupby(["model", "question_id", "turn"])["points"].mean()
    return pd.Series(verdicts(means, 0.0), index=means.index)
