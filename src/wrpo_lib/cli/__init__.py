"""The command line: ``wrpo COMMAND``, one module for each group of commands, and here the study's.

Bad input is one sentence on stderr and exit status 2. Heavy imports wait for the command.
"""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from wrpo_lib.cli import generate, judge, train
from wrpo_lib.errors import WRPOError
from wrpo_lib.io import write_atomically


def results(
    profile: Annotated[
        str, typer.Argument(help="nano, development (its settings), or smol (text)")
    ],
    workers: Annotated[int, typer.Option(help="nano: processes, one thread each")] = 2,
    published: Annotated[
        Path | None, typer.Option(help="smol: folder of alpaca_eval's results, <model>.json.gz")
    ] = None,
) -> None:
    """Run every experiment of PROFILE (finished stages are kept) and rewrite its results."""
    if profile not in ("nano", "development", "smol"):
        raise WRPOError(f"unknown profile {profile!r}; choose one of nano, development, smol")
    if (profile == "smol") != (published is not None):
        raise WRPOError("results smol, and no other, needs --published FOLDER, a file per model")
    from wrpo_lib import smol
    from wrpo_lib.figures.tables import figure_map
    from wrpo_lib.nano import runner

    folder = smol.make_results(published) if published else runner.make_results(profile, workers)
    typer.echo(f"wrote {folder}")
    table = figure_map().to_csv(index=False, lineterminator="\n")
    write_atomically(folder.parent / "figure_map.csv", table)


def figures(
    out: Annotated[Path, typer.Option(help="folder for the files")] = Path("_build/figures"),
    only: Annotated[str | None, typer.Option(help="one figure or table: figure_5")] = None,
) -> None:
    """Make every figure (SVG, PDF, PNG) and table (CSV) from the tracked results."""
    from wrpo_lib.figures.tables import draw_all

    for path in draw_all(out, only):
        typer.echo(path)


app = typer.Typer(
    help="Weighted-Reward Preference Optimization: data, training, evaluation, results.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(generate.app, name="data")
app.add_typer(judge.assets, name="assets")
for name, text in train.COMMANDS.items():
    app.command(name, help=f"{text}\n\n{train.FIELDS}", context_settings=train.OPEN)(train.train)
app.command(context_settings=train.OPEN)(train.plan)
commands: list[Callable[..., None]] = [generate.sample, generate.score, generate.pair, train.merge]
commands += [judge.answer, judge.judge, judge.nano_judge, results, figures]
commands += [judge.summarise, judge.agreement, judge.published]
for command in commands:
    app.command()(command)


def main() -> None:
    """Run the command line; a WRPOError is one sentence on stderr and exit status 2."""
    speaks = os.environ.get("LOCAL_RANK", "0") == "0"  # under accelerate, one process of a node
    try:
        app()
    except WRPOError as error:
        if speaks:
            typer.echo(f"wrpo: {error}", err=True)
        sys.exit(2)
    except SystemExit as stop:  # typer turns Ctrl-C into status 130 and drops what it said
        if stop.code == 130 and speaks:
            said = getattr(stop.__context__, "__cause__", None)
            how = str(said or "") or "interrupted; what was finished is kept, run again to go on"
            typer.echo(f"wrpo: {how}", err=True)
        raise
