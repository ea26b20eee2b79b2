"""What published judgements teach: numbers of real models, kept as ``results/published``.

The judgements are others' and stay outside the project; what is kept here are numbers computed from
them: scores, intervals of both kinds, position and length effects.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from wrpo_lib.analysis.statistics import Estimate, mean_interval
from wrpo_lib.errors import WRPOError
from wrpo_lib.evaluation.compare import differences
from wrpo_lib.evaluation.judgements import read_judgements
from wrpo_lib.evaluation.length_control import length_controlled, read_side
from wrpo_lib.evaluation.summary import Options, Summary, summarise
from wrpo_lib.io import file_hash
from wrpo_lib.records import write_results

FILES = {
    "alpaca-eval": "eval/alpacaeval2_annotations.csv.gz",
    "mt-bench": "eval/mtbench_gpt4_judgments.jsonl.gz",
    "arena-hard": "eval/arena_hard_v01_battles_gpt-4-0613.jsonl.gz",
}
SIDE = "eval/df_gamed.csv"


def make_published(folder: Path, replicates: int = 400, workers: int = 2) -> Path:
    """Compute ``results/published`` from the judgements under ``folder`` (:data:`FILES`)."""
    paths = {name: folder / file for name, file in FILES.items()}
    for path in [*paths.values(), folder / SIDE]:
        if not path.is_file():
            raise WRPOError(f"{path} does not exist; give the folder that holds {SIDE}")
    options = Options(side=read_side(folder / SIDE), replicates=replicates, workers=workers)
    judged = {name: read_judgements(name, path) for name, path in paths.items()}
    found = {name: summarise(name, rows, options) for name, rows in judged.items()}
    tables = {
        "alpaca_eval2": alpaca_table(found["alpaca-eval"], judged["alpaca-eval"], options),
        "mt_bench": mt_bench_table(found["mt-bench"]),
        "arena_hard": arena_table(found["arena-hard"]),
        "detectable": detectable_table(found),
    }
    record = {
        "what": "numbers computed from published judgements of real models",
        "judgements": {FILES[n]: file_hash(p) for n, p in paths.items()},
        "side_file": file_hash(folder / SIDE),
        "replicates": replicates,
        "seed": options.seed,
    }
    return write_results("published", tables, record)


def _row(summary: Summary, columns: dict[str, str]) -> dict[str, Any]:
    """The values named in ``columns``, each under its column; an interval as three columns."""
    row: dict[str, Any] = {"model": summary.model}
    for name, column in columns.items():
        value = summary.values[name]
        row |= value.spread(column) if isinstance(value, Estimate) else {column: value}
    return row


def alpaca_table(found: list[Summary], judged: pd.DataFrame, options: Options) -> pd.DataFrame:
    """AlpacaEval-2: both win rates with both kinds of errors, LC joined by position, effects."""
    columns = {
        **{n: n for n in ("n_total", "n_absent", "avg_length")},
        "interval": "win_rate",
        "standard_error": "standard_error",
        "lc_interval": "lc",
        "lc_standard_error": "lc_standard_error",
        "lc_by_position": "lc_by_position",
        "position_effect": "position_effect",
        "length_effect": "length_effect",
    }
    rows = []
    for summary in found:
        own = judged[judged["model"] == summary.model]
        # with the C of the joined fit, so that only the join differs
        position = length_controlled(own, options.side, C=summary.values["lc_C"], compat=True)
        by_position = {"lc_by_position": position.length_controlled_winrate}
        rows.append(_row(replace(summary, values=summary.values | by_position), columns))
    return pd.DataFrame(rows)


def mt_bench_table(found: list[Summary]) -> pd.DataFrame:
    """MT-Bench: scores by turn and category, the interval clustered and not."""
    names = ("n_total", "n_missing", "n_duplicates", "first_turn", "second_turn")
    columns = {**{n: n for n in names}, "interval": "overall"}
    rows = []
    for summary in found:
        naive = mean_interval(summary.rows)
        means = {name: e.value for name, e in summary.values["categories"].items()}
        bounds = {"naive_low": naive.low, "naive_high": naive.high}
        rows.append({**_row(summary, columns), **bounds, **means})
    return pd.DataFrame(rows)


def arena_table(found: list[Summary]) -> pd.DataFrame:
    """Arena-Hard: the score with the interval over questions and upstream's over rows."""
    columns = {**{n: n for n in ("n_battles", "n_ties", "n_questions")}, "interval": "score"}
    table = pd.DataFrame([_row(s, {**columns, "interval_rows": "rows"}) for s in found])
    return table.drop(columns="rows")


def detectable_table(found: dict[str, list[Summary]]) -> pd.DataFrame:
    """Paired differences of each model to the first: the median of what could have been found."""
    rows = []
    for benchmark, summaries in found.items():
        pairs = differences(summaries)
        for name in ("detectable_difference", "lc_detectable_difference"):
            seen = pd.Series([getattr(p, name) for p in pairs], dtype=float).dropna()
            if len(seen):
                rows.append(
                    {
                        "benchmark": benchmark,
                        "statistic": "lc" if name.startswith("lc") else "mean",
                        "n_pairs": len(seen),
                        "median": seen.median(),
                        "smallest": seen.min(),
                        "largest": seen.max(),
                    }
                )
    return pd.DataFrame(rows)
