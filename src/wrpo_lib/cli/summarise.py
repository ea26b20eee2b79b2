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
    from wrpo_lib.evaluation.summary import Summary

Benchmark = Annotated[str, typer.Argument(help="alpaca-eval, mt-bench or arena-hard")]
Files = Annotated[list[Path], typer.Argument(help="judgements: ours, or upstream's formats")]
Side = Annotated[Path | None, typer.Option(help="df_gamed.csv; default: the asset")]
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


def summarise(
    benchmark: Benchmark,
    files: Files,
    side: Side = None,
    c: Annotated[
        float | None, typer.Option("--C", help="of length control; default: cross-validated")
    ] = None,
    compat: Annotated[bool, typer.Option(help="length control joined by row position")] = False,
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
    from wrpo_lib.analysis.statistics import as_json as plain
    from wrpo_lib.evaluation.compare import differences
    from wrpo_lib.evaluation.style import read_counts

    if style and benchmark != "arena-hard":
        raise WRPOError(f"--style is Arena-Hard's control, not that of {benchmark}; leave it out")
    counts = {k: v for path in style or [] for k, v in read_counts(path).items()}
    options: dict[str, Any] = {"C": c, "compat": compat, "replicates": replicates, "seed": seed}
    options |= {"workers": workers, "style": counts or None}
    found = _summaries(benchmark, files, side, state, options)
    pairs = differences(found)
    if as_json:
        models = [s.as_dict() for s in found]
        _print_json(benchmark=benchmark, models=models, differences=[plain(p) for p in pairs])
        return
    for summary in found:
        typer.echo(_text(summary))
    for pair in pairs:
        typer.echo(_line(pair))


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

    options = {"replicates": replicates, "workers": workers}
    found = _summaries(benchmark, files, side, state, options)
    table, apart = place(found, published(benchmark, board))
    if as_json:
        reasons = [{"model": model, "reasons": why} for model, why in apart]
        rows = json.loads(table.to_json(orient="records"))
        _print_json(benchmark=benchmark, board=rows, apart=reasons)
        return
    own = table.index[table["origin"] == "ours"]
    near = [i for i in table.index if not around or any(abs(i - j) <= around for j in own)]
    if len(own):
        shown = table.loc[near].round(2).fillna("")
        typer.echo(shown.rename(index=lambda i: i + 1).to_string())
    for model, why in apart:
        typer.echo(f"{model} is shown apart: {'; '.join(why)}")
    for summary in found:
        if summary.model in dict(apart):
            typer.echo(_text(summary))


def agreement(
    benchmark: Benchmark,
    first: Annotated[Path, typer.Argument(help="judgements of one judge, or of people")],
    second: Annotated[Path, typer.Argument(help="judgements of another, of the same answers")],
    replicates: Annotated[int, typer.Option(help="bootstrap replicates")] = 1000,
    as_json: Json = False,
) -> None:
    """Agreement of two judges, or of a judge with people: raw, kappa and alpha, with intervals."""
    from wrpo_lib.analysis.statistics import as_json as plain
    from wrpo_lib.evaluation.compare import judges_agree
    from wrpo_lib.evaluation.judgements import read_judgements

    a, b = (read_judgements(benchmark, path) for path in (first, second))
    found = judges_agree(benchmark, a, b, replicates)
    if as_json:
        _print_json(**plain(found))
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


def _summaries(
    benchmark: str,
    files: list[Path],
    side: Path | None,
    state: list[str] | None,
    options: dict[str, Any],
) -> list[Summary]:
    import pandas as pd

    from wrpo_lib.evaluation.judgements import read_judgements
    from wrpo_lib.evaluation.summary import Options
    from wrpo_lib.evaluation.summary import summarise as summarise_rows

    tables = [_state(read_judgements(benchmark, path), state or []) for path in files]
    rows = pd.concat(tables, ignore_index=True)
    models = [model for table in tables for model in table["model"].unique()]
    if twice := {m for m in models if models.count(m) > 1}:
        raise WRPOError(f"{min(twice)!r} stands in two of the files; give each model once")
    if len({"g1_winner" in table for table in tables}) > 1:
        raise WRPOError("single-answer and pairwise judgements cannot be mixed; give one kind")
    return summarise_rows(benchmark, rows, Options(side=_side(benchmark, rows, side), **options))


def _state(table: pd.DataFrame, stated: list[str]) -> pd.DataFrame:
    """Fill in what rows do not name about their setting; what they name stays."""
    from wrpo_lib.evaluation.summary import SAME

    for text in stated:
        name, _, value = text.partition("=")
        if name not in SAME or not value:
            raise WRPOError(f"--state is {text!r}; give one of {', '.join(SAME)} and =VALUE")
        table = table.assign(**{name: table[name].replace("", value)})
    return table


def _side(benchmark: str, rows: pd.DataFrame, given: Path | None) -> pd.DataFrame | None:
    """The side file: the one given, else the asset where the questions are AlpacaEval-2's."""
    from wrpo_lib.evaluation.assets import find, local
    from wrpo_lib.evaluation.length_control import read_side

    if given is None and benchmark == "alpaca-eval" and (rows["version"] == "2").any():
        given = local(find("alpaca_eval_2/df_gamed.csv"))
        if given is None:
            typer.echo(
                "wrpo: the side file of length control is not on this machine; "
                "run `wrpo assets fetch` or give --side for that number",
                err=True,
            )
    return None if given is None else read_side(given)


def _print_json(**report: Any) -> None:
    typer.echo(json.dumps(report, indent=1, ensure_ascii=False))


def _text(summary: Summary) -> str:
    """A summary as lines of text."""
    named = ", ".join(f"{k} {v}" for k, v in summary.setting.items() if v)
    lines = [f"{summary.model}: {named or 'judge not named'}"]
    for name, value in summary.values.items():
        if isinstance(value, dict):
            lines.append(f"  {name}:")
            for part, inner in value.items():
                shown = inner["interval"] or inner["score"] if isinstance(inner, dict) else inner
                lines.append(f"    {part}: {_shown(shown)}")
        elif value is not None:
            lines.append(f"  {name}: {_shown(value)}")
    return "\n".join([*lines, *(f"  note: {note}" for note in summary.notes)])


def _shown(value: Any) -> str:
    """A value for reading: an interval as text, a number short."""
    from wrpo_lib.analysis.statistics import Estimate

    if isinstance(value, Estimate):
        questions = f", {value.n_clusters} questions" if "cluster" in value.method else ""
        return f"{value.text()} (95 %; {value.n} rows{questions})"
    return f"{value:.4f}" if isinstance(value, float) else str(value)


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
