"""The command line: ``wrpo COMMAND``, one module here for each group of commands.

Bad input is one sentence on stderr and exit status 2. Heavy imports wait until a command needs
them.
"""

import os
import sys
from collections.abc import Callable

import typer

from wrpo_lib.cli import generate, judge, study, train
from wrpo_lib.errors import WRPOError

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
commands += [judge.answer, judge.judge, judge.nano_judge, study.results, study.figures]
commands += [judge.summarise, judge.leaderboard, judge.agreement, judge.published]
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
