"""Two models on the same questions, and two judges on the same answers.

Only what agrees in judge, version, template, metric and baseline is subtracted.
"""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

from wrpo_lib.analysis.agreement import Agreement, agreement, verdicts
from wrpo_lib.analysis.statistics import Estimate, detectable, difference_interval
from wrpo_lib.evaluation.length_control import length_controlled_difference
from wrpo_lib.evaluation.mt_bench import agreed_winner
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


def differences(summaries: list[Summary]) -> list[Difference]:
    """Every summary against the first one."""
    return [_difference(other, summaries[0]) for other in summaries[1:]]


def _difference(a: Summary, b: Summary) -> Difference:
    shared = len(set(a.questions) & set(b.questions))
    reason = f"they share {shared} questions" if shared < 2 else ""
    for name in SAME:
        own, other = a.setting.get(name), b.setting.get(name)
        if own != other:
            reason = f"the {name} is {own or 'not named'}, not {other or 'named'}"
            break
    if reason:
        return Difference(a.model, b.model, None, None, shared, reason=reason)
    found, lc = difference_interval(a.rows, a.questions, b.rows, b.questions), None
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
    both = pd.concat({"a": _verdicts(benchmark, a), "b": _verdicts(benchmark, b)}, axis=1)
    first, second = ([v if isinstance(v, str) else None for v in both[n]] for n in ("a", "b"))
    questions = [str(q) for q in both.index.get_level_values("question_id")]
    return agreement(first, second, questions, replicates)


def _verdicts(benchmark: str, table: pd.DataFrame) -> pd.Series:
    """Verdicts by model and question, and turn where there is one; None where none was readable."""
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
        means = _points(table).groupby([*key, "turn"])["points"].mean()
        return pd.Series(verdicts(means, 0.0), index=means.index)
    scores = table.assign(score=table["score"].where(table["score"] >= 0))
    rounded = scores.groupby([*key, "turn"])["score"].mean().round()
    return pd.Series([None if r != r else str(int(r)) for r in rounded], index=rounded.index)


def _points(table: pd.DataFrame) -> pd.DataFrame:
    """1, 0 or -1 for the first model of each pair in alphabetical order."""
    points = agreed_winner(table).map({"model_1": 1.0, "model_2": -1.0, "tie": 0.0})
    pairs = list(zip(table["model_1"].astype(str), table["model_2"].astype(str), strict=True))
    signs = [-1 if first > second else 1 for first, second in pairs]
    names = [" and ".join(sorted(pair)) for pair in pairs]
    return table.assign(model=names, points=points * signs)
