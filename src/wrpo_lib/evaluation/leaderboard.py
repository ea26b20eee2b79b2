"""A new model beside published ones: only where judge, version, template and baseline agree.

A number from another judge is not the same quantity. Such a model is shown apart, with the reason.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from wrpo_lib.errors import WRPOError
from wrpo_lib.evaluation.assets import fetch
from wrpo_lib.evaluation.summary import Summary
from wrpo_lib.io import open_binary

COLUMNS = ["model", "score", "low", "high", "origin"]

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
}
"""How the published boards were made; all of it must agree."""

ASSETS = {
    "alpaca-eval": "alpaca_eval_2/leaderboard.csv",
    "arena-hard": "arena_hard_v0.1/leaderboard.csv",
}


def published(benchmark: str, path: Path | None = None) -> pd.DataFrame:
    """The published leaderboard, from its asset or from ``path``; columns :data:`COLUMNS`.

    AlpacaEval-2 prints no interval of LC that accounts for the regression; low and high are
    upstream's 1.96 standard errors, which are about 2.2 times too narrow.
    """
    if benchmark not in ASSETS:
        raise WRPOError(f"{benchmark} has no published leaderboard; there are {', '.join(ASSETS)}")
    source = path or fetch(ASSETS[benchmark])
    try:
        return _read(benchmark, source).assign(origin="published")[COLUMNS]
    except (OSError, KeyError, ValueError) as error:
        raise WRPOError(f"{source} is no leaderboard of {benchmark} ({error})") from error


def _read(benchmark: str, path: Path) -> pd.DataFrame:
    with open_binary(path) as file:
        rows = pd.read_csv(file)
    if benchmark == "arena-hard":
        return rows.rename(columns={"rating_q025": "low", "rating_q975": "high"})
    rows = rows.rename(columns={rows.columns[0]: "model", "length_controlled_winrate": "score"})
    half = 1.96 * rows["lc_standard_error"]
    return rows.assign(low=rows["score"] - half, high=rows["score"] + half)


def _reasons(benchmark: str, summary: Summary) -> list[str]:
    """Why a model may not stand on the board; empty if it may."""
    own = summary.setting
    found = [
        f"its {name} is {own[name] or 'not named'}, the board's is {wanted}"
        for name, wanted in SETTINGS[benchmark].items()
        if own[name] != wanted
    ]
    if benchmark == "alpaca-eval" and summary.controlled is None:
        found.append("it has no length-controlled win rate")
    return found


def _row(summary: Summary) -> dict[str, Any]:
    """The value a board ranks by, and its interval."""
    interval, score = summary.values["interval"], summary.values["interval"].value
    if summary.controlled is not None:
        score, interval = summary.controlled.length_controlled_winrate, summary.controlled.interval
    bounds = {"low": interval.low, "high": interval.high} if interval else {}
    return {"model": summary.model, "score": score, **bounds, "origin": "ours"}


def place(
    benchmark: str, summaries: list[Summary], board: pd.DataFrame
) -> tuple[pd.DataFrame, list[tuple[Summary, list[str]]]]:
    """The board with the models that may stand on it, by score; the others with reasons.

    A model that the board already lists keeps its published row, and ours stands below it.
    """
    judged = [(summary, _reasons(benchmark, summary)) for summary in summaries]
    own = [_row(summary) for summary, reasons in judged if not reasons]
    rows = pd.DataFrame([*board.to_dict("records"), *own], columns=COLUMNS)
    table = rows.sort_values("score", ascending=False, kind="stable", ignore_index=True)
    return table, [(summary, reasons) for summary, reasons in judged if reasons]
