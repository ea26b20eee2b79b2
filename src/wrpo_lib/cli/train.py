"""``wrpo train`` and ``wrpo sft``: run a recipe, alone or under ``accelerate launch``."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

import typer

from wrpo_lib.errors import WRPOError

OPEN = {"allow_extra_args": True, "ignore_unknown_options": True}
"""What typer does not know is a field of the recipe."""

RECIPE = Annotated[str, typer.Argument(help="PROFILE/NAME such as workstation/wrpo, or a file")]
MODEL = Annotated[str, typer.Option(help="hub id, folder, GGUF file or package:NAME")]
DATA = Annotated[str, typer.Option(help="rows to train on: JSONL or parquet")]
EVAL = Annotated[str, typer.Option("--eval_data", "--eval-data", help="rows to evaluate on")]
OUTPUT = Annotated[str, typer.Option("--output_dir", "--output-dir", help="default: the recipe's")]
RESUME = Annotated[bool, typer.Option("--resume", help="go on from the last whole checkpoint")]
DRY_RUN = Annotated[
    bool, typer.Option("--dry-run", "--rehearse", help="the same on a tiny random model")
]


def register(app: typer.Typer) -> None:
    """Add the commands of this module to ``app``."""
    for command in (train, sft):
        app.command(context_settings=OPEN)(command)


def train(
    context: typer.Context,
    recipe: RECIPE,
    model: MODEL = "",
    data: DATA = "",
    eval_data: EVAL = "",
    output_dir: OUTPUT = "",
    resume: RESUME = False,
    dry_run: DRY_RUN = False,
) -> None:
    """Train a policy on quadruples by RECIPE.

    Any field of the recipe follows: --learning_rate 1e-5, beta=0.05, --lora.r 16.
    """
    named = {"model": model, "data": data, "eval_data": eval_data}
    _run("preference", recipe, context.args, named, output_dir, resume, dry_run)


def sft(
    context: typer.Context,
    recipe: RECIPE,
    model: MODEL = "",
    data: DATA = "",
    eval_data: EVAL = "",
    output_dir: OUTPUT = "",
    resume: RESUME = False,
    dry_run: DRY_RUN = False,
) -> None:
    """Fine-tune the target on the best source responses by RECIPE, the stage before WRPO.

    Any field of the recipe follows: --learning_rate 1e-5, max_length=1024, --lora.r 16.
    """
    named = {"model": model, "data": data, "eval_data": eval_data}
    _run("sft", recipe, context.args, named, output_dir, resume, dry_run)


def _run(
    stage: str,
    text: str,
    words: list[str],
    named: dict[str, str],
    output_dir: str,
    resume: bool,
    dry_run: bool,
) -> None:
    """Find the recipe, put the command line's values in place, and run it."""
    from dataclasses import replace

    from wrpo_lib.recipes import find_recipe

    if text.startswith("-"):
        raise WRPOError(f"{text!r} stands where the recipe belongs; write the recipe first")
    recipe = find_recipe(text)
    if recipe.stage != stage:
        other = "sft" if stage == "preference" else "train"
        raise WRPOError(f"{recipe.where} is of stage {recipe.stage!r}; run it with `wrpo {other}`")
    given: dict[str, Any] = {key: value for key, value in named.items() if value}
    recipe = replace(recipe, **given)
    from wrpo_lib.training.arguments import override

    recipe = override(recipe, words)
    folder = Path(output_dir) if output_dir else None
    if dry_run:
        from wrpo_lib.training.dry_run import dry_run as run_small

        run_small(recipe, folder, _say)
    else:
        from wrpo_lib.training.run import run

        run(recipe, folder or recipe.output_dir, resume=resume, say=_say)


def _say(line: str) -> None:
    """A line on stdout, once however many processes there are."""
    if int(os.environ.get("RANK", 0)) == 0:
        typer.echo(line)
