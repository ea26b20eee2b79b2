"""``results/published``: numbers of real models from published judgements, which stay outside."""

from pathlib import Path

import pandas as pd

from wrpo_lib.analysis.statistics import Estimate, mean_interval
from wrpo_lib.evaluation.alpaca_eval import length_controlled
from wrpo_lib.evaluation.forms import read_judgements
from wrpo_lib.evaluation.summary import BOARD_JUDGE, BOARDS, SAME, Summary, differences, summarise
from wrpo_lib.evaluation.upstream import instructions
from wrpo_lib.io import Row, file_hash
from wrpo_lib.records import write_results

FILES = {
    "alpaca_eval2": "eval/alpacaeval2_annotations.csv.gz",  # numbers, the texts are left out
    "mt_bench": "eval/mtbench_gpt4_judgments.jsonl.gz",
    "arena_hard": "eval/arena_hard_v01_battles_gpt-4-0613.jsonl.gz",
}
SIDE = "eval/df_gamed.csv"


def make_published(folder: Path, replicates: int = 400) -> Path:
    """Compute ``results/published`` from the judgements under ``folder`` (:data:`FILES`)."""
    alpaca, mt_bench, arena = map(folder.joinpath, FILES.values())
    rated = summarise("mt-bench", read_judgements("mt-bench", mt_bench))
    battled = summarise("arena-hard", read_judgements("arena-hard", arena))
    names = {"index": "question_id", "len_model": "length_model", "len_baseline": "length_baseline"}
    side, judged = pd.read_csv(folder / SIDE), pd.read_csv(alpaca).rename(columns=names)
    judged["order"] = judged["question_id"].map(dict(instructions().values()))
    judged[list(SAME)] = BOARD_JUDGE, *BOARDS["alpaca-eval"][1:]
    models = summarise("alpaca-eval", judged, side=side, replicates=replicates)
    for summary in models:  # with the C of the joined fit, so that only the join differs
        own, c = judged[judged["model"] == summary.model], summary.values["lc_C"]
        moved = length_controlled(own.assign(question_id=range(len(own))), side, C=c)
        summary.values["lc_by_position"] = moved["length_controlled_winrate"]
    groups = dict(zip(FILES, (models, rated, battled), strict=True))
    tables = {name: pd.DataFrame(map(numbers, group)) for name, group in groups.items()}
    # of the paired differences to the first model, the median of what could have been found
    pairs = [{"benchmark": name, **p} for name, all_ in groups.items() for p in differences(all_)]
    names = {"detectable_difference": "mean", "lc_detectable_difference": "lc"}
    wide = pd.DataFrame(pairs).rename(columns=names)
    seen = wide.melt("benchmark", names.values(), "statistic").dropna()
    kinds = seen.groupby(["benchmark", "statistic"], sort=False)["value"]
    found = kinds.agg(n_pairs="count", median="median", smallest="min", largest="max")
    tables["detectable"] = found.reset_index()
    hashes = {file: file_hash(folder / file) for file in (*FILES.values(), SIDE)}
    return write_results("published", tables, {"judgements": hashes, "replicates": replicates})


def numbers(summary: Summary) -> Row:
    """A row of a table: all values, intervals as three columns; ``naive`` is not clustered."""
    row: Row = {"model": summary.model}
    for name, value in {**summary.values, "naive": mean_interval(summary.rows)}.items():
        row |= value.spread(name) if isinstance(value, Estimate) else {name: value}
    return row
