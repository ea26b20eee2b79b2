"""What judgements of models say: scores, what is missing, effects, differences.

Judgements of one model by different judges, in different versions or under different templates are
never averaged or subtracted: each combination is a summary of its own.
"""

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from sklearn.metrics import cohen_kappa_score

from wrpo_lib.analysis import statistics
from wrpo_lib.analysis.statistics import Estimate, detectable, mean_interval
from wrpo_lib.errors import WRPOError
from wrpo_lib.evaluation import scores
from wrpo_lib.evaluation.benchmarks import fetch
from wrpo_lib.evaluation.forms import instructions, read_judgements
from wrpo_lib.io import Row, file_hash
from wrpo_lib.records import write_results

SAME = ("judge", "version", "template", "metric", "baseline")
KINDS: dict[str, tuple[int, str, Any]] = {
    "alpaca-eval": (805, "order", scores.win_rate),
    "mt-bench": (80, "turn", scores.mt_bench),
    "arena-hard": (500, "game", scores.arena_hard),
}
"""Questions of the real benchmark, what tells two judgements of one apart, their score."""

PUBLISHED = {
    "alpaca_eval2": "eval/alpacaeval2_annotations.csv.gz",  # numbers, the texts are left out
    "mt_bench": "eval/mtbench_gpt4_judgments.jsonl.gz",
    "arena_hard": "eval/arena_hard_v01_battles_gpt-4-0613.jsonl.gz",
}
SIDE = "eval/df_gamed.csv"
ALPACA = ("gpt-4-1106-preview", "2", "alpaca_eval_clf", "weighted", "gpt4_1106_preview")
"""How AlpacaEval-2's were made, by the names of :data:`SAME`."""


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
    """A summary for each model and judge in ``judgements`` (of :func:`read_judgements`). Options:
    ``side``, ``C``, ``replicates`` (200) of :func:`~wrpo_lib.evaluation.scores.length_controlled`.
    """
    table = judgements
    if benchmark == "mt-bench":  # templates differ by turn and reference, the version names all
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


def summarise_files(benchmark: str, files: list[Path], **options: Any) -> list[Summary]:
    """:func:`summarise` of the judgements in ``files``, with upstream's ``side`` if it is there."""
    tables = [read_judgements(benchmark, path) for path in files]
    models = [model for table in tables for model in table["model"].unique()]
    if twice := {model for model in models if models.count(model) > 1}:
        raise WRPOError(f"{min(twice)!r} is in two of the files; give each model once")
    if benchmark == "alpaca-eval":
        with suppress(WRPOError):  # a note says how to get it
            options["side"] = pd.read_csv(fetch("alpaca_eval_2/df_gamed.csv"))
    return summarise(benchmark, pd.concat(tables, ignore_index=True), **options)


def _summary(
    benchmark: str, model: str, setting: dict[str, str], rows: pd.DataFrame, options: dict[str, Any]
) -> Summary:
    n_questions, key, score = KINDS[benchmark]
    known, values, notes = scores.with_points(rows), score(rows), list[str]()
    if not setting["judge"]:
        notes.append("the rows do not name their judge; no number compares")
    official, battles = setting["version"] in ("2", "v0.1"), setting["metric"] == "battles"
    if benchmark == "mt-bench":
        official = set(rows["question_id"].astype(str)) <= {str(n) for n in range(81, 161)}
    elif battles:  # a row for each unit of weight
        values["n_duplicates"] = 0
    elif benchmark == "alpaca-eval":
        side = options.get("side") if official else None
        if rows[["length_model", "length_baseline"]].isna().any(axis=None):
            notes.append("no length-controlled win rate: some rows have no lengths")
        elif official and side is None:
            notes.append("no length-controlled win rate: run `wrpo assets fetch`")
        else:
            values |= scores.length_controlled(rows, **(options | {"side": side}))
        if not official:
            notes.append("the questions are not AlpacaEval-2's; its leaderboard does not compare")
    # a question has two turns or games; in AlpacaEval-2 two orders if any question has both
    seen = rows.drop_duplicates(["question_id", key])["question_id"].value_counts()
    each = seen.max() if benchmark == "alpaca-eval" else 2
    # battles do not say which game they are of, so there only whole questions are missed
    there = 2 * len(seen) if battles else seen.sum()
    values["n_absent"] = int(n_questions * each - there) if official else None
    points, questions = known["points"].to_numpy(float), known["question_id"].astype(str).tolist()
    values["detectable_difference"] = detectable(mean_interval(points, questions))
    return Summary(model, setting, values | _effects(known), notes, points, questions)


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
        own, slope = rows.assign(x=x).dropna(subset="x"), None
        if len(own) > 2 and x.nunique() > 1:
            slope = statistics.slope_interval(own["points"], own["x"], own["question_id"])
        effects[f"{name}_effect"] = slope
    return effects


def differences(summaries: list[Summary]) -> list[dict[str, Any]]:
    """Every summary minus the first: ``difference``, or the ``reason`` why there is none;
    ``detectable_difference``: what a 5 % test finds in 80 % of runs; of LC where both have one."""
    found, b = [], summaries[0]
    for a in summaries[1:]:
        shared = len(set(a.questions) & set(b.questions))
        row: Row = {"model": a.model, "against": b.model, "n_shared_questions": shared}
        found.append(row)
        if unlike := [name for name in SAME if a.setting[name] != b.setting[name]]:
            own, other = (side.setting[unlike[0]] or "unnamed" for side in (a, b))
            row["reason"] = f"its {unlike[0]} is {own}, not {other}"
            continue
        if shared < 2:
            row["reason"] = f"they share {shared} questions"
            continue
        points, lc = statistics.difference_interval(a.rows, a.questions, b.rows, b.questions), None
        x, y = (side.values.get("lc_interval") for side in (a, b))
        if x and y:  # refits on the same resamples
            low, high = np.quantile(np.subtract(x.drawn, y.drawn), [0.025, 0.975])
            size = x.n + y.n, x.n_clusters, f"paired {x.method}"
            lc = Estimate(x.value - y.value, float(low), float(high), *size)
        row |= {"difference": points, "detectable_difference": detectable(points)}
        row |= {"lc_difference": lc, "lc_detectable_difference": detectable(lc) if lc else None}
    return found


def agreement(*tables: pd.DataFrame) -> dict[str, Any]:
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
        means = scores.with_points(table).groupby(key)["points"].mean()
        found.append(means.round() if "turn" in table else np.sign(means - 50))
    a, b = (side.astype(str) for side in found[0].align(found[1], "inner"))
    if len(a) < 2:
        raise WRPOError(f"the two judges share {len(a)} verdicts; give files that both judged")
    same = (a == b).astype(float).rename("points").reset_index()
    constant = pd.concat([a, b]).nunique() == 1  # which leaves nothing beyond chance
    kappa = None if constant else float(cohen_kappa_score(a, b))
    return {"raw": scores.on_scale(same, 0, 1), "kappa": kappa}


def make_published(folder: Path, replicates: int = 400) -> Path:
    """Compute ``results/published`` from the judgements under ``folder`` (:data:`PUBLISHED`)."""
    alpaca, mt_bench, arena = map(folder.joinpath, PUBLISHED.values())
    rated = summarise("mt-bench", read_judgements("mt-bench", mt_bench))
    battled = summarise("arena-hard", read_judgements("arena-hard", arena))
    names = {"index": "question_id", "len_model": "length_model", "len_baseline": "length_baseline"}
    side, judged = pd.read_csv(folder / SIDE), pd.read_csv(alpaca).rename(columns=names)
    judged["order"] = judged["question_id"].map(dict(instructions().values()))
    judged[list(SAME)] = ALPACA
    models = summarise("alpaca-eval", judged, side=side, replicates=replicates)
    for summary in models:  # with the C of the joined fit, so that only the join differs
        own, c = judged[judged["model"] == summary.model], summary.values["lc_C"]
        moved = scores.length_controlled(own.assign(question_id=range(len(own))), side, C=c)
        summary.values["lc_by_position"] = moved["length_controlled_winrate"]
    groups = dict(zip(PUBLISHED, (models, rated, battled), strict=True))
    tables = {name: pd.DataFrame(map(numbers, group)) for name, group in groups.items()}
    # of the paired differences to the first model, the median of what could have been found
    pairs = [{"benchmark": name, **p} for name, all_ in groups.items() for p in differences(all_)]
    names = {"detectable_difference": "mean", "lc_detectable_difference": "lc"}
    wide = pd.DataFrame(pairs).rename(columns=names)
    seen = wide.melt("benchmark", names.values(), "statistic").dropna()
    kinds = seen.groupby(["benchmark", "statistic"], sort=False)["value"]
    found = kinds.agg(n_pairs="count", median="median", smallest="min", largest="max")
    tables["detectable"] = found.reset_index()
    hashes = {file: file_hash(folder / file) for file in (*PUBLISHED.values(), SIDE)}
    return write_results("published", tables, {"judgements": hashes, "replicates": replicates})


def numbers(summary: Summary) -> Row:
    """A row of a table: all values, intervals as three columns; ``naive`` is not clustered."""
    row: Row = {"model": summary.model}
    for name, value in {**summary.values, "naive": mean_interval(summary.rows)}.items():
        row |= value.spread(name) if isinstance(value, Estimate) else {name: value}
    return row
