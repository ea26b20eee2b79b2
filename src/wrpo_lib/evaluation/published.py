"""What published judgements teach: numbers of real models, kept as ``results/published``.

The judgements are others' and stay outside the project; what is kept here are numbers computed from
them: scores, intervals of both kinds, position and length effects.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from wrpo_lib.analysis.statistics import Estimate, mean_interval
from wrpo_lib.errors import WRPOError
from wrpo_lib.evaluation.compare import differences
from wrpo_lib.evaluation.judgements import read_judgements
from wrpo_lib.evaluation.length_control import length_controlled, read_side
from wrpo_lib.evaluation.summary import Options, Summary, summarise
from wrpo_lib.io import file_hash
from wrpo_lib.records import write_results

if TYPE_CHECKING:
    import pandas as pd

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
        "alpaca_eval2": _alpaca(found["alpaca-eval"], judged["alpaca-eval"], options),
        "mt_bench": _mt_bench(found["mt-bench"]),
        "arena_hard": _arena(found["arena-hard"]),
        "detectable": _detectable(found),
    }
    record = {
        "what": "numbers computed from published judgements of real models",
        "judgements": {FILES[n]: file_hash(p) for n, p in paths.items()},
        "side_file": file_hash(folder / SIDE),
        "replicates": replicates,
        "seed": options.seed,
    }
    return write_results("published", tables, record)


def _spread(name: str, estimate: Estimate | None) -> dict[str, float | None]:
    """An interval as three columns."""
    if estimate is None:
        return {name: None, f"{name}_low": None, f"{name}_high": None}
    return {name: estimate.value, f"{name}_low": estimate.low, f"{name}_high": estimate.high}


def _alpaca(found: list[Summary], judged: pd.DataFrame, options: Options) -> pd.DataFrame:
    import pandas as pd

    rows: list[dict[str, Any]] = []
    for summary in found:
        values = summary.values
        own = judged[judged["model"] == summary.model]
        # with the C of the joined fit, so that only the join differs
        position = length_controlled(own, options.side, C=values["lc_C"], compat=True)
        rows.append({
            "model": summary.model,
            **{n: values[n] for n in ("n_total", "n_absent", "avg_length")},
            **_spread("win_rate", values["interval"]),
            "standard_error": values["standard_error"],
            **_spread("lc", values["lc_interval"]),
            "lc_standard_error": values["lc_standard_error"],
            "lc_by_position": position.length_controlled_winrate,
            **_spread("position_effect", values["position_effect"]),
            **_spread("length_effect", values["length_effect"]),
        })  # fmt: skip
    return pd.DataFrame(rows)


def _mt_bench(found: list[Summary]) -> pd.DataFrame:
    import pandas as pd

    rows = []
    for summary in found:
        values = summary.values
        naive = mean_interval(summary.rows)
        names = ("n_total", "n_missing", "n_duplicates", "first_turn", "second_turn")
        rows.append({
            "model": summary.model,
            **{n: values[n] for n in names},
            **_spread("overall", values["interval"]),
            "naive_low": naive.low,
            "naive_high": naive.high,
            **{name: e.value for name, e in values["categories"].items()},
        })  # fmt: skip
    return pd.DataFrame(rows)


def _arena(found: list[Summary]) -> pd.DataFrame:
    import pandas as pd

    return pd.DataFrame(
        [
            {
                "model": s.model,
                **{n: s.values[n] for n in ("n_battles", "n_ties", "n_questions")},
                **_spread("score", s.values["interval"]),
                "rows_low": s.values["interval_rows"].low,
                "rows_high": s.values["interval_rows"].high,
            }
            for s in found
        ]
    )


def _detectable(found: dict[str, list[Summary]]) -> pd.DataFrame:
    """Paired differences of each model to the first: the median of what could have been found."""
    import pandas as pd

    rows = []
    for benchmark, summaries in found.items():
        pairs = differences(summaries)
        for name in ("detectable_difference", "lc_detectable_difference"):
            seen = pd.Series([getattr(p, name) for p in pairs], dtype=float).dropna()
            if len(seen):
                rows.append({
                    "benchmark": benchmark,
                    "statistic": name.removesuffix("detectable_difference").strip("_") or "mean",
                    "n_pairs": len(seen),
                    "median": seen.median(),
                    "smallest": seen.min(),
                    "largest": seen.max(),
                })  # fmt: skip
    return pd.DataFrame(rows)
