"""``wrpo plan``: what a recipe will take, before anything is loaded."""

from __future__ import annotations

from typing import Annotated

import typer

from wrpo_lib.cli.train import OPEN


def register(app: typer.Typer) -> None:
    """Add the command of this module to ``app``."""
    app.command(context_settings=OPEN)(plan)


def plan(
    context: typer.Context,
    recipe: Annotated[str, typer.Argument(help="PROFILE/NAME or a YAML file")],
    gpus: Annotated[int, typer.Option(help="number of GPUs; 0 for a CPU")] = 1,
    memory: Annotated[float, typer.Option(help="GiB of each")] = 80.0,
    peak: Annotated[float, typer.Option(help="TFLOP/s of each at most")] = 312.0,
    utilisation: Annotated[float, typer.Option(help="share of the peak assumed")] = 0.4,
    price: Annotated[float | None, typer.Option(help="of an hour of one GPU")] = None,
    model: Annotated[str, typer.Option(help="a hub id or a folder, instead of the recipe's")] = "",
    data: Annotated[str, typer.Option(help="quadruples, instead of the recipe's")] = "",
    sharding: Annotated[str, typer.Option(help="none, zero3, fsdp2; default: its launch")] = "",
    prompt_tokens: Annotated[int, typer.Option(help="mean, where there are no data")] = 200,
    response_tokens: Annotated[int, typer.Option(help="mean, where there are no data")] = 400,
    examples: Annotated[int | None, typer.Option(help="number, instead of the data's")] = None,
) -> None:
    """Print memory, tokens, time and price of RECIPE with and without prompt sharing.

    Any field of the recipe follows, as with train: --per_device_train_batch_size 1, --lora.r 16.
    """
    from wrpo_lib.planner import Machine, plan_recipe, report
    from wrpo_lib.recipes import find_recipe
    from wrpo_lib.training.arguments import override
    from wrpo_lib.training.inputs import known_warnings

    with known_warnings():
        found = plan_recipe(
            override(find_recipe(recipe), context.args),
            Machine(gpus, memory, peak, utilisation, price),
            model=model or None,
            data=data or None,
            sharding=sharding or None,
            prompt_tokens=prompt_tokens,
            response_tokens=response_tokens,
            n_examples=examples,
        )
    typer.echo(report(found))
    if not found.fits:
        typer.echo(
            f"wrpo: this will not fit: {found.chosen.total_memory / 2**30:.1f} GiB are needed and "
            f"{memory:g} are there; turn activation_checkpointing on, lower "
            "per_device_train_batch_size, precompute the reference, use LoRA or shard over more "
            "GPUs",
            err=True,
        )
