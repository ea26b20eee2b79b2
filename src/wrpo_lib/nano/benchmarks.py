"""The three benchmarks' protocols on the nano answers, judged by the testbed's judge.

Judging is a pure function of the tracked answers, so the judgements are made again wherever they
are needed instead of being stored.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from wrpo_lib.evaluation import alpaca_eval, arena_hard, mt_bench
from wrpo_lib.evaluation.length_control import length_controlled
from wrpo_lib.nano.judge import Judge, judge_alpaca, judge_arena, judge_mt_bench
from wrpo_lib.nano.tasks import task_from_id
from wrpo_lib.records import read_results, read_run

if TYPE_CHECKING:
    import pandas as pd


def benchmark_rows(
    answers: pd.DataFrame, models: list[str], settings: dict[str, Any]
) -> list[dict[str, Any]]:
    """Scores of ``models`` under the three protocols for one seed's answers.

    ``settings`` is ``evaluation`` of ``recipes/nano/world.yaml``: the baselines and how many
    letters make a prompt hard.
    """
    judge = Judge()
    greedy = answers[answers["decoding"] == "greedy"]
    letters = greedy["prompt_id"].map(lambda i: len(task_from_id(i).letters))
    hard = greedy[letters >= settings["arena_letters"]]
    turns = answers[answers["decoding"] == "two_turn"]
    base, arena_base = settings["baseline"], settings["arena_baseline"]
    rows: list[dict[str, Any]] = []
    for model in models:
        judged = judge_alpaca(greedy[greedy["model"].isin([model, base])], base, judge)
        won = alpaca_eval.win_rate(judged)
        controlled = length_controlled(judged).length_controlled_winrate
        battles = judge_arena(hard[hard["model"].isin([model, arena_base])], arena_base, judge)
        score = arena_hard.summarise(battles)
        graded = mt_bench.summarise(judge_mt_bench(turns[turns["model"] == model], judge))
        for benchmark, value, interval in (
            ("alpaca_eval2", won.win_rate, won.interval),
            ("arena_hard", score.score, score.interval),
            ("mt_bench", graded.overall, graded.interval),
        ):
            row = {"benchmark": benchmark, "model": model, "value": value}
            row |= {"low": interval.low, "high": interval.high}
            row |= {"n": interval.n, "n_questions": interval.n_clusters}
            row["length_controlled"] = controlled if benchmark == "alpaca_eval2" else None
            rows.append(row)
    return rows


def judged_rows(answers: pd.DataFrame, models: list[str], baseline: str) -> pd.DataFrame:
    """Judgements of greedy answers as :mod:`wrpo_lib.evaluation.forms` reads AlpacaEval-2's."""
    greedy = answers[answers["decoding"] == "greedy"]
    judged = judge_alpaca(greedy[greedy["model"].isin([*models, baseline])], baseline, Judge())
    return judged.assign(
        baseline=baseline, judge="nano judge", version="nano", template="", metric="weighted"
    )


def benchmark_table(profile: str, models: list[str]) -> pd.DataFrame:
    """:func:`benchmark_rows` for every seed of the tracked results."""
    import pandas as pd

    run = read_run(profile)
    return pd.DataFrame(
        [
            {"seed": seed, **row}
            for seed in run["seeds"]
            for row in benchmark_rows(
                read_results(profile, f"answers_seed{seed}"), models, run["world"]["evaluation"]
            )
        ]
    )
