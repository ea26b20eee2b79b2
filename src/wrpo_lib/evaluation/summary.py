"""Everything that judgements of a model say: scores, what is missing, position and length effects.

Judgements of one model by different judges, in different versions or under different templates are
never averaged: each combination is a summary of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from wrpo_lib.analysis.statistics import Estimate, detectable, slope_interval
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
FEW = 10  # a category of fewer questions gets no interval
IDENTICAL = "identical outputs"  # the metric of a pair that needed no judge


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
    style: dict[tuple[str, str], np.ndarray] | None = None


@dataclass(frozen=True)
class Summary:
    """One model under one judge. ``values`` hold numbers under upstream's names; ``rows`` (N,) and
    ``questions`` (N,) what differences are made of; ``notes`` are sentences about what is off."""

    model: str
    setting: dict[str, str]
    values: dict[str, Any]
    notes: list[str]
    rows: np.ndarray
    questions: list[str]
    controlled: LengthControlled | None = None

    def as_dict(self) -> dict[str, Any]:
        """For JSON: intervals as dictionaries."""
        return {"model": self.model, **self.setting, **_plain(self.values), "notes": self.notes}


def _plain(values: dict[str, Any]) -> dict[str, Any]:
    found = {}
    for name, value in values.items():
        if isinstance(value, Estimate):
            found[name] = value.as_dict()
        elif isinstance(value, dict):
            found[name] = _plain(value)
        else:
            found[name] = value
    return found


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
        delayed(_summary)(benchmark, tuple(map(str, key)), rows, options, universe)
        for key, rows in groups
    )
    return found


def _summary(
    benchmark: str, key: tuple[str, ...], rows: pd.DataFrame, options: Options, universe: list[str]
) -> Summary:
    one: dict[str, Callable[..., Summary]] = {
        "alpaca-eval": _alpaca, "mt-bench": _mt_bench, "arena-hard": _arena,
    }  # fmt: skip
    setting = dict(zip(SAME, key[1:], strict=True))
    try:
        summary = one[benchmark](key[0], setting, rows, options, universe)
    except WRPOError as error:
        raise WRPOError(f"{key[0]}: {error}") from error
    return replace(summary, notes=_notes(setting, summary.values) + summary.notes)


def _with_setting(benchmark: str, table: pd.DataFrame) -> pd.DataFrame:
    """The columns of SAME such that equal ones may be averaged."""
    table = table.copy()
    if benchmark == "alpaca-eval":
        measured = table["metric"].where(table["metric"] != IDENTICAL)
        filled = measured.groupby([table["model"], table["judge"]]).transform("first")
        table["metric"] = measured.fillna(filled).fillna(IDENTICAL)
        return table
    # templates differ by turn, reference and category; the version says which belong together
    names = table.groupby(["model", "judge", "version"])["template"].transform(_joined)
    table["template"] = names
    if benchmark == "arena-hard":
        table["baseline"] = table.groupby(["model", "judge", "version"])["baseline"].transform(
            _joined
        )
    return table


def _joined(names: pd.Series) -> str:
    return ", ".join(sorted({str(n) for n in names if n}))


def _notes(setting: dict[str, str], values: dict[str, Any]) -> list[str]:
    """One sentence for each thing that makes the numbers less than they seem."""
    found = []
    if not setting["judge"]:
        found.append("the rows do not name their judge, so nothing may be put beside this number")
    if n := values["n_missing"]:
        found.append(f"without a readable verdict, left out: {n} judgements")
    if n := values.get("n_absent"):
        found.append(f"not in the file: {n} of {values['n_expected']} judgements")
    if n := values.get("n_duplicates"):
        found.append(f"repeating another row's question, kept as upstream keeps them: {n} rows")
    return found


def _effect(values: np.ndarray, x: np.ndarray, questions: list[str]) -> Estimate | None:
    known = ~np.isnan(x)
    if known.sum() < 3 or np.ptp(x[known]) == 0:
        return None
    return slope_interval(values[known], x[known], np.asarray(questions)[known])


def _length_effect(rows: pd.DataFrame, values: np.ndarray, questions: list[str]) -> Estimate | None:
    """Points a standard deviation of the length difference, longer minus shorter."""
    if not {"length_model", "length_baseline"} <= set(rows):
        return None
    gap = (rows["length_model"] - rows["length_baseline"]).to_numpy(float)
    spread = float(np.nanstd(gap)) if np.isfinite(gap).any() else 0.0
    return _effect(values, gap / spread, questions) if spread > 0 else None


def _alpaca(
    model: str,
    setting: dict[str, str],
    rows: pd.DataFrame,
    options: Options,
    universe: list[str],
) -> Summary:
    won = alpaca_eval.win_rate(rows)
    kept = rows[rows["preference"].notna()]
    percent = 100 * (kept["preference"].to_numpy(float) - 1)
    questions = [str(q) for q in kept["question_id"]]
    second = kept["order"].map({"baseline first": 1.0, "model first": 0.0}).to_numpy(float)
    values = asdict(won) | {"interval": won.interval}
    expected = EXPECTED.get(("alpaca-eval", setting["version"]))
    values |= {
        "n_expected": expected,
        "n_absent": max(0, expected - rows["question_id"].nunique()) if expected else None,
        "detectable_difference": detectable(won.interval),
        "position_effect": _effect(percent, second, questions),
        "length_effect": _length_effect(kept, percent, questions),
    }
    controlled, notes = _length_control(rows, setting, options, universe)
    if controlled is not None:
        values |= {
            "length_controlled_winrate": controlled.length_controlled_winrate,
            "lc_standard_error": controlled.lc_standard_error,
            "lc_interval": controlled.interval,
            "lc_glm": controlled.glm,
            "lc_C": None if np.isnan(controlled.C) else controlled.C,
            "lc_joined_by": "position" if options.compat else "instruction",
        }
    return Summary(model, setting, values, notes, percent, questions, controlled)


def _length_control(
    rows: pd.DataFrame, setting: dict[str, str], options: Options, universe: list[str]
) -> tuple[LengthControlled | None, list[str]]:
    """LC and what is to be said of it; None where it cannot be computed."""
    official = setting["version"] == "2"
    notes = []
    if rows["length_model"].isna().any() or rows["length_baseline"].isna().any():
        return None, ["some rows have no lengths, so there is no length-controlled win rate"]
    if official and options.side is None:
        return None, ["there is no length-controlled win rate without the side file df_gamed.csv"]
    if not official:
        notes.append(
            "the questions are not AlpacaEval-2's; length control leaves difficulty and "
            "regularising rows out, and no number here compares with the leaderboard"
        )
    if options.compat and rows["question_id"].nunique() != EXPECTED["alpaca-eval", "2"]:
        notes.append("length control joins by row position though rows are missing, as upstream")
    side = options.side if official else None
    compat = options.compat and official
    return length_controlled(
        rows, side, C=options.C, compat=compat, replicates=options.replicates,
        seed=options.seed, questions=universe,
    ), notes  # fmt: skip


def _mt_bench(
    model: str, setting: dict[str, str], rows: pd.DataFrame, options: Options, universe: list[str]
) -> Summary:
    if "g1_winner" in rows:
        compared = mt_bench.pairwise(rows, model)
        values = asdict(compared) | {"interval": compared.interval}
        values["detectable_difference"] = detectable(compared.interval)
        return Summary(model, setting, values, [], np.empty(0), [])
    scores = mt_bench.summarise(rows)
    kept = rows[rows["score"] >= 0]
    known = all(mt_bench.category(q) for q in rows["question_id"].unique())
    seen = len(rows.drop_duplicates(["question_id", "turn"]))
    values = asdict(scores) | {"interval": scores.interval, "categories": scores.categories}
    values |= {
        "n_expected": 160 if known else None,
        "n_absent": 160 - seen if known else None,
        "detectable_difference": detectable(scores.interval),
    }
    notes = []
    if scores.n_without_reference:
        notes.append(
            f"{scores.n_without_reference} answers in math, reasoning and coding were judged "
            "without a reference answer"
        )
    points = kept["score"].to_numpy(float)
    return Summary(model, setting, values, notes, points, [str(q) for q in kept["question_id"]])


def _style(rows: pd.DataFrame, options: Options) -> dict[str, Any]:
    """Score at equal length and markdown against each baseline, and the coefficients."""
    found = {}
    for baseline, part in rows.groupby("baseline"):
        features = of_battles(part, options.style or {})
        (one,) = style_controlled(part, features, replicates=options.replicates).values()
        found[str(baseline)] = {"score": one.score, "interval": one.interval,
                                "coefficients": one.coefficients}  # fmt: skip
    return found


def _arena(
    model: str, setting: dict[str, str], rows: pd.DataFrame, options: Options, universe: list[str]
) -> Summary:
    whole = setting["version"] == "v2.0"  # upstream drops a question with one unreadable game
    expected = EXPECTED.get(("arena-hard", setting["version"]))
    games = len(rows.drop_duplicates(["question_id", "game"]))
    repeated = len(rows) - games
    if setting["metric"] == "battles":  # a row a unit of weight; unreadable games are not in it
        games, repeated = 2 * rows["question_id"].nunique(), 0
    kept = rows[rows["won"].notna()]
    questions = [str(q) for q in kept["question_id"]]
    percent = 100 * kept["won"].to_numpy(float)
    second = kept["game"].map({1: 1.0, 2: 0.0}).to_numpy(float)  # in game 1 the baseline is A
    parts = arena_hard.by_category(rows, whole)
    total = arena_hard.summarise(rows, whole)
    values: dict[str, Any] = asdict(total)
    values |= {"interval": total.interval, "interval_rows": total.interval_rows}
    values |= {
        "n_expected": expected,
        "n_absent": expected - games if expected else None,
        "n_duplicates": repeated,
        "detectable_difference": detectable(total.interval),
        "position_effect": _effect(percent, second, questions),
        "length_effect": _length_effect(kept, percent, questions),
    }
    notes = []
    if options.style is not None:
        values["style_controlled"] = _style(rows, options)
    if setting["metric"] == "battles":
        notes.append("battles leave unreadable games out, so these cannot be counted")
    if len(parts) > 1:
        values["categories"] = {
            name: {
                "score": part.score,
                "interval": part.interval if part.n_questions >= FEW else None,
                "n_battles": part.n_battles,
                "n_questions": part.n_questions,
            }
            for name, part in parts.items()
        }
    if ", " in setting["baseline"]:
        values["score"] = values["interval"] = values["interval_rows"] = None
        values["detectable_difference"] = None
        notes.append("the categories have different baselines, so there is no overall score")
    repeats = kept["weight"].to_numpy(int)
    return Summary(
        model, setting, values, notes, np.repeat(percent, repeats),
        np.repeat(np.asarray(questions), repeats).tolist(),
    )  # fmt: skip
