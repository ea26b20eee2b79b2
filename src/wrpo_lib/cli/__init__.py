"""The command line: ``wrpo COMMAND``, one module here for each group of commands.

Bad input is one sentence on stderr and exit status 2. Heavy imports wait until a command needs
them.
"""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from wrpo_lib import __version__
from wrpo_lib.cli import (
    answer,
    assets,
    data,
    generate,
    judge,
    pair,
    score,
    study,
    summarise,
)
from wrpo_lib.errors import WRPOError

app = typer.Typer(
    help="Weighted-Reward Preference Optimization: data, results, figures.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def _version(value: bool) -> None:
    if value:
        typer.echo(f"wrpo {__version__}")
        raise typer.Exit


@app.callback()
def _top(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True)] = False,
) -> None:
    """Weighted-Reward Preference Optimization: data, results, figures."""


app.add_typer(data.app, name="data")
app.add_typer(assets.app, name="assets")
answer.register(app)
judge.register(app)
generate.register(app)
score.register(app)
pair.register(app)
study.register(app)
summarise.register(app)


def main() -> None:
    """Run the command line; a WRPOError is one sentence on stderr and exit status 2."""
    try:
        app()
    except WRPOError as error:
        typer.echo(f"wrpo: {error}", err=True)
        sys.exit(2)
    except KeyboardInterrupt:
        typer.echo("wrpo: interrupted; what was finished is kept, run again to go on", err=True)
        sys.exit(130)
