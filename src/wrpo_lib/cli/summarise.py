"""``wrpo summarise``, ``wrpo leaderboard``, ``wrpo agreement``: what judgements say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from wrpo_lib.errors import WRPOError

if TYPE_CHECKING:
    import pandas as pd

    from wrpo_lib.evaluation.compare import Difference
    from wrpo_lib.evaluation.summary import Options, Summary

Benchmark = Annotated[str, typer.Argument(help="alpaca-eval, mt-bench or arena-hard")]
Files = Annotated[list[Path], typer.Argument(help="judgements: ours, or upstream's formats")]
Side = Annotated[Path | None, typer.Option(help="df_gamed.csv; default: the asset")]
C = Annotated[float | None, typer.Option("--C", help="of length control; default: cross-validated")]
Compat = Annotated[bool, typer.Option(help="length control joined by row position, as upstream")]
Replicates = Annotated[int, typer.Option(help="refits behind the LC interval; 0: none")]
Workers = Annotated[int, typer.Option(help="processes, one thread each")]
State = Annotated[
    list[str] | None,
    typer.Option(help="what the files do not name: judge=NAME, version=, template="),
]
Json = Annotated[bool, typer.Option("--json", help="print JSON instead of a table")]


def register(app: typer.Typer) -> None:
    """Add the commands of this module to ``app``."""
    for command in (summarise, leaderboard, agreement, published):
        app.command()(command)


def _side(benchmark: str, tables: list[pd.DataFrame], given: Path | None) -> pd.DataFrame | None:
    """The side file: the one given, else the asset where the questions are AlpacaEval-2's."""
    from wrpo_lib.evaluation.assets import find, local
    from wrpo_lib.evaluation.length_control import read_side

    if given is not None:
        return read_side(given)
    if benchmark != "alpaca-eval" or not any((t["version"] == "2").any() for t in tables):
        return None
    path = local(find("alpaca_eval_2/df_gamed.csv"))
    if path is None:
        typer.echo(
            "wrpo: the side file of length control is not on this machine; "
            "run `wrpo assets fetch` or give --side for that number",
            err=True,
        )
        return None
    return read_side(path)


def _state(table: pd.DataFrame, stated: list[str]) -> pd.DataFrame:
    """Fill in what rows do not name about their setting; what they name stays."""
    from wrpo_lib.evaluation.summary import SAME

    for text in stated:
        name, _, value = text.partition("=")
        if name not in SAME or not value:
            raise WRPOError(f"--state is {text!r}; give one of {', '.join(SAME)} and =VALUE")
        table = table.assign(**{name: table[name].replace("", value)})
    return table


def _summaries(
    benchmark: str, files: list[Path], side: Path | None, options: Options, stated: list[str] | None
) -> list[Summary]:
    from dataclasses import replace

    import pandas as pd

    from wrpo_lib.evaluation.judgements import read_judgements
    from wrpo_lib.evaluation.summary import summarise as summarise_rows

    tables = [_state(read_judgements(benchmark, path), stated or []) for path in files]
    names: dict[str, Path] = {}
    for path, table in zip(files, tables, strict=True):
        for model in table["model"].unique():
            if names.setdefault(model, path) != path:
                raise WRPOError(
                    f"{model!r} stands in {names[model]} and in {path}; give each model once"
                )
    if len({"g1_winner" in table for table in tables}) > 1:
        raise WRPOError("single-answer and pairwise judgements cannot be mixed; give one kind")
    options = replace(options, side=_side(benchmark, tables, side))
    return summarise_rows(benchmark, pd.concat(tables, ignore_index=True), options)


def summarise(
    benchmark: Benchmark,
    files: Files,
    side: Side = None,
    c: C = None,
    compat: Compat = False,
    replicates: Replicates = 200,
    seed: Annotated[int, typer.Option(help="of the resampling")] = 0,
    workers: Workers = 2,
    state: State = None,
    style: Annotated[
        list[Path] | None, typer.Option(help="arena-hard: answers of models and baselines")
    ] = None,
    as_json: Json = False,
) -> None:
    """Scores with intervals, what is missing, effects; several models also as paired differences.

    Every model is compared with the first one.
    """
    from wrpo_lib.evaluation.compare import differences
    from wrpo_lib.evaluation.style import read_counts
    from wrpo_lib.evaluation.summary import Options

    if style and benchmark != "arena-hard":
        raise WRPOError(f"--style is Arena-Hard's control, not that of {benchmark}; leave it out")
    counts = {k: v for path in style or [] for k, v in read_counts(path).items()}
    options = Options(None, c, compat, replicates, seed, workers, counts or None)
    found = _summaries(benchmark, files, side, options, state)
    pairs = differences(found)
    if as_json:
        report = {
            "benchmark": benchmark,
            "models": [s.as_dict() for s in found],
            "differences": [p.as_dict() for p in pairs],
        }
        typer.echo(json.dumps(report, indent=1, ensure_ascii=False))
        return
    for summary in found:
        typer.echo("\n".join(_lines(summary)))
    for pair in pairs:
        typer.echo(_line(pair))


def _shown(value: Any) -> str:
    """A value for reading: an interval as text, a number short."""
    from wrpo_lib.analysis.statistics import Estimate

    if isinstance(value, Estimate):
        questions = f", {value.n_clusters} questions" if "cluster" in value.method else ""
        return f"{value.text()} (95 %; {value.n} rows{questions})"
    return f"{value:.4f}" if isinstance(value, float) else str(value)


def _lines(summary: Summary) -> list[str]:
    named = ", ".join(f"{k} {v}" for k, v in summary.setting.items() if v)
    lines = [f"{summary.model}: {named or 'judge not named'}"]
    for name, value in summary.values.items():
        if value is None:
            continue
        if isinstance(value, dict):
            lines.append(f"  {name}:")
            for part, inner in value.items():
                shown = inner["interval"] or inner["score"] if isinstance(inner, dict) else inner
                lines.append(f"    {part}: {_shown(shown)}")
        else:
            lines.append(f"  {name}: {_shown(value)}")
    return [*lines, *(f"  note: {note}" for note in summary.notes)]


def _line(pair: Difference) -> str:
    head = f"{pair.model} minus {pair.against}: "
    if pair.difference is None:
        return f"{head}not compared, {pair.reason}"
    text = f"{head}{_shown(pair.difference)}"
    if pair.detectable_difference is not None:
        text += f", detectable {pair.detectable_difference:.2f}"
    if pair.lc_difference is not None:
        text += f"; length-controlled {pair.lc_difference.text()}"
    return text


def leaderboard(
    benchmark: Benchmark,
    files: Files,
    board: Annotated[Path | None, typer.Option(help="published scores; default: asset")] = None,
    side: Side = None,
    replicates: Replicates = 200,
    workers: Workers = 2,
    state: State = None,
    around: Annotated[int, typer.Option(help="published rows above and below; 0: all")] = 3,
    as_json: Json = False,
) -> None:
    """Put models beside published ones where judge, version, template and baseline agree."""
    from wrpo_lib.evaluation.leaderboard import place, published
    from wrpo_lib.evaluation.summary import Options

    options = Options(replicates=replicates, workers=workers)
    found = _summaries(benchmark, files, side, options, state)
    table, apart = place(found, published(benchmark, board))
    if as_json:
        report = {
            "benchmark": benchmark,
            "board": json.loads(table.to_json(orient="records")),
            "apart": [{"model": model, "reasons": why} for model, why in apart],
        }
        typer.echo(json.dumps(report, indent=1, ensure_ascii=False))
        return
    own = table.index[table["origin"] == "ours"]
    near = [i for i in table.index if not around or any(abs(i - j) <= around for j in own)]
    if len(own):
        shown = table.loc[near].round(2).fillna("")
        typer.echo(shown.rename(index=lambda i: i + 1).to_string())
    for model, why in apart:
        typer.echo(f"{model} is shown apart: {'; '.join(why)}")
    for summary in found:
        if summary.model in {model for model, _ in apart}:
            typer.echo("\n".join(_lines(summary)))


def agreement(
    benchmark: Benchmark,
    first: Annotated[Path, typer.Argument(help="judgements of one judge, or of people")],
    second: Annotated[Path, typer.Argument(help="judgements of another, of the same answers")],
    replicates: Annotated[int, typer.Option(help="bootstrap replicates")] = 1000,
    as_json: Json = False,
) -> None:
    """Agreement of two judges, or of a judge with people: raw, kappa and alpha, with intervals."""
    from wrpo_lib.evaluation.compare import judges_agree
    from wrpo_lib.evaluation.judgements import read_judgements

    a, b = (read_judgements(benchmark, path) for path in (first, second))
    found = judges_agree(benchmark, a, b, replicates)
    if as_json:
        typer.echo(json.dumps(found.as_dict(), indent=1))
        return
    typer.echo(f"{found.n} verdicts of both, {found.n_missing} of one alone, {found.n_tied} tied")
    for name in ("raw", "without_ties", "kappa", "alpha"):
        if (estimate := getattr(found, name)) is not None:
            typer.echo(f"  {name}: {estimate.text(3)}")


def published(
    folder: Annotated[Path, typer.Argument(help="holds eval/ with published judgements")],
    replicates: Annotated[int, typer.Option(help="refits behind each LC interval")] = 400,
    workers: Workers = 2,
) -> None:
    """Compute results/published anew: what published judgements of real models teach."""
    from wrpo_lib.evaluation.published import make_published

    typer.echo(f"wrote {make_published(folder, replicates, workers)}")
