"""What judgements of models say: scores, what is missing, effects, paired differences.

Judgements of one model by different judges, in different versions or under different templates are
never averaged or subtracted: each combination is a summary of its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from wrpo_lib.analysis import statistics
from wrpo_lib.analysis.agreement import Agreement, agreement
from wrpo_lib.analysis.statistics import Estimate, detectable, slope_interval
from wrpo_lib.errors import WRPOError
from wrpo_lib.evaluation import alpaca_eval, arena_hard, length_control, mt_bench
from wrpo_lib.evaluation.length_control import LengthControlled

EXPECTED = {"alpaca-eval": 805, "mt-bench": 160, "arena-hard": 1000}
"""Judgements of a whole run of the real benchmark (AlpacaEval-2: questions)."""

SAME = ("judge", "version", "template", "metric", "baseline")
VERDICTS = {-1.0: "loses", 0.0: "ties", 1.0: "wins"}
GAME = ["question_id", "game"]
COUNTED = {
    "n_missing": "without a readable verdict, left out",
    "n_absent": "not in the file",
    "n_duplicates": "repeating another row's question, kept as upstream keeps them",
}

NO_JUDGE = "the rows do not name their judge, so nothing may be put beside this number"
NO_LENGTHS = "some rows have no lengths, so there is no length-controlled win rate"
NO_SIDE = "no length-controlled win rate: run `wrpo assets fetch` or give --side df_gamed.csv"
OTHER_QUESTIONS = (
    "the questions are not AlpacaEval-2's; length control leaves difficulty and "
    "regularising rows out, and no number here compares with the leaderboard"
)


@dataclass(frozen=True)
class Summary:
    """One model under one judge: ``values`` by upstream's names, ``notes`` about what is off.

    ``rows`` (N,) and ``questions`` (N,) are what differences are made of.
    """

    model: str
    setting: dict[str, str]
    values: dict[str, Any]
    notes: list[str]
    rows: np.ndarray
    questions: list[str]
    controlled: LengthControlled | None = None


def summarise(benchmark: str, judgements: pd.DataFrame, **options: Any) -> list[Summary]:
    """A summary for each model and judge in ``judgements`` (of :func:`read_judgements`).

    ``options`` of :func:`wrpo_lib.evaluation.length_control.length_controlled`: ``side``, ``C``,
    ``compat``, ``replicates`` (here 200) and ``seed``.
    """
    table = judgements
    if benchmark == "arena-hard":  # v0.1 has one baseline, which upstream's rows do not name
        unnamed = (table["baseline"] == "") & (table["version"] == "v0.1")
        table = table.assign(baseline=table["baseline"].mask(unnamed, arena_hard.BASELINE))
    elif benchmark == "mt-bench":  # templates differ by turn and reference, the version names all
        templates = table.groupby(["model", "judge", "version"])["template"]
        joined = templates.transform(lambda names: ", ".join(sorted({n for n in names if n})))
        table = table.assign(template=joined)
    questions = sorted({str(q) for q in table["question_id"]})
    options = {"replicates": 200, "questions": questions, **options}
    found = []
    for names, rows in table.groupby(["model", *SAME], sort=False):
        try:
            found.append(_summary(benchmark, names, rows, options))
        except WRPOError as error:
            raise WRPOError(f"{names[0]}: {error}") from error
    return found


def _summary(
    benchmark: str, names: tuple[str, ...], rows: pd.DataFrame, options: dict[str, Any]
) -> Summary:
    setting = dict(zip(SAME, names[1:], strict=True))
    controlled, notes = None, [] if setting["judge"] else [NO_JUDGE]
    if benchmark == "alpaca-eval":
        known, values = alpaca_eval.checked(rows), {**vars(alpaca_eval.win_rate(rows))}
        percent = 100 * (known["preference"].to_numpy(float) - 1)
        official, seen = setting["version"] == "2", rows["question_id"].nunique()
        controlled = _length_control(rows, official, options, values, notes)
    elif benchmark == "mt-bench":
        known, values = mt_bench.scored(rows), {**vars(mt_bench.summarise(rows))}
        percent = known["score"].to_numpy(float)
        official = all(mt_bench.category(q) for q in rows["question_id"].unique())
        seen = len(rows.drop_duplicates(["question_id", "turn"]))
    else:
        known, values = arena_hard.battles(rows), {**vars(arena_hard.summarise(rows))}
        percent = known["won"].to_numpy(float)
        official, seen = setting["version"] == "v0.1", len(rows.drop_duplicates(GAME))
        values["n_duplicates"] = len(rows) - seen
        if setting["metric"] == "battles":  # a row for each unit of weight, no unreadable games
            seen, values["n_duplicates"] = 2 * rows["question_id"].nunique(), 0
    values["n_absent"] = EXPECTED[benchmark] - seen if official else None
    values["detectable_difference"] = detectable(values["interval"])
    values |= _effects(known, percent)
    notes += [f"{what}: {values[n]} judgements" for n, what in COUNTED.items() if values[n]]
    questions = known["question_id"].astype(str).tolist()
    return Summary(names[0], setting, values, notes, percent, questions, controlled)


def _length_control(
    rows: pd.DataFrame,
    official: bool,
    options: dict[str, Any],
    values: dict[str, Any],
    notes: list[str],
) -> LengthControlled | None:
    """LC into ``values``, or why there is none into ``notes``."""
    if not official:
        notes.append(OTHER_QUESTIONS)
        options = options | {"side": None}
    if rows[["length_model", "length_baseline"]].isna().any(axis=None):
        notes.append(NO_LENGTHS)
        return None
    if official and options.get("side") is None:
        notes.append(NO_SIDE)
        return None
    found = length_control.length_controlled(rows, **options)
    values |= {
        "length_controlled_winrate": found.length_controlled_winrate,
        "lc_standard_error": found.lc_standard_error,
        "lc_interval": found.interval,
        "lc_glm": found.glm,
        "lc_C": None if np.isnan(found.C) else found.C,
        "lc_joined_by": "position" if options.get("compat") else "instruction",
    }
    return found


def _effects(rows: pd.DataFrame, percent: np.ndarray) -> dict[str, Estimate | None]:
    """Points of win rate, shown second minus first, and per standard deviation of the length."""
    if "length_model" not in rows:  # MT-Bench
        return {}
    once = ~rows.index.duplicated()  # a strong verdict of Arena-Hard stands three times
    rows, percent = rows[once], percent[once]
    # Arena-Hard's first game and this order are the same
    second = rows["order"] == "baseline first" if "order" in rows else rows["game"] == 1
    second = second.astype(float)
    longer = rows["length_model"] - rows["length_baseline"]
    effects: dict[str, Estimate | None] = {}
    for name, x in (("position", second), ("length", longer / longer.std(ddof=0))):
        known = x.notna().to_numpy()
        varies = known.sum() > 2 and x.nunique() > 1
        effects[f"{name}_effect"] = (
            slope_interval(percent[known], x[known], rows["question_id"][known]) if varies else None
        )
    return effects


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
    found, lc = statistics.difference_interval(a.rows, a.questions, b.rows, b.questions), None
    if a.controlled is not None and b.controlled is not None:
        lc = length_control.length_controlled_difference(a.controlled, b.controlled)
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
