"""``wrpo summarise``, ``leaderboard``, ``agreement``, ``published``: what judgements say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from wrpo_lib.cli.judge import Benchmark
from wrpo_lib.errors import WRPOError

if TYPE_CHECKING:
    from wrpo_lib.evaluation.summary import Summary

Files = Annotated[list[Path], typer.Argument(help="judgements: ours, or upstream's formats")]
State = Annotated[
    list[str] | None,
    typer.Option(help="what the files do not name: judge=NAME, version=, template=, baseline="),
]
AROUND = 3  # published rows shown above and below a model


def summarise(
    benchmark: Benchmark,
    files: Files,
    c: Annotated[
        float | None, typer.Option("--C", help="of length control; default: cross-validated")
    ] = None,
    replicates: Annotated[int, typer.Option(help="refits behind the LC interval; 0: none")] = 200,
    state: State = None,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON instead of text")] = False,
) -> None:
    """Scores with intervals, what is missing, effects; several models also as paired differences.

    Every model is compared with the first one.
    """
    from wrpo_lib.analysis.statistics import Estimate
    from wrpo_lib.evaluation.summary import differences

    found = _summaries(benchmark, files, state, C=c, replicates=replicates)
    pairs = differences(found)
    if as_json:
        models = [{"model": s.model, **s.setting, **s.values, "notes": s.notes} for s in found]
        report = {"models": models, "differences": pairs}
        typer.echo(json.dumps(report, indent=1, ensure_ascii=False, default=Estimate.shown))
        return
    for summary in found:
        _say(summary)
    for pair in pairs:
        _say_values(f"{pair.pop('model')} minus {pair.pop('against')}:", pair)


def leaderboard(
    benchmark: Benchmark,
    files: Files,
    board: Annotated[Path | None, typer.Option(help="published scores; default: asset")] = None,
    state: State = None,
) -> None:
    """Put models beside published ones where judge, version, template and baseline agree."""
    from wrpo_lib.evaluation.summary import leaderboard

    table, apart = leaderboard(benchmark, _summaries(benchmark, files, state), board)
    own = table["origin"] != "published"
    near = own.rolling(2 * AROUND + 1, center=True, min_periods=1).max() > 0
    if near.any():
        typer.echo(table[near].round(2).rename(index=lambda i: i + 1).to_string())
    for summary, why in apart:
        typer.echo(f"{summary.model} is shown apart: {why}")
        _say(summary)


def agreement(
    benchmark: Benchmark,
    first: Annotated[Path, typer.Argument(help="judgements of one judge")],
    second: Annotated[Path, typer.Argument(help="judgements of another, of the same answers")],
) -> None:
    """Agreement of two judges: raw share and Cohen's kappa."""
    from wrpo_lib.evaluation.forms import read_judgements
    from wrpo_lib.evaluation.summary import agreement

    tables = (read_judgements(benchmark, path) for path in (first, second))
    _say_values("agreement:", agreement(benchmark, *tables))


def published(
    folder: Annotated[Path, typer.Argument(help="holds eval/ with published judgements")],
) -> None:
    """Compute results/published anew: what published judgements of real models teach."""
    from wrpo_lib.evaluation.published import make_published

    typer.echo(f"wrote {make_published(folder)}")


def _summaries(
    benchmark: str, files: list[Path], state: list[str] | None, **options: Any
) -> list[Summary]:
    import pandas as pd

    from wrpo_lib.evaluation.assets import fetch
    from wrpo_lib.evaluation.forms import read_judgements
    from wrpo_lib.evaluation.summary import SAME, summarise

    tables = [read_judgements(benchmark, path) for path in files]
    models = [model for table in tables for model in table["model"].unique()]
    if twice := {model for model in models if models.count(model) > 1}:
        raise WRPOError(f"{min(twice)!r} stands in two of the files; give each model once")
    rows = pd.concat(tables, ignore_index=True)
    for text in state or []:  # what rows name stays
        name, _, value = text.partition("=")
        if name not in SAME or not value:
            raise WRPOError(f"--state is {text!r}; give one of {', '.join(SAME)} and =VALUE")
        rows[name] = rows[name].replace("", value)
    if benchmark == "alpaca-eval":
        try:
            options["side"] = pd.read_csv(fetch("alpaca_eval_2/df_gamed.csv"))
        except WRPOError:
            options["side"] = None  # a note says how to get it
    return summarise(benchmark, rows, **options)


def _say(summary: Summary) -> None:
    named = ", ".join(f"{name} {value}" for name, value in summary.setting.items() if value)
    _say_values(f"{summary.model}: {named or 'judge not named'}", summary.values)
    for note in summary.notes:
        typer.echo(f"  note: {note}")


def _say_values(of: str, values: dict[str, Any]) -> None:
    """A line for each value that is there: an interval as text, a number short."""
    from wrpo_lib.analysis.statistics import Estimate

    typer.echo(of)
    for name, value in values.items():
        if isinstance(value, Estimate):
            value = f"{value.text()} (95 %; {value.n} rows, {value.n_clusters} clusters)"
        if value is not None:
            typer.echo(f"  {name}: {f'{value:.4f}' if isinstance(value, float) else value}")
