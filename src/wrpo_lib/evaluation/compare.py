"""Two models on the same questions, and two judges on the same answers.

Only what agrees in judge, version, template, metric and baseline is subtracted.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from wrpo_lib.analysis.agreement import Agreement, agreement
from wrpo_lib.analysis.statistics import Estimate, detectable, difference_interval
from wrpo_lib.evaluation import arena_hard, mt_bench
from wrpo_lib.evaluation.length_control import length_controlled_difference
from wrpo_lib.evaluation.summary import SAME, Summary

VERDICTS = {-1.0: "loses", 0.0: "ties", 1.0: "wins"}


@dataclass(frozen=True)
class Difference:
    """Two models on the same questions: ``difference`` of the first minus the second, or why not.

    ``detectable_difference``: what a test at 5 % would have found in 80 % of the runs.
    """

    model: str
    against: str
    n_shared_questions: int
    reason: str = ""
    difference: Estimate | None = None
    detectable_difference: float | None = None
    lc_difference: Estimate | None = None
    lc_detectable_difference: float | None = None


def differences(summaries: list[Summary]) -> list[Difference]:
    """Every summary against the first one."""
    return [_difference(other, summaries[0]) for other in summaries[1:]]


def _difference(a: Summary, b: Summary) -> Difference:
    shared = len(set(a.questions) & set(b.questions))
    for name in SAME:
        own, other = a.setting[name], b.setting[name]
        if own != other:
            reason = f"the {name} is {own or 'not named'}, not {other or 'named'}"
            return Difference(a.model, b.model, shared, reason)
    if shared < 2:
        return Difference(a.model, b.model, shared, f"they share {shared} questions")
    found, lc = difference_interval(a.rows, a.questions, b.rows, b.questions), None
    if a.controlled is not None and b.controlled is not None:
        lc = length_controlled_difference(a.controlled, b.controlled)
    least = detectable(found), detectable(lc) if lc else None
    return Difference(a.model, b.model, shared, "", found, least[0], lc, least[1])


def judges_agree(
    benchmark: str, a: pd.DataFrame, b: pd.DataFrame, replicates: int = 1000
) -> Agreement:
    """Agreement of two tables of judgements on what both judged, clustered by question.

    A verdict is who wins a comparison, both orders or games of it together (a tie where they
    balance); in MT-Bench it is the rounded score of a turn.
    """
    both = pd.concat({"a": _verdicts(benchmark, a), "b": _verdicts(benchmark, b)}, axis=1)
    questions = both.index.get_level_values("question_id").astype(str)
    return agreement(both["a"], both["b"], questions, replicates)


def _verdicts(benchmark: str, table: pd.DataFrame) -> pd.Series:
    """Verdicts by model and question, and turn where there is one; None where none was readable."""
    key = ["model", "question_id"]
    if benchmark == "mt-bench":
        means = mt_bench.scored(table).groupby([*key, "turn"])["score"].mean()
        return means.round().map(lambda score: f"{score:.0f}")
    if benchmark == "arena-hard":
        table, name, tie = arena_hard.battles(table), "won", 50.0
    else:
        name, tie = "preference", 1.5
    return np.sign(table.groupby(key)[name].mean() - tie).map(VERDICTS)
