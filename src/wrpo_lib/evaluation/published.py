"""What published judgements teach: numbers of real models, kept as ``results/published``.

The judgements are others' and stay outside the project; what is kept here are numbers computed from
them: scores, intervals of both kinds, position and length effects.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from wrpo_lib.analysis.statistics import Estimate, mean_interval
from wrpo_lib.evaluation.alpaca_eval import length_controlled, read_side
from wrpo_lib.evaluation.forms import read_judgements
from wrpo_lib.evaluation.summary import Summary, differences, summarise
from wrpo_lib.io import Row, file_hash
from wrpo_lib.records import write_results

FILES = {
    "alpaca-eval": "eval/alpacaeval2_annotations.csv.gz",
    "mt-bench": "eval/mtbench_gpt4_judgments.jsonl.gz",
    "arena-hard": "eval/arena_hard_v01_battles_gpt-4-0613.jsonl.gz",
}
SIDE = "eval/df_gamed.csv"

COLUMNS = {
    "alpaca-eval": "n_total n_absent avg_length win_rate=interval standard_error lc=lc_interval "
    "lc_standard_error lc_by_position position_effect length_effect",
    "mt-bench": "n_total n_missing n_duplicates first_turn second_turn overall=interval "
    "naive_low naive_high",
    "arena-hard": "n_battles=n_total n_ties n_questions score=interval rows_low rows_high",
}
"""Columns of a table, ``name`` or ``name=value``; an interval becomes three."""


def make_published(folder: Path, replicates: int = 400) -> Path:
    """Compute ``results/published`` from the judgements under ``folder`` (:data:`FILES`)."""
    side = read_side(folder / SIDE)
    judged = {name: read_judgements(name, folder / file) for name, file in FILES.items()}
    options = {"side": side, "replicates": replicates}
    found = {name: summarise(name, rows, **options) for name, rows in judged.items()}
    for summary in found["alpaca-eval"]:
        own = judged["alpaca-eval"][judged["alpaca-eval"]["model"] == summary.model]
        # with the C of the joined fit, so that only the join differs
        moved = length_controlled(own, side, C=summary.values["lc_C"], compat=True)
        summary.values["lc_by_position"] = moved["length_controlled_winrate"]
    tables = {name.replace("-", "_"): table(name, rows) for name, rows in found.items()}
    tables["alpaca_eval2"] = tables.pop("alpaca_eval")
    record = {
        "what": "numbers computed from published judgements of real models",
        "judgements": {file: file_hash(folder / file) for file in FILES.values()},
        "side_file": file_hash(folder / SIDE),
        "replicates": replicates,
        "seed": 0,
    }
    return write_results("published", tables | {"detectable": detectable_table(found)}, record)


def table(benchmark: str, found: list[Summary]) -> pd.DataFrame:
    """A row for each model; MT-Bench with its categories, and the interval also not clustered."""
    rows = []
    for summary in found:
        values = summary.values | mean_interval(summary.rows).spread("naive")
        if benchmark == "arena-hard":
            values |= values["interval_rows"].spread("rows")
        row: Row = {"model": summary.model}
        for column in COLUMNS[benchmark].split():
            name, _, key = column.partition("=")
            value = values[key or name]
            row |= value.spread(name) if isinstance(value, Estimate) else {name: value}
        rows.append(row | {name: e.value for name, e in values.get("categories", {}).items()})
    return pd.DataFrame(rows)


def detectable_table(found: dict[str, list[Summary]]) -> pd.DataFrame:
    """Paired differences of each model to the first: the median of what could have been found."""
    rows = []
    for benchmark, summaries in found.items():
        pairs = pd.DataFrame(differences(summaries))
        for statistic, name in (("mean", ""), ("lc", "lc_")):
            column = f"{name}detectable_difference"
            seen = pairs[column].dropna().astype(float) if column in pairs else pairs
            if len(seen):
                names = {"benchmark": benchmark, "statistic": statistic, "n_pairs": len(seen)}
                spread = {"median": seen.median(), "smallest": seen.min(), "largest": seen.max()}
                rows.append(names | spread)
    return pd.DataFrame(rows)
