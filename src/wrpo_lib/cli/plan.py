"""``wrpo plan``: what a recipe will take, before anything is loaded."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

import typer

from wrpo_lib.cli.train import DATA, MODEL, OPEN, RECIPE


def register(app: typer.Typer) -> None:
    """Add the command of this module to ``app``."""
    app.command(context_settings=OPEN)(plan)


def plan(
    context: typer.Context,
    recipe: RECIPE,
    model: MODEL = "",
    data: DATA = "",
    gpus: Annotated[int, typer.Option(min=1)] = 1,
) -> None:
    """Print memory, tokens, steps and hours of RECIPE; any of its fields follows, as with train."""
    from wrpo_lib.planner import plan_recipe, report
    from wrpo_lib.recipes import find_recipe
    from wrpo_lib.training.inputs import override

    found = override(find_recipe(recipe), context.args)
    found = replace(found, model=model or found.model)
    typer.echo(report(plan_recipe(found, gpus, data)))
