"""What judgements of models say: scores, what is missing, effects, paired differences, the board.

Judgements of one model by different judges, in different versions or under different templates are
never averaged, subtracted or ranked together: each combination is a summary of its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from wrpo_lib.analysis import statistics
from wrpo_lib.analysis.statistics import Estimate, detectable, mean_interval, slope_interval
from wrpo_lib.errors import WRPOError
from wrpo_lib.evaluation import alpaca_eval, verdicts
from wrpo_lib.evaluation.assets import fetch
from wrpo_lib.io import open_binary

SAME = ("judge", "version", "template", "metric", "baseline")
KINDS: dict[str, tuple[int, list[str], Any, Any]] = {
    "alpaca-eval": (805, ["question_id"], alpaca_eval.checked, alpaca_eval.win_rate),
    "mt-bench": (80, ["question_id", "turn"], verdicts.scored, verdicts.mt_bench),
    "arena-hard": (500, ["question_id", "game"], verdicts.battles, verdicts.arena_hard),
}
"""Questions of the real benchmark, key of a judgement, its readable rows, their score."""

COUNTED = {
    "n_missing": "without a readable verdict, left out",
    "n_absent": "not in the file",
    "n_duplicates": "repeating another row's question, kept as upstream keeps them",
}
NO_JUDGE = "the rows do not name their judge, so nothing may be put beside this number"
NO_LC = "no length-controlled win rate: "


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


def summarise(benchmark: str, judgements: pd.DataFrame, **options: Any) -> list[Summary]:
    """A summary for each model and judge in ``judgements`` (of :func:`read_judgements`).

    ``options`` of :func:`wrpo_lib.evaluation.alpaca_eval.length_controlled`: ``side``, ``C``,
    ``compat``, ``replicates`` (here 200) and ``seed``.
    """
    table = judgements
    if benchmark == "arena-hard":  # v0.1 has one baseline, which upstream's rows do not name
        unnamed = (table["baseline"] == "") & (table["version"] == "v0.1")
        table = table.assign(baseline=table["baseline"].mask(unnamed, verdicts.BASELINE))
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
    notes = [] if setting["judge"] else [NO_JUDGE]
    n_questions, key, readable, score = KINDS[benchmark]
    known, seen, values = readable(rows), len(rows.drop_duplicates(key)), score(rows)
    official = setting["version"] == "v0.1"
    if benchmark == "alpaca-eval":
        official = setting["version"] == "2"
        values |= _length_control(rows, official, options, notes)
    elif benchmark == "mt-bench":
        official = all(map(verdicts.category, rows["question_id"].unique()))
    elif setting["metric"] == "battles":  # a row for each unit of weight, no unreadable games
        seen, values["n_duplicates"] = 2 * rows["question_id"].nunique(), 0
    # two turns of each question in MT-Bench, two games in Arena-Hard
    values["n_absent"] = n_questions * len(key) - seen if official else None
    points, questions = known["points"].to_numpy(float), known["question_id"].astype(str).tolist()
    values["detectable_difference"] = detectable(mean_interval(points, questions))
    values |= _effects(known)
    notes += [f"{what}: {values[n]} judgements" for n, what in COUNTED.items() if values[n]]
    return Summary(names[0], setting, values, notes, points, questions)


def _length_control(
    rows: pd.DataFrame, official: bool, options: dict[str, Any], notes: list[str]
) -> dict[str, Any]:
    """LC, or nothing, and why there is none into ``notes``."""
    if not official:
        notes.append(
            "the questions are not AlpacaEval-2's; length control leaves difficulty and "
            "regularising rows out, and no number here compares with the leaderboard"
        )
        options = options | {"side": None}
    if rows[["length_model", "length_baseline"]].isna().any(axis=None):
        notes.append(f"{NO_LC}some rows have no lengths")
    elif official and options.get("side") is None:
        notes.append(f"{NO_LC}run `wrpo assets fetch` or give --side df_gamed.csv")
    else:
        return alpaca_eval.length_controlled(rows, **options)
    return {}


def _effects(known: pd.DataFrame) -> dict[str, Estimate | None]:
    """Points of win rate, shown second minus first, and per standard deviation of the length."""
    if "turn" in known:  # MT-Bench
        return {}
    rows = known[~known.index.duplicated()]  # a strong verdict of Arena-Hard stands three times
    # Arena-Hard's first game and this order are the same
    second = rows["order"] == "baseline first" if "order" in rows else rows["game"] == 1
    longer = rows["length_model"] - rows["length_baseline"]
    regressors = {"position": second.astype(float), "length": longer / longer.std(ddof=0)}
    effects: dict[str, Estimate | None] = {}
    for name, x in regressors.items():
        own = rows.assign(x=x).dropna(subset="x")
        found = len(own) > 2 and x.nunique() > 1
        effects[f"{name}_effect"] = (
            slope_interval(own["points"], own["x"], own["question_id"]) if found else None
        )
    return effects


def differences(summaries: list[Summary]) -> list[dict[str, Any]]:
    """Every summary against the first one, on the questions that both have.

    ``difference``: the first named minus the second, or the ``reason`` why there is none;
    ``detectable_difference``: what a test at 5 % would have found in 80 % of the runs; the same of
    LC where both have one.
    """
    return [_difference(other, summaries[0]) for other in summaries[1:]]


def _difference(a: Summary, b: Summary) -> dict[str, Any]:
    shared = len(set(a.questions) & set(b.questions))
    found = {"model": a.model, "against": b.model, "n_shared_questions": shared}
    reasons = [
        f"the {name} is {a.setting[name] or 'not named'}, not {b.setting[name] or 'named'}"
        for name in SAME
        if a.setting[name] != b.setting[name]
    ]
    if shared < 2:
        reasons.append(f"they share {shared} questions")
    if reasons:
        return {**found, "reason": reasons[0]}
    points = statistics.difference_interval(a.rows, a.questions, b.rows, b.questions)
    lc = alpaca_eval.length_controlled_difference(a.values, b.values)
    found |= {"difference": points, "detectable_difference": detectable(points)}
    return found | {"lc_difference": lc, "lc_detectable_difference": detectable(lc) if lc else None}


COLUMNS = ["model", "score", "low", "high", "origin"]
BOARDS = {
    "alpaca-eval": (
        "alpaca_eval_2/leaderboard.csv",
        ("gpt-4-1106-preview", "2", "alpaca_eval_clf", "weighted", "gpt4_1106_preview"),
    ),
    "arena-hard": (
        "arena_hard_v0.1/leaderboard.csv",
        ("gpt-4-1106-preview", "v0.1", "arena-hard-v0.1", "", verdicts.BASELINE),
    ),
}
"""Assets with the published boards, and how these were made (:data:`SAME`): all must agree."""


def published_board(benchmark: str, path: Path | None = None) -> pd.DataFrame:
    """The published leaderboard, from its asset or from ``path``; columns :data:`COLUMNS`.

    AlpacaEval-2 prints no interval of LC that accounts for the regression; low and high are
    upstream's 1.96 standard errors, which are about 2.2 times too narrow.
    """
    if benchmark not in BOARDS:
        raise WRPOError(f"{benchmark} has no published leaderboard; there are {', '.join(BOARDS)}")
    source = path or fetch(BOARDS[benchmark][0])
    try:
        with open_binary(source) as file:
            rows = pd.read_csv(file).assign(origin="published")
        if benchmark == "alpaca-eval":
            score, half = rows["length_controlled_winrate"], 1.96 * rows["lc_standard_error"]
            rows = rows.rename(columns={rows.columns[0]: "model"})
            rows = rows.assign(score=score, low=score - half, high=score + half)
        return rows.rename(columns={"rating_q025": "low", "rating_q975": "high"})[COLUMNS]
    except (OSError, KeyError, ValueError) as error:
        raise WRPOError(f"{source} is no leaderboard of {benchmark} ({error})") from error


def place(
    benchmark: str, summaries: list[Summary], board: pd.DataFrame
) -> tuple[pd.DataFrame, list[tuple[Summary, list[str]]]]:
    """The board with the models that may stand on it, by score; the others with reasons.

    A model that the board already lists keeps its published row, and ours stands below it. The
    origin of a model whose judgements are not complete says on how many questions it stands.
    """
    apart, rows = [], board.to_dict("records")
    for summary in summaries:
        reasons = [
            f"its {name} is {summary.setting[name] or 'not named'}, the board's is {wanted}"
            for name, wanted in zip(SAME, BOARDS[benchmark][1], strict=True)
            if wanted and summary.setting[name] != wanted
        ]
        if benchmark == "alpaca-eval" and "lc_glm" not in summary.values:
            reasons.append("it has no length-controlled win rate")
        if reasons:
            apart.append((summary, reasons))
        else:
            rows.append(_board_row(benchmark, summary))
    table = pd.DataFrame(rows, columns=COLUMNS)
    return table.sort_values("score", ascending=False, kind="stable", ignore_index=True), apart


def _board_row(benchmark: str, summary: Summary) -> dict[str, Any]:
    """The value a board ranks by, its interval, and what is missing."""
    values, origin = summary.values, "ours"
    interval = values.get("lc_interval", values["interval"])
    score = values.get("length_controlled_winrate", values["interval"].value)
    if values["n_absent"] or values["n_missing"]:
        origin += f" ({values['n_questions']} of {KINDS[benchmark][0]} questions"
        origin += f", {values['n_missing']} judgements unreadable)"
    bounds = {"low": interval.low, "high": interval.high} if interval else {}
    return {"model": summary.model, "score": score, **bounds, "origin": origin}
