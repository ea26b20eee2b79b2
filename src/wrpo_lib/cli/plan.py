"""``wrpo plan``: what a recipe will take, before anything is loaded."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any

import typer

from wrpo_lib.cli.train import DATA, MODEL, RECIPE

# dense bfloat16 TFLOP/s with float32 sums, from NVIDIA's data sheets
CARDS = {"RTX 4090": 165, "RTX A6000": 155, "L40S": 362, "A100": 312, "H100, H200": 989}


def plan(
    context: typer.Context,
    recipe: RECIPE,
    model: MODEL = "",
    data: DATA = "",
    gpus: Annotated[int, typer.Option(min=1)] = 1,
    utilisation: Annotated[float, typer.Option(min=0.01, max=1, help="of the peak, assumed")] = 0.4,
    prompt_tokens: Annotated[int, typer.Option(min=1, help="mean, without data")] = 200,
    response_tokens: Annotated[int, typer.Option(min=1, help="the same")] = 400,
    examples: Annotated[int, typer.Option(help="number, without data; 0: the paper's")] = 0,
) -> None:
    """Print memory, tokens, steps and hours of RECIPE; any of its fields follows, as with train."""
    from wrpo_lib.planner import plan_recipe
    from wrpo_lib.recipes import find_recipe
    from wrpo_lib.training.inputs import override

    found, means = override(find_recipe(recipe), context.args), (prompt_tokens, response_tokens)
    found = replace(found, model=model or found.model)
    typer.echo(report(plan_recipe(found, gpus, data, means, examples), utilisation))


def report(plan: Any, utilisation: float = 0.4) -> str:
    """A :class:`wrpo_lib.planner.Plan` as text: with prompt sharing, without, and at worst."""
    import pandas as pd

    p, args, usual = plan.parameters, plan.args, plan.batches[len(plan.batches) // 2]
    cases = {"shared": (usual, True), "padded": (usual, False), "worst": (plan.worst, False)}
    table = pd.DataFrame({name: plan.memory(*case) for name, case in cases.items()}) / 2**30
    table.loc["total, GiB per GPU"] = total = table.sum()
    table.loc["million tokens per epoch"] = plan.tokens(True) / 1e6, plan.tokens(False) / 1e6, None
    for card, peak in CARDS.items():
        rate = peak * 1e12 * utilisation * plan.gpus * 3600
        table.loc[f"hours, {card}"] = plan.flops(True) / rate, plan.flops(False) / rate, None
    fits = ", ".join(f"{gb} GB" for gb in (24, 48, 80) if total["worst"] * 2**30 < gb * 1e9)
    size = f"{args.per_device_train_batch_size} x {args.gradient_accumulation_steps} x {plan.gpus}"
    return f"""{p.total:,} parameters, {p.trainable:,} trained; reference: {plan.reference}
{plan.steps} steps of {size} examples, {plan.n:,} in all
{table.to_string(na_rep="", float_format="{:,.2f}".format)}
worst legal batch: each response fills max_length {args.max_length}; fits {fits or "none"}
assumed: {utilisation:.0%} of each card's peak rate"""
