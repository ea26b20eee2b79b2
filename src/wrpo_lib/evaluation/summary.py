"""Everything that judgements of a model say: scores, what is missing, position and length effects.

Judgements of one model by different judges, in different versions or under different templates are
never averaged: each combination is a summary of its own.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from wrpo_lib.analysis.statistics import Estimate, as_json, detectable, slope_interval
from wrpo_lib.errors import WRPOError
from wrpo_lib.evaluation import alpaca_eval, arena_hard, mt_bench
from wrpo_lib.evaluation.judgements import NAMES
from wrpo_lib.evaluation.length_control import LengthControlled, length_controlled
from wrpo_lib.evaluation.style import of_battles, style_controlled

EXPECTED = {
    ("alpaca-eval", "2"): 805,
    ("arena-hard", "v0.1"): 2 * 500,
    ("arena-hard", "v2.0"): 2 * 750,
}
"""Judgements of a whole run where each is made once (AlpacaEval-2: questions)."""

SAME = ("judge", "version", "template", "metric", "baseline")
LEAST = 10  # a category of fewer questions gets no interval
IDENTICAL = "identical outputs"  # the metric of a pair that needed no judge

NO_JUDGE = "the rows do not name their judge, so nothing may be put beside this number"
NO_LENGTHS = "some rows have no lengths, so there is no length-controlled win rate"
NO_SIDE = "there is no length-controlled win rate without the side file df_gamed.csv"
OTHER_QUESTIONS = (
    "the questions are not AlpacaEval-2's; length control leaves difficulty and "
    "regularising rows out, and no number here compares with the leaderboard"
)
BY_POSITION = "length control joins by row position though rows are missing, as upstream"


@dataclass(frozen=True)
class Options:
    """How to summarise.

    ``side``, ``C``, ``compat``: as in length control. ``replicates`` of the bootstraps (0 leaves
    them out), ``seed`` of the resampling, ``workers``: processes. ``style``: counts of Arena-Hard
    answers (:func:`wrpo_lib.evaluation.style.read_counts`), which add the score at equal style.
    """

    side: pd.DataFrame | None = None
    C: float | None = None
    compat: bool = False
    replicates: int = 200
    seed: int = 0
    workers: int = 1
    style: dict[tuple[str, str], list[float]] | None = None


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
    benchmark: str, judgements: pd.DataFrame, options: Options | None = None
) -> list[Summary]:
    """A summary for each model and judge in ``judgements`` (of :func:`read_judgements`)."""
    from joblib import Parallel, delayed

    if benchmark not in NAMES:
        raise WRPOError(f"unknown benchmark {benchmark!r}; choose one of {', '.join(NAMES)}")
    options = options or Options()
    table = _with_setting(benchmark, judgements)
    universe = sorted({str(q) for q in table["question_id"]})
    groups = list(table.groupby(["model", *SAME], sort=False))
    many = benchmark == "alpaca-eval" and len(groups) > 4  # starting a process takes seconds
    found: list[Summary] = Parallel(n_jobs=options.workers if many else 1)(
        delayed(_summary)(benchmark, key, rows, options, universe) for key, rows in groups
    )
    return found


def _with_setting(benchmark: str, table: pd.DataFrame) -> pd.DataFrame:
    """The columns of SAME such that equal ones may be averaged."""
    if benchmark == "alpaca-eval":
        measured = table["metric"].where(table["metric"] != IDENTICAL)
        filled = measured.groupby([table["model"], table["judge"]]).transform("first")
        return table.assign(metric=measured.fillna(filled).fillna(IDENTICAL))
    # templates differ by turn, reference and category; the version says which belong together
    names = ["template", "baseline"] if benchmark == "arena-hard" else ["template"]
    by_version = table.groupby(["model", "judge", "version"])
    return table.assign(**{name: by_version[name].transform(_joined) for name in names})


def _joined(names: pd.Series) -> str:
    return ", ".join(sorted({str(n) for n in names if n}))


def _summary(
    benchmark: str, key: tuple[Any, ...], rows: pd.DataFrame, options: Options, universe: list[str]
) -> Summary:
    model, *names = map(str, key)
    setting = dict(zip(SAME, names, strict=True))
    try:
        if benchmark == "alpaca-eval":
            summary = _alpaca(model, setting, rows, options, universe)
        elif benchmark == "arena-hard":
            summary = _arena(model, setting, rows, options)
        else:
            summary = _mt_bench(model, setting, rows)
    except WRPOError as error:
        raise WRPOError(f"{model}: {error}") from error
    return replace(summary, notes=_notes(setting, summary.values) + summary.notes)


def _notes(setting: dict[str, str], values: dict[str, Any]) -> list[str]:
    """One sentence for each thing that makes the numbers less than they seem."""
    notes = [] if setting["judge"] else [NO_JUDGE]
    if n := values["n_missing"]:
        notes.append(f"without a readable verdict, left out: {n} judgements")
    if n := values.get("n_absent"):
        notes.append(f"not in the file: {n} of {values['n_expected']} judgements")
    if n := values.get("n_duplicates"):
        notes.append(f"repeating another row's question, kept as upstream keeps them: {n} rows")
    return notes


def _alpaca(
    model: str, setting: dict[str, str], rows: pd.DataFrame, options: Options, universe: list[str]
) -> Summary:
    won = alpaca_eval.win_rate(rows)
    known = rows[rows["preference"].notna()]
    percent = 100 * (known["preference"].to_numpy(float) - 1)
    expected = EXPECTED.get(("alpaca-eval", setting["version"]))
    values = vars(won) | {
        "n_expected": expected,
        "n_absent": max(0, expected - rows["question_id"].nunique()) if expected else None,
        "detectable_difference": detectable(won.interval),
    }
    shown_second = known["order"].map({"baseline first": 1.0, "model first": 0.0})
    values |= _effects(known, percent, shown_second)
    controlled, notes = _length_control(rows, setting["version"] == "2", options, universe)
    if controlled is not None:
        values |= {
            "length_controlled_winrate": controlled.length_controlled_winrate,
            "lc_standard_error": controlled.lc_standard_error,
            "lc_interval": controlled.interval,
            "lc_glm": controlled.glm,
            "lc_C": None if np.isnan(controlled.C) else controlled.C,
            "lc_joined_by": "position" if options.compat else "instruction",
        }
    questions = known["question_id"].astype(str).tolist()
    return Summary(model, setting, values, notes, percent, questions, controlled)


def _length_control(
    rows: pd.DataFrame, official: bool, options: Options, universe: list[str]
) -> tuple[LengthControlled | None, list[str]]:
    """LC and what is to be said of it; None where it cannot be computed."""
    if rows[["length_model", "length_baseline"]].isna().any(axis=None):
        return None, [NO_LENGTHS]
    if official and options.side is None:
        return None, [NO_SIDE]
    notes = [] if official else [OTHER_QUESTIONS]
    if options.compat and rows["question_id"].nunique() != EXPECTED["alpaca-eval", "2"]:
        notes.append(BY_POSITION)
    controlled = length_controlled(
        rows,
        options.side if official else None,
        C=options.C,
        compat=options.compat and official,
        replicates=options.replicates,
        seed=options.seed,
        questions=universe,
    )
    return controlled, notes


def _mt_bench(model: str, setting: dict[str, str], rows: pd.DataFrame) -> Summary:
    if "g1_winner" in rows:
        compared = mt_bench.pairwise(rows, model)
        values = vars(compared) | {"detectable_difference": detectable(compared.interval)}
        return Summary(model, setting, values, [], np.empty(0), [])
    scores = mt_bench.summarise(rows)
    known = rows[rows["score"] >= 0]
    official = all(mt_bench.category(q) for q in rows["question_id"].unique())
    seen = len(rows.drop_duplicates(["question_id", "turn"]))
    values = vars(scores) | {
        "n_expected": 160 if official else None,
        "n_absent": 160 - seen if official else None,
        "detectable_difference": detectable(scores.interval),
    }
    notes = []
    if n := scores.n_without_reference:
        notes.append(
            f"{n} answers in math, reasoning and coding were judged without a reference answer"
        )
    questions = known["question_id"].astype(str).tolist()
    return Summary(model, setting, values, notes, known["score"].to_numpy(float), questions)


def _arena(model: str, setting: dict[str, str], rows: pd.DataFrame, options: Options) -> Summary:
    whole = setting["version"] == "v2.0"  # upstream drops a question with one unreadable game
    total = arena_hard.summarise(rows, whole)
    known = rows[rows["won"].notna()]
    percent = 100 * known["won"].to_numpy(float)
    shown_second = known["game"].map({1: 1.0, 2: 0.0})  # in game 1 the baseline is A
    values = vars(total) | _games(setting, rows)
    values["detectable_difference"] = detectable(total.interval)
    values |= _effects(known, percent, shown_second)
    notes = []
    if options.style is not None:
        values["style_controlled"] = {
            str(baseline): vars(
                style_controlled(part, of_battles(part, options.style), options.replicates)
            )
            for baseline, part in rows.groupby("baseline")
        }
    if setting["metric"] == "battles":
        notes.append("battles leave unreadable games out, so these cannot be counted")
    if rows["category"].nunique() > 1:
        values["categories"] = _categories(arena_hard.by_category(rows, whole))
    if ", " in setting["baseline"]:
        without = ("score", "interval", "interval_rows", "detectable_difference")
        values |= dict.fromkeys(without)
        notes.append("the categories have different baselines, so there is no overall score")
    repeats = known["weight"].to_numpy(int)
    questions = np.repeat(known["question_id"].astype(str), repeats).tolist()
    return Summary(model, setting, values, notes, np.repeat(percent, repeats), questions)


def _games(setting: dict[str, str], rows: pd.DataFrame) -> dict[str, int | None]:
    """How many games there should be, how many are not there, and how many are repeated."""
    games = len(rows.drop_duplicates(["question_id", "game"]))
    repeated = len(rows) - games
    if setting["metric"] == "battles":  # one row per unit of weight, unreadable games left out
        games, repeated = 2 * rows["question_id"].nunique(), 0
    expected = EXPECTED.get(("arena-hard", setting["version"]))
    absent = expected - games if expected else None
    return {"n_expected": expected, "n_absent": absent, "n_duplicates": repeated}


def _categories(parts: dict[str, arena_hard.ArenaHard]) -> dict[str, dict[str, Any]]:
    return {
        name: {
            "score": part.score,
            "interval": part.interval if part.n_questions >= LEAST else None,
            "n_battles": part.n_battles,
            "n_questions": part.n_questions,
        }
        for name, part in parts.items()
    }


def _effects(
    rows: pd.DataFrame, percent: np.ndarray, shown_second: pd.Series
) -> dict[str, Estimate | None]:
    """Points of win rate, shown second minus first, and per standard deviation of the length."""
    longer = pd.Series(np.nan, rows.index)
    if {"length_model", "length_baseline"} <= set(rows):
        longer = (rows["length_model"] - rows["length_baseline"]).astype(float)
    effects: dict[str, Estimate | None] = {}
    scaled = longer / longer.std(ddof=0)
    for name, x in {"position_effect": shown_second, "length_effect": scaled}.items():
        known = x.notna().to_numpy()
        varies = known.sum() > 2 and x.nunique() > 1
        effects[name] = (
            slope_interval(percent[known], x[known], rows["question_id"][known]) if varies else None
        )
    return effects
