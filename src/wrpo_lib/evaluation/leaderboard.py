"""A new model beside published ones: only where judge, version, template and baseline agree.

A number from another judge is not the same quantity. Such a model is shown apart, with the reason.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from wrpo_lib.errors import WRPOError
from wrpo_lib.evaluation.assets import fetch
from wrpo_lib.evaluation.judgements import read_judgements
from wrpo_lib.evaluation.mt_bench import summarise
from wrpo_lib.evaluation.summary import Summary
from wrpo_lib.io import open_binary

COLUMNS = ("model", "score", "low", "high", "win_rate", "origin")

SETTINGS = {
    "alpaca-eval": {
        "judge": "gpt-4-1106-preview",
        "version": "2",
        "template": "alpaca_eval_clf",
        "metric": "weighted",
        "baseline": "gpt4_1106_preview",
    },
    "arena-hard": {
        "judge": "gpt-4-1106-preview",
        "version": "v0.1",
        "template": "arena-hard-v0.1",
        "baseline": "gpt-4-0314",
    },
    "mt-bench": {
        "judge": "gpt-4",
        "version": "original-references",
        "template": "single-math-v1, single-math-v1-multi-turn, single-v1, single-v1-multi-turn",
        "metric": "score",
    },
}
"""How the published boards were made; all of it must agree. MT-Bench's judge is named without a
date: the "gpt-4" of June 2023."""

ASSETS = {
    "alpaca-eval": "alpaca_eval_2/leaderboard.csv",
    "arena-hard": "arena_hard_v0.1/leaderboard.csv",
    "mt-bench": "mt_bench/leaderboard_gpt-4_single.jsonl",
}


@dataclass(frozen=True)
class Board:
    """Published scores under one setting. ``table`` has the columns of :data:`COLUMNS`."""

    setting: dict[str, str]
    table: pd.DataFrame


def published(benchmark: str, path: Path | None = None) -> Board:
    """The published leaderboard of a benchmark, from its asset or from ``path``.

    AlpacaEval-2 prints no interval of LC that accounts for the regression; low and high are
    upstream's 1.96 standard errors, which are about 2.2 times too narrow. MT-Bench's board is
    computed from its published judgements, with intervals clustered by question.
    """
    if benchmark not in SETTINGS:
        raise WRPOError(
            f"there is no published leaderboard of {benchmark!r} here; "
            f"choose one of {', '.join(SETTINGS)}"
        )
    source = path or fetch(ASSETS[benchmark])
    try:
        rows = _read(benchmark, source).assign(origin="published")
        return Board(SETTINGS[benchmark], rows.reindex(columns=COLUMNS))
    except (OSError, KeyError, ValueError) as error:
        raise WRPOError(f"{source} is no leaderboard of {benchmark} ({error})") from error


def _read(benchmark: str, path: Path) -> pd.DataFrame:
    if benchmark == "mt-bench":
        models = read_judgements(benchmark, path).groupby("model")
        scores = {model: summarise(judged).interval for model, judged in models}
        rows = [(model, s.value, s.low, s.high) for model, s in scores.items()]
        return pd.DataFrame(rows, columns=COLUMNS[:4])
    with open_binary(path) as file:
        rows = pd.read_csv(file)
    if benchmark == "arena-hard":
        rows = rows.rename(columns={"rating_q025": "low", "rating_q975": "high"})
        return rows[["model", "score", "low", "high"]]
    rows = rows.rename(columns={rows.columns[0]: "model", "length_controlled_winrate": "score"})
    half = 1.96 * rows["lc_standard_error"]
    return rows.assign(low=rows["score"] - half, high=rows["score"] + half)


def reasons(summary: Summary, board: Board) -> list[str]:
    """Why a model may not stand on the board; empty if it may."""
    found = []
    for name, wanted in board.setting.items():
        own = summary.setting.get(name, "")
        if own != wanted:
            found.append(f"its {name} is {own or 'not named'}, the board's is {wanted}")
    if _score(summary)[0] is None:
        found.append("it has no score that the board ranks by")
    return found


def _score(summary: Summary) -> tuple[float | None, Any]:
    """The value a board ranks by, and its interval."""
    values = summary.values
    if summary.controlled is not None:
        return values["length_controlled_winrate"], values["lc_interval"]
    return values.get("score", values.get("overall")), values.get("interval")


def place(
    summaries: list[Summary], board: Board
) -> tuple[pd.DataFrame, list[tuple[str, list[str]]]]:
    """The board with the models that may stand on it, by score; and the others with reasons.

    A model that the board already lists keeps its published row, and ours stands below it.
    """
    own, apart = [], []
    for summary in summaries:
        if why := reasons(summary, board):
            apart.append((summary.model, why))
            continue
        score, interval = _score(summary)
        bounds = (interval.low, interval.high) if interval else (None, None)
        own.append((summary.model, score, *bounds, summary.values.get("win_rate"), "ours"))
    rows = [*board.table.itertuples(index=False, name=None), *own]
    table = pd.DataFrame(rows, columns=COLUMNS)
    return table.sort_values("score", ascending=False, kind="stable", ignore_index=True), apart
