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


def published(benchmark: str, path: Path | None = None) -> pd.DataFrame:
    """The published leaderboard, from its asset or from ``path``; columns :data:`COLUMNS`.

    AlpacaEval-2 prints no interval of LC that accounts for the regression; low and high are
    upstream's 1.96 standard errors, which are about 2.2 times too narrow.
    """
    assets = {"alpaca-eval": "alpaca_eval_2", "arena-hard": "arena_hard_v0.1"}
    if benchmark not in assets:
        raise WRPOError(f"{benchmark} has no published leaderboard; there are {', '.join(assets)}")
    source = path or fetch(f"{assets[benchmark]}/leaderboard.csv")
    try:
        with open_binary(source) as file:
            rows = pd.read_csv(file).assign(origin="published")
        if benchmark == "alpaca-eval":
            names = {rows.columns[0]: "model", "length_controlled_winrate": "score"}
            half = 1.96 * rows["lc_standard_error"]
            rows = rows.rename(columns=names)
            rows = rows.assign(low=rows["score"] - half, high=rows["score"] + half)
        return rows.rename(columns={"rating_q025": "low", "rating_q975": "high"})[COLUMNS]
    except (OSError, KeyError, ValueError) as error:
        raise WRPOError(f"{source} is no leaderboard of {benchmark} ({error})") from error


def place(
    benchmark: str, summaries: list[Summary], board: pd.DataFrame
) -> tuple[pd.DataFrame, list[tuple[Summary, list[str]]]]:
    """The board with the models that may stand on it, by score; the others with reasons.

    A model that the board already lists keeps its published row, and ours stands below it.
    """
    apart, rows = [], board.to_dict("records")
    for summary in summaries:
        own = summary.setting
        reasons = [
            f"its {name} is {own[name] or 'not named'}, the board's is {wanted}"
            for name, wanted in SETTINGS[benchmark].items()
            if own[name] != wanted
        ]
        if benchmark == "alpaca-eval" and summary.controlled is None:
            reasons.append("it has no length-controlled win rate")
        if reasons:
            apart.append((summary, reasons))
        else:
            rows.append(_row(summary))
    table = pd.DataFrame(rows, columns=COLUMNS)
    return table.sort_values("score", ascending=False, kind="stable", ignore_index=True), apart


def _row(summary: Summary) -> dict[str, Any]:
    """The value a board ranks by, and its interval."""
    interval, score = summary.values["interval"], summary.values["interval"].value
    if summary.controlled is not None:
        score, interval = summary.controlled.length_controlled_winrate, summary.controlled.interval
    bounds = {"low": interval.low, "high": interval.high} if interval else {}
    return {"model": summary.model, "score": score, **bounds, "origin": "ours"}
