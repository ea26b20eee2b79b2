"""What published judgements teach: numbers of real models, kept as ``results/published``.

The judgements are others' and stay outside the project; what is kept here are numbers computed from
them: scores, intervals of both kinds, position and length effects.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from wrpo_lib.analysis.statistics import Estimate, mean_interval
from wrpo_lib.evaluation.forms import read_judgements
from wrpo_lib.evaluation.length_control import length_controlled, read_side
from wrpo_lib.evaluation.summary import Summary, differences, summarise
from wrpo_lib.io import file_hash
from wrpo_lib.records import write_results

FILES = {
    "alpaca-eval": "eval/alpacaeval2_annotations.csv.gz",
    "mt-bench": "eval/mtbench_gpt4_judgments.jsonl.gz",
    "arena-hard": "eval/arena_hard_v01_battles_gpt-4-0613.jsonl.gz",
}
SIDE = "eval/df_gamed.csv"


def make_published(folder: Path, replicates: int = 400) -> Path:
    """Compute ``results/published`` from the judgements under ``folder`` (:data:`FILES`)."""
    side = read_side(folder / SIDE)
    judged = {name: read_judgements(name, folder / file) for name, file in FILES.items()}
    options = {"side": side, "replicates": replicates}
    found = {name: summarise(name, rows, **options) for name, rows in judged.items()}
    tables = {
        "alpaca_eval2": alpaca_table(found["alpaca-eval"], judged["alpaca-eval"], side),
        "mt_bench": mt_bench_table(found["mt-bench"]),
        "arena_hard": arena_table(found["arena-hard"]),
        "detectable": detectable_table(found),
    }
    record = {
        "what": "numbers computed from published judgements of real models",
        "judgements": {file: file_hash(folder / file) for file in FILES.values()},
        "side_file": file_hash(folder / SIDE),
        "replicates": replicates,
        "seed": 0,
    }
    return write_results("published", tables, record)


def _row(summary: Summary, *names: str, **renamed: str) -> dict[str, Any]:
    """The model's values of those names, or under another; an interval as three columns."""
    row: dict[str, Any] = {"model": summary.model}
    for column, name in [*zip(names, names, strict=True), *renamed.items()]:
        value = summary.values[name]
        row |= value.spread(column) if isinstance(value, Estimate) else {column: value}
    return row


def alpaca_table(found: list[Summary], judged: pd.DataFrame, side: pd.DataFrame) -> pd.DataFrame:
    """AlpacaEval-2: both win rates with both kinds of errors, LC joined by position, effects."""
    rows = []
    for summary in found:
        own = judged[judged["model"] == summary.model]
        # with the C of the joined fit, so that only the join differs
        by_position = length_controlled(own, side, C=summary.values["lc_C"], compat=True)
        row = _row(summary, "n_total", "n_absent", "avg_length", win_rate="interval")
        row |= _row(summary, "standard_error", lc="lc_interval")
        row |= _row(summary, "lc_standard_error")
        row["lc_by_position"] = by_position.length_controlled_winrate
        rows.append(row | _row(summary, "position_effect", "length_effect"))
    return pd.DataFrame(rows)


def mt_bench_table(found: list[Summary]) -> pd.DataFrame:
    """MT-Bench: scores by turn and category, the interval clustered and not."""
    names = ("n_total", "n_missing", "n_duplicates", "first_turn", "second_turn")
    rows = []
    for summary in found:
        naive = mean_interval(summary.rows)
        row = _row(summary, *names, overall="interval")
        row |= {"naive_low": naive.low, "naive_high": naive.high}
        rows.append(row | {name: e.value for name, e in summary.values["categories"].items()})
    return pd.DataFrame(rows)


def arena_table(found: list[Summary]) -> pd.DataFrame:
    """Arena-Hard: the score with the interval over questions and upstream's over rows."""
    counts = ("n_battles", "n_ties", "n_questions")
    table = pd.DataFrame([_row(s, *counts, score="interval", rows="interval_rows") for s in found])
    return table.drop(columns="rows")


def detectable_table(found: dict[str, list[Summary]]) -> pd.DataFrame:
    """Paired differences of each model to the first: the median of what could have been found."""
    rows = []
    for benchmark, summaries in found.items():
        pairs = pd.DataFrame(map(vars, differences(summaries)))
        for statistic, name in (("mean", ""), ("lc", "lc_")):
            column = f"{name}detectable_difference"
            seen = pairs[column].dropna().astype(float) if len(pairs) else pairs
            if len(seen):
                names = {"benchmark": benchmark, "statistic": statistic, "n_pairs": len(seen)}
                spread = {"median": seen.median(), "smallest": seen.min(), "largest": seen.max()}
                rows.append(names | spread)
    return pd.DataFrame(rows)
