"""``wrpo train``, ``wrpo sft`` and ``wrpo plan``: run a recipe, or say what it will take."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from wrpo_lib.errors import WRPOError

if TYPE_CHECKING:
    from wrpo_lib.planner import Plan

OPEN = {"allow_extra_args": True, "ignore_unknown_options": True}
"""What typer does not know is a field of the recipe."""

UTILISATION = 0.4  # assumed share of a card's peak
# dense bfloat16 TFLOP/s with float32 sums, from NVIDIA's data sheets
CARDS = {"RTX 4090": 165, "RTX A6000": 155, "L40S": 362, "A100": 312, "H100, H200": 989}

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
    given: dict[str, Any] = {"model": model, "data": data, "eval_data": eval_data}
    found = replace(found, **{name: value for name, value in given.items() if value})
    if dry_run:
        small.dry_run(found, Path(output_dir) if output_dir else None, _say)
    else:
        run(found, Path(output_dir or found.output_dir), resume=resume, say=_say)


def plan(
    context: typer.Context,
    recipe: RECIPE,
    model: MODEL = "",
    data: DATA = "",
    gpus: Annotated[int, typer.Option(min=1)] = 1,
) -> None:
    """Print memory, tokens, steps and hours of RECIPE; any of its fields follows, as with train."""
    from wrpo_lib.planner import plan_recipe
    from wrpo_lib.recipes import find_recipe
    from wrpo_lib.training.inputs import override

    found = override(find_recipe(recipe), context.args)
    found = replace(found, model=model or found.model)
    typer.echo(report(plan_recipe(found, gpus, data)))


def report(plan: Plan) -> str:
    """A plan as text: with prompt sharing, without, and at worst."""
    import pandas as pd

    p, args, usual = plan.parameters, plan.args, plan.batches[len(plan.batches) // 2]
    cases = {"shared": (usual, True), "padded": (usual, False), "worst": (plan.worst, False)}
    table = pd.DataFrame({name: plan.memory(*case) for name, case in cases.items()}) / 2**30
    table.loc["total, GiB per GPU"] = total = table.sum()
    table.loc["million tokens per epoch"] = plan.tokens(True) / 1e6, plan.tokens(False) / 1e6, None
    for card, peak in CARDS.items():
        rate = peak * 1e12 * UTILISATION * plan.gpus * 3600
        table.loc[f"hours, {card}"] = plan.flops(True) / rate, plan.flops(False) / rate, None
    fits = ", ".join(f"{gb} GB" for gb in (24, 48, 80) if total["worst"] * 2**30 < gb * 1e9)
    size = f"{args.per_device_train_batch_size} x {args.gradient_accumulation_steps} x {plan.gpus}"
    return f"""{p.total:,} parameters, {p.trainable:,} trained; reference: {plan.reference}
{plan.steps} steps of {size} examples, {plan.n:,} in all
{table.to_string(na_rep="", float_format="{:,.2f}".format)}
worst legal batch: each response fills max_length {args.max_length}; fits {fits or "none"}
assumed: {UTILISATION:.0%} of each card's peak rate"""


def _say(line: str) -> None:
    """A line on stdout, once however many processes there are."""
    if int(os.environ.get("RANK", 0)) == 0:
        typer.echo(line)
