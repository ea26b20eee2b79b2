"""What judgements of models say: scores, what is missing, effects, paired differences.

Judgements of one model by different judges, in different versions or under different templates are
never averaged or subtracted: each combination is a summary of its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from wrpo_lib.analysis.agreement import Agreement, agreement
from wrpo_lib.analysis.statistics import (
    Estimate,
    as_json,
    detectable,
    difference_interval,
    slope_interval,
)
from wrpo_lib.errors import WRPOError
from wrpo_lib.evaluation import alpaca_eval, arena_hard, mt_bench
from wrpo_lib.evaluation.length_control import (
    LengthControlled,
    length_controlled,
    length_controlled_difference,
)

EXPECTED = {"alpaca-eval": 805, "mt-bench": 160, "arena-hard": 1000}
"""Judgements of a whole run of the real benchmark (AlpacaEval-2: questions)."""

SAME = ("judge", "version", "template", "metric", "baseline")

NO_JUDGE = "the rows do not name their judge, so nothing may be put beside this number"
NO_LENGTHS = "some rows have no lengths, so there is no length-controlled win rate"
NO_SIDE = "no length-controlled win rate: run `wrpo assets fetch` or give --side df_gamed.csv"
OTHER_QUESTIONS = (
    "the questions are not AlpacaEval-2's; length control leaves difficulty and "
    "regularising rows out, and no number here compares with the leaderboard"
)


@dataclass(frozen=True)
class Summary:
    """One model under one judge.

    ``values`` hold numbers under upstream's names; ``rows`` (N,) and ``questions`` (N,) what
    differences are made of; ``notes`` are sentences about what is off.
    """

    model: str
    setting: dict[str, str]
    values: dict[str, Any]
    notes: list[str]
    rows: np.ndarray
    questions: list[str]
    controlled: LengthControlled | None = None

    def as_dict(self) -> dict[str, Any]:
        """For JSON: intervals as dictionaries."""
        return {"model": self.model, **self.setting, **as_json(self.values), "notes": self.notes}


def summarise(
    benchmark: str, judgements: pd.DataFrame, *, workers: int = 1, **length_control: Any
) -> list[Summary]:
    """A summary for each model and judge in ``judgements`` (of :func:`read_judgements`).

    ``workers``: processes; ``length_control``: ``side``, ``C``, ``compat``, ``replicates`` (200)
    and ``seed`` of :func:`wrpo_lib.evaluation.length_control.length_controlled`.
    """
    from joblib import Parallel, delayed

    table = _with_setting(benchmark, judgements)
    options = {"replicates": 200, "questions": sorted({str(q) for q in table["question_id"]})}
    groups = list(table.groupby(["model", *SAME], sort=False))
    many = benchmark == "alpaca-eval" and len(groups) > 4  # starting a process takes seconds
    found: list[Summary] = Parallel(n_jobs=workers if many else 1)(
        delayed(_summary)(benchmark, key, rows, options | length_control) for key, rows in groups
    )
    return found


def _with_setting(benchmark: str, table: pd.DataFrame) -> pd.DataFrame:
    """The columns of SAME such that equal ones may be averaged."""
    if benchmark == "alpaca-eval":
        return table
    if benchmark == "arena-hard":  # v0.1 has one baseline, which upstream's rows do not name
        unnamed = (table["baseline"] == "") & (table["version"] == "v0.1")
        return table.assign(baseline=table["baseline"].mask(unnamed, arena_hard.BASELINE))
    # templates differ by turn and reference; the version says which belong together
    templates = table.groupby(["model", "judge", "version"])["template"]
    joined = templates.transform(lambda names: ", ".join(sorted({n for n in names if n})))
    return table.assign(template=joined)


def _summary(
    benchmark: str, key: tuple[Any, ...], rows: pd.DataFrame, options: dict[str, Any]
) -> Summary:
    model, *names = map(str, key)
    setting = dict(zip(SAME, names, strict=True))
    make = {"alpaca-eval": _alpaca, "mt-bench": _mt_bench, "arena-hard": _arena}[benchmark]
    try:
        known, percent, values, controlled, notes = make(setting, rows, options)
    except WRPOError as error:
        raise WRPOError(f"{model}: {error}") from error
    values["detectable_difference"] = detectable(values["interval"])
    if benchmark != "mt-bench":
        once = ~known.index.duplicated()  # a strong verdict of Arena-Hard stands three times
        values |= _effects(known[once], percent[once])
    if n := values["n_missing"]:
        notes.append(f"without a readable verdict, left out: {n} judgements")
    if n := values["n_absent"]:
        notes.append(f"not in the file: {n} of {EXPECTED[benchmark]} judgements")
    if n := values["n_duplicates"]:
        notes.append(f"repeating another row's question, kept as upstream keeps them: {n} rows")
    if not setting["judge"]:
        notes.append(NO_JUDGE)
    questions = known["question_id"].astype(str).tolist()
    return Summary(model, setting, values, notes, percent, questions, controlled)


Part = tuple[pd.DataFrame, np.ndarray, dict[str, Any], LengthControlled | None, list[str]]
"""Rows that count, their values (N,), the numbers, length control, notes."""


def _alpaca(setting: dict[str, str], rows: pd.DataFrame, options: dict[str, Any]) -> Part:
    official = setting["version"] == "2"
    values = {**vars(alpaca_eval.win_rate(rows))}
    absent = EXPECTED["alpaca-eval"] - rows["question_id"].nunique()
    values["n_absent"] = absent if official else None
    known = rows[rows["preference"].notna()]
    percent = 100 * (known["preference"].to_numpy(float) - 1)
    notes = [] if official else [OTHER_QUESTIONS]
    if rows[["length_model", "length_baseline"]].isna().any(axis=None):
        return known, percent, values, None, [*notes, NO_LENGTHS]
    if not official:
        options = options | {"side": None}
    elif options.get("side") is None:
        return known, percent, values, None, [*notes, NO_SIDE]
    controlled = length_controlled(rows, **options)
    values |= {
        "length_controlled_winrate": controlled.length_controlled_winrate,
        "lc_standard_error": controlled.lc_standard_error,
        "lc_interval": controlled.interval,
        "lc_glm": controlled.glm,
        "lc_C": None if np.isnan(controlled.C) else controlled.C,
        "lc_joined_by": "position" if options.get("compat") else "instruction",
    }
    return known, percent, values, controlled, notes


def _mt_bench(setting: dict[str, str], rows: pd.DataFrame, options: dict[str, Any]) -> Part:
    known, values = mt_bench.scored(rows), {**vars(mt_bench.summarise(rows))}
    official = all(mt_bench.category(q) for q in rows["question_id"].unique())
    seen = len(rows.drop_duplicates(["question_id", "turn"]))
    values["n_absent"] = EXPECTED["mt-bench"] - seen if official else None
    return known, known["score"].to_numpy(float), values, None, []


def _arena(setting: dict[str, str], rows: pd.DataFrame, options: dict[str, Any]) -> Part:
    known, values = arena_hard.battles(rows), {**vars(arena_hard.summarise(rows))}
    seen = len(rows.drop_duplicates(["question_id", "game"]))
    values["n_duplicates"], notes = len(rows) - seen, []
    if setting["metric"] == "battles":  # one row per unit of weight, unreadable games left out
        seen, values["n_duplicates"] = 2 * rows["question_id"].nunique(), 0
        notes = ["battles leave unreadable games out, so these cannot be counted"]
    official = setting["version"] == "v0.1"
    values["n_absent"] = EXPECTED["arena-hard"] - seen if official else None
    # in game 1 the baseline is A
    known = known.assign(order=known["game"].map({1: "baseline first", 2: "model first"}))
    return known, known["won"].to_numpy(float), values, None, notes


def _effects(rows: pd.DataFrame, percent: np.ndarray) -> dict[str, Estimate | None]:
    """Points of win rate, shown second minus first, and per standard deviation of the length."""
    second = rows["order"].map({"baseline first": 1.0, "model first": 0.0})
    longer = rows["length_model"] - rows["length_baseline"]
    effects: dict[str, Estimate | None] = {}
    for name, x in (("position", second), ("length", longer / longer.std(ddof=0))):
        known = x.notna().to_numpy()
        varies = known.sum() > 2 and x.nunique() > 1
        effects[f"{name}_effect"] = (
            slope_interval(percent[known], x[known], rows["question_id"][known]) if varies else None
        )
    return effects


# --- two models, two judges ---------------------------------------------------------------------

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
