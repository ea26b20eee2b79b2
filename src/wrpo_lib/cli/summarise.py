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
Side = Annotated[Path | None, typer.Option(help="df_gamed.csv; default: the asset")]
State = Annotated[
    list[str] | None,
    typer.Option(help="what the files do not name: judge=NAME, version=, template=, baseline="),
]
AROUND = 3  # published rows shown above and below a model


def summarise(
    benchmark: Benchmark,
    files: Files,
    side: Side = None,
    c: Annotated[
        float | None, typer.Option("--C", help="of length control; default: cross-validated")
    ] = None,
    compat: Annotated[bool, typer.Option(help="length control joined by row position")] = False,
    replicates: Annotated[int, typer.Option(help="refits behind the LC interval; 0: none")] = 200,
    state: State = None,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON instead of text")] = False,
) -> None:
    """Scores with intervals, what is missing, effects; several models also as paired differences.

    Every model is compared with the first one.
    """
    from wrpo_lib.analysis.statistics import as_json as plain
    from wrpo_lib.evaluation.summary import differences

    options = {"C": c, "compat": compat, "replicates": replicates}
    found = _summaries(benchmark, files, side, state, **options)
    pairs = differences(found)
    if as_json:
        models = [
            {"model": s.model, **s.setting, **plain(s.values), "notes": s.notes} for s in found
        ]
        report = {"models": models, "differences": [plain(pair) for pair in pairs]}
        typer.echo(json.dumps(report, indent=1, ensure_ascii=False))
        return
    for summary in found:
        typer.echo(_text(summary))
    for pair in pairs:
        typer.echo(f"{pair.model} minus {pair.against}:")
        for name, value in vars(pair).items():
            if value and name not in ("model", "against"):
                typer.echo(f"  {name}: {_shown(value)}")


def leaderboard(
    benchmark: Benchmark,
    files: Files,
    board: Annotated[Path | None, typer.Option(help="published scores; default: asset")] = None,
    side: Side = None,
    state: State = None,
) -> None:
    """Put models beside published ones where judge, version, template and baseline agree."""
    from wrpo_lib.evaluation.leaderboard import place, published

    rows = published(benchmark, board)
    table, apart = place(benchmark, _summaries(benchmark, files, side, state), rows)
    own = table.index[table["origin"] == "ours"]
    near = [i for i in table.index if any(abs(i - j) <= AROUND for j in own)]
    if near:
        typer.echo(table.loc[near].round(2).rename(index=lambda i: i + 1).to_string())
    for summary, why in apart:
        typer.echo(f"{summary.model} is shown apart: {'; '.join(why)}")
        typer.echo(_text(summary))


def agreement(
    benchmark: Benchmark,
    first: Annotated[Path, typer.Argument(help="judgements of one judge")],
    second: Annotated[Path, typer.Argument(help="judgements of another, of the same answers")],
) -> None:
    """Agreement of two judges: raw share and Cohen's kappa, with intervals."""
    from wrpo_lib.evaluation.forms import read_judgements
    from wrpo_lib.evaluation.summary import judges_agree

    found = judges_agree(benchmark, *(read_judgements(benchmark, path) for path in (first, second)))
    for name, value in vars(found).items():
        typer.echo(f"{name}: {_shown(value)}")


def published(
    folder: Annotated[Path, typer.Argument(help="holds eval/ with published judgements")],
) -> None:
    """Compute results/published anew: what published judgements of real models teach."""
    from wrpo_lib.evaluation.published import make_published

    typer.echo(f"wrote {make_published(folder)}")


def _summaries(
    benchmark: str, files: list[Path], side: Path | None, state: list[str] | None, **options: Any
) -> list[Summary]:
    import pandas as pd

    from wrpo_lib.evaluation.assets import local
    from wrpo_lib.evaluation.forms import read_judgements
    from wrpo_lib.evaluation.length_control import read_side
    from wrpo_lib.evaluation.summary import SAME
    from wrpo_lib.evaluation.summary import summarise as summarise_rows

    tables = [read_judgements(benchmark, path) for path in files]
    models = [model for table in tables for model in table["model"].unique()]
    if twice := {m for m in models if models.count(m) > 1}:
        raise WRPOError(f"{min(twice)!r} stands in two of the files; give each model once")
    rows = pd.concat(tables, ignore_index=True)
    for text in state or []:  # what rows name stays
        name, _, value = text.partition("=")
        if name not in SAME or not value:
            raise WRPOError(f"--state is {text!r}; give one of {', '.join(SAME)} and =VALUE")
        rows[name] = rows[name].replace("", value)
    if benchmark == "alpaca-eval" and side is None:
        side = local("alpaca_eval_2/df_gamed.csv")
    return summarise_rows(benchmark, rows, side=side and read_side(side), **options)


def _text(summary: Summary) -> str:
    """A summary as lines of text."""
    named = ", ".join(f"{k} {v}" for k, v in summary.setting.items() if v)
    lines = [f"{summary.model}: {named or 'judge not named'}"]
    values = {**summary.values, **summary.values.get("categories", {}), "categories": None}
    lines += [f"  {name}: {_shown(value)}" for name, value in values.items() if value is not None]
    return "\n".join([*lines, *(f"  note: {note}" for note in summary.notes)])


def _shown(value: Any) -> str:
    """A value for reading: an interval as text, a number short."""
    from wrpo_lib.analysis.statistics import Estimate

    if isinstance(value, Estimate):
        return f"{value.text()} (95 %; {value.n} rows, {value.n_clusters} clusters)"
    return f"{value:.4f}" if isinstance(value, float) else str(value)
