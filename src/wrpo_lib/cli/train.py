"""``wrpo train``, ``wrpo sft`` and ``wrpo plan``: run a recipe, or say what it will take."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from wrpo_lib.errors import WRPOError

if TYPE_CHECKING:
    import pandas as pd

    from wrpo_lib.planner import Plan

OPEN = {"allow_extra_args": True, "ignore_unknown_options": True}  # fields of the recipe
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
    resume: Annotated[bool, typer.Option("--resume", help="from the last checkpoint")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", "--rehearse", help="in small")] = False,
) -> None:
    """Find the recipe, put the command line's values in place, and run it."""
    from wrpo_lib import machine
    from wrpo_lib.recipes import load_recipe, override
    from wrpo_lib.training import run as runs

    found = override(load_recipe(recipe), context.args)
    if (context.info_name == "sft") != (found.stage == "sft"):
        other = "sft" if found.stage == "sft" else "train"
        raise WRPOError(f"{found.where} is of stage {found.stage!r}; run it with `wrpo {other}`")
    given: dict[str, Any] = {"model": model, "data": data, "eval_data": eval_data}
    found = replace(found, **{name: value for name, value in given.items() if value})
    if dry_run:
        runs.dry_run(found, Path(output_dir) if output_dir else None, _say)
        return
    out = Path(output_dir or found.output_dir)
    _say(machine.describe(out))
    machine.check(found, out, int(os.environ.get("WORLD_SIZE", 1)))
    runs.run(found, out, resume=resume, say=_say)


def merge(
    adapter: Annotated[Path, typer.Argument(help="folder that a LoRA run wrote")],
    out: Annotated[Path, typer.Argument(help="folder for the whole model")],
) -> None:
    """Merge a trained ADAPTER into its base model, in bfloat16, and save the whole in OUT."""
    from wrpo_lib import models

    if not models.adapter_config(str(adapter)):
        raise WRPOError(f"{adapter} holds no adapter; give the folder that a LoRA run wrote")
    if out.exists() and any(out.iterdir()):
        raise WRPOError(f"{out} is not empty; choose another folder")
    model = models.load_trainable(str(adapter), dtype="bfloat16")
    model.save_pretrained(out)
    models.load_tokenizer(str(adapter)).save_pretrained(out)
    typer.echo(f"{out}: the whole model, {model.num_parameters():,} parameters in bfloat16")


def plan(
    context: typer.Context,
    recipe: RECIPE,
    model: MODEL = "",
    data: DATA = "",
    gpus: Annotated[int, typer.Option(min=1)] = 1,
) -> None:
    """Print memory, tokens, steps and hours of RECIPE; any of its fields follows, as with train."""
    from wrpo_lib.machine import describe
    from wrpo_lib.planner import plan_recipe
    from wrpo_lib.recipes import load_recipe, override

    found = override(load_recipe(recipe), context.args)
    found = replace(found, model=model or found.model)
    typer.echo(report(plan_recipe(found, gpus, data)))
    typer.echo(f"here: {describe(found.output_dir)}")


def report(plan: Plan) -> str:
    """A plan as text: with prompt sharing, without, at worst; no hours where it does not fit."""
    import pandas as pd

    from wrpo_lib.planner import CARDS, UTILISATION

    p, args = plan.parameters, plan.args
    cases = {"shared": (plan.usual, True), "padded": (plan.usual, False)}
    cases["worst"] = (plan.worst, True)
    table = pd.DataFrame({name: plan.memory(*case) for name, case in cases.items()}) / 2**30
    table.loc["GiB per GPU"] = total = table.sum()
    longest = sum(x + sum(ys) for x, ys in plan.worst) / len(plan.worst)
    counts = pd.Series([plan.tokens(True), plan.tokens(False), longest * plan.n], cases)
    table.loc["million tokens"] = counts / 1e6
    for card, (peak, room) in CARDS.items():
        table.loc[f"hours, {card}"] = plan.hours(counts, peak).where(total < room)
    size = f"{args.per_device_train_batch_size} x {args.gradient_accumulation_steps} x {plan.gpus}"
    return f"""{p.total:,} parameters, {p.trainable:,} trained; reference: {plan.reference}
{plan.steps} steps of {size} examples, {plan.n:,} in all; {plan.disk / 2**30:.1f} GiB on disk
{table.to_string(float_format="{:,.1f}".format, na_rep="no room")}
tokens are those of an epoch; worst legal batch: each response fills max_length {args.max_length}
hours are computed with {UTILISATION:.0%} of a card's peak rate assumed, not measured"""


def overview(recipes: list[str]) -> pd.DataFrame:
    """A row per recipe: memory at worst, space on disk, and hours on every card that holds it."""
    import pandas as pd

    from wrpo_lib.planner import CARDS, plan_recipe
    from wrpo_lib.recipes import load_recipe

    rows = []
    for name in recipes:
        plan = plan_recipe(load_recipe(name))
        need = sum(plan.memory(plan.worst, True).values()) / 2**30
        row = {"recipe": name, "GiB of memory": need, "GiB on disk": plan.disk / 2**30}
        row["steps"] = plan.steps
        for card, (peak, room) in CARDS.items():
            row[card] = plan.hours(plan.tokens(True), peak) if need < room else None
        rows.append(row)
    return pd.DataFrame(rows)


def _say(line: str) -> None:
    """A line on stdout, once however many processes there are."""
    if int(os.environ.get("RANK", 0)) == 0:
        typer.echo(line)
