"""What judgements of models say: scores, what is missing, effects, differences, the board.

Judgements of one model by different judges, in different versions or under different templates are
never averaged, subtracted or ranked together: each combination is a summary of its own.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from sklearn.metrics import cohen_kappa_score

from wrpo_lib.analysis import statistics
from wrpo_lib.analysis.statistics import Estimate, detectable, mean_interval, slope_interval
from wrpo_lib.errors import WRPOError
from wrpo_lib.evaluation import alpaca_eval, verdicts
from wrpo_lib.evaluation.assets import fetch

SAME = ("judge", "version", "template", "metric", "baseline")
KINDS: dict[str, tuple[int, str, Any, Any]] = {
    "alpaca-eval": (805, "order", alpaca_eval.in_percent, alpaca_eval.win_rate),
    "mt-bench": (80, "turn", verdicts.scored, verdicts.mt_bench),
    "arena-hard": (500, "game", verdicts.battles, verdicts.arena_hard),
}
"""Questions of the real benchmark, what tells two judgements of a question apart, the readable
rows, their score."""

BOARD_JUDGE = "gpt-4-1106-preview"
BOARDS = {
    "alpaca-eval": ("alpaca_eval_2", "2", "alpaca_eval_clf", "weighted", "gpt4_1106_preview"),
    "arena-hard": ("arena_hard_v0.1", "v0.1", "arena-hard-v0.1", "", verdicts.BASELINE),
}
"""Folder of a published board; its version, template, metric ("" is any) and baseline."""


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

    ``options`` of :func:`wrpo_lib.evaluation.alpaca_eval.length_controlled`: ``side``, ``C`` and
    ``replicates`` (here 200).
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
    for (model, *names), rows in table.groupby(["model", *SAME], sort=False):
        setting = dict(zip(SAME, names, strict=True))
        try:
            found.append(_summary(benchmark, model, setting, rows, options))
        except WRPOError as error:
            raise WRPOError(f"{model}: {error}") from error
    return found


def _summary(
    benchmark: str, model: str, setting: dict[str, str], rows: pd.DataFrame, options: dict[str, Any]
) -> Summary:
    _, _, readable, score = KINDS[benchmark]
    known, values, notes = readable(rows), score(rows), list[str]()
    if not setting["judge"]:
        notes.append("the rows do not name their judge; no number compares")
    official = setting["version"] in ("2", "v0.1")
    if benchmark == "alpaca-eval":
        values |= _length_control(rows, official, options, notes)
    elif benchmark == "mt-bench":
        official = set(rows["question_id"].astype(str)) <= {str(n) for n in range(81, 161)}
    elif setting["metric"] == "battles":  # a row for each unit of weight
        values["n_duplicates"] = 0
    values["n_absent"] = _absent(benchmark, rows) if official else None
    points, questions = known["points"].to_numpy(float), known["question_id"].astype(str).tolist()
    values["detectable_difference"] = detectable(mean_interval(points, questions))
    values |= _effects(known)
    return Summary(model, setting, values, notes, points, questions)


def _absent(benchmark: str, rows: pd.DataFrame) -> int:
    """How many judgements the benchmark has and the file has not.

    A question has two turns or games; in AlpacaEval-2 two orders if any question has both. Battles
    do not say which game they are of, so there only whole questions are missed.
    """
    n_questions, key, _, _ = KINDS[benchmark]
    seen = rows.drop_duplicates(["question_id", key])["question_id"].value_counts()
    if (rows["metric"] == "battles").any():
        return 2 * (n_questions - len(seen))
    each = seen.max() if benchmark == "alpaca-eval" else 2
    return int(n_questions * each - seen.sum())


def _length_control(
    rows: pd.DataFrame, official: bool, options: dict[str, Any], notes: list[str]
) -> dict[str, Any]:
    """LC, or nothing, and why there is none into ``notes``."""
    if rows[["length_model", "length_baseline"]].isna().any(axis=None):
        notes.append("no length-controlled win rate: some rows have no lengths")
        return {}
    if official and options.get("side") is None:
        notes.append("no length-controlled win rate: run `wrpo assets fetch`")
        return {}
    if not official:
        notes.append("the questions are not AlpacaEval-2's; nothing compares with its leaderboard")
        options = options | {"side": None}
    return alpaca_eval.length_controlled(rows, **options)


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
        own, effects[f"{name}_effect"] = rows.assign(x=x).dropna(subset="x"), None
        if len(own) > 2 and x.nunique() > 1:
            slope = slope_interval(own["points"], own["x"], own["question_id"])
            effects[f"{name}_effect"] = slope
    return effects


def differences(summaries: list[Summary]) -> list[dict[str, Any]]:
    """Every summary minus the first one, on the questions that both have.

    ``difference``, or the ``reason`` why there is none; ``detectable_difference``: what a test at
    5 % would have found in 80 % of the runs; the same of LC where both have one.
    """
    return [_difference(other, summaries[0]) for other in summaries[1:]]


def _difference(a: Summary, b: Summary) -> dict[str, Any]:
    shared = len(set(a.questions) & set(b.questions))
    found = {"model": a.model, "against": b.model, "n_shared_questions": shared}
    reason = _unlike(a.setting, b.setting)
    if reason or shared < 2:
        return {**found, "reason": reason or f"they share {shared} questions"}
    points = statistics.difference_interval(a.rows, a.questions, b.rows, b.questions)
    lc = alpaca_eval.length_controlled_difference(a.values, b.values)
    found |= {"difference": points, "detectable_difference": detectable(points)}
    return found | {"lc_difference": lc, "lc_detectable_difference": detectable(lc) if lc else None}


def _unlike(own: dict[str, str], wanted: dict[str, str]) -> str:
    """The first difference of two settings, empty if there is none."""
    for name in SAME:
        if own[name] != wanted[name]:
            return f"its {name} is {own[name] or 'unnamed'}, not {wanted[name] or 'unnamed'}"
    return ""


def agreement(benchmark: str, *tables: pd.DataFrame) -> dict[str, Any]:
    """How far two judges agree, each in a table of its own, on what both judged.

    A verdict is who wins a comparison, both orders or games of it together (a tie where they
    balance); in MT-Bench it is the rounded score of a turn. ``raw``: share of equal verdicts, its
    interval clustered by question; ``kappa``: Cohen's, agreement beyond chance.
    """
    found = []
    for table in tables:
        if table["judge"].nunique() > 1:
            raise WRPOError(f"one file holds judgements of {', '.join(table['judge'].unique())}")
        key = [name for name in ("question_id", "model", "turn") if name in table]
        means = KINDS[benchmark][2](table).groupby(key)["points"].mean()
        found.append(means.round() if "turn" in table else np.sign(means - 50))
    a, b = (side.astype(str) for side in found[0].align(found[1], "inner"))
    if len(a) < 2:
        raise WRPOError(f"the two judges share {len(a)} verdicts; give files that both judged")
    same = (a == b).astype(float).rename("points").reset_index()
    constant = pd.concat([a, b]).nunique() == 1  # which leaves nothing beyond chance
    kappa = None if constant else float(cohen_kappa_score(a, b))
    return {"raw": verdicts.on_scale(same, 0, 1), "kappa": kappa}


def leaderboard(
    benchmark: str, summaries: list[Summary], path: Path | None = None
) -> tuple[pd.DataFrame, list[tuple[Summary, str]]]:
    """The published board (its asset, or ``path``) with the models that may stand on it, by score;
    the others with the reason why not.

    A model that the board lists keeps its published row, and ours stands below it. AlpacaEval-2's
    low and high are upstream's 1.96 standard errors, about 2.2 times too narrow.
    """
    if benchmark not in BOARDS:
        raise WRPOError(f"{benchmark} has no published leaderboard; there are {', '.join(BOARDS)}")
    folder, version, template, metric, baseline = BOARDS[benchmark]
    source, apart = path or fetch(f"{folder}/leaderboard.csv"), []
    try:
        board = pd.read_csv(source).assign(origin="published")
        if benchmark == "alpaca-eval":
            score, half = board["length_controlled_winrate"], 1.96 * board["lc_standard_error"]
            board = board.rename(columns={board.columns[0]: "model"})
            board = board.assign(score=score, rating_q025=score - half, rating_q975=score + half)
        rows = board[["model", "score", "rating_q025", "rating_q975", "origin"]].values.tolist()
    except (OSError, EOFError, KeyError, ValueError) as error:
        raise WRPOError(f"{source} is no leaderboard of {benchmark} ({error})") from error
    for summary in summaries:
        wanted = (BOARD_JUDGE, version, template, metric or summary.setting["metric"], baseline)
        reason = _unlike(summary.setting, dict(zip(SAME, wanted, strict=True)))
        if not reason and benchmark == "alpaca-eval" and "lc_interval" not in summary.values:
            reason = "it has no length-controlled win rate"
        if reason:
            apart.append((summary, reason))
        else:
            rows.append(_board_row(benchmark, summary))
    table = pd.DataFrame(rows, columns=["model", "score", "low", "high", "origin"])
    return table.sort_values("score", ascending=False, kind="stable", ignore_index=True), apart


def _board_row(benchmark: str, summary: Summary) -> list[Any]:
    """The value a board ranks by, its interval, and how much of the benchmark it stands on."""
    values, origin = summary.values, "ours"
    interval = values.get("lc_interval", values["interval"])
    score = values.get("length_controlled_winrate", values["interval"].value)
    if values["n_absent"] or values["n_missing"]:
        origin += f" ({values['n_questions']} of {KINDS[benchmark][0]} questions; "
        origin += f"{values['n_absent']} judgements absent, {values['n_missing']} unreadable)"
    bounds = (interval.low, interval.high) if interval else (None, None)
    return [summary.model, score, *bounds, origin]
