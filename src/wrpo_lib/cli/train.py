"""``wrpo train`` and ``wrpo sft``: run a recipe, alone or under ``accelerate launch``."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from wrpo_lib.errors import WRPOError

OPEN = {"allow_extra_args": True, "ignore_unknown_options": True}
"""What typer does not know is a field of the recipe."""

COMMANDS = {
    "train": "Train a policy on quadruples by RECIPE.",
    "sft": "Fine-tune the target on the best source responses by RECIPE, the stage before WRPO.",
}
FIELDS = "Any field of the recipe follows: --learning_rate 1e-5, max_length=1024, --lora.r 16."
RECIPE = Annotated[str, typer.Argument(help="PROFILE/NAME such as workstation/wrpo, or a file")]
MODEL = Annotated[str, typer.Option(help="hub id, folder, GGUF file or package:NAME")]
DATA = Annotated[str, typer.Option(help="rows to train on: JSONL or parquet")]


def train(
    context: typer.Context,
    recipe: RECIPE,
    model: MODEL = "",
    data: DATA = "",
    eval_data: Annotated[str, typer.Option("--eval_data", help="rows to evaluate on")] = "",
    output_dir: Annotated[str, typer.Option("--output_dir", help="default: the recipe's")] = "",
    resume: Annotated[bool, typer.Option("--resume", help="go on from a checkpoint")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", "--rehearse", help="in small")] = False,
) -> None:
    """Find the recipe, put the command line's values in place, and run it."""
    from wrpo_lib.recipes import find_recipe
    from wrpo_lib.training import dry_run as small
    from wrpo_lib.training.inputs import override
    from wrpo_lib.training.run import run

    found = override(find_recipe(recipe), context.args)
    if (context.info_name == "sft") != (found.stage == "sft"):
        other = "sft" if found.stage == "sft" else "train"
        raise WRPOError(f"{found.where} is of stage {found.stage!r}; run it with `wrpo {other}`")
    found = replace(
        found,
        model=model or found.model,
        data=data or found.data,
        eval_data=eval_data or found.eval_data,
    )
    folder = Path(output_dir) if output_dir else None
    if dry_run:
        small.dry_run(found, folder, _say)
    else:
        run(found, folder or found.output_dir, resume=resume, say=_say)


def _say(line: str) -> None:
    """A line on stdout, once however many processes there are."""
    if int(os.environ.get("RANK", 0)) == 0:
        typer.echo(line)
