"""What a recipe will take, before anything is loaded: memory, tokens, time, money.

Memory and tokens come from the model's real code run on shapes (:mod:`wrpo_lib.planner.footprint`)
and from the lengths of the data; both are tested against measured runs. Time is arithmetic divided
by an assumed utilisation, which the report states: nothing here predicts a machine.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from wrpo_lib.planner.cost import GIB, Cost, Machine, Plan, implied_utilisation, plan
from wrpo_lib.planner.lengths import Example, assumed_lengths, data_lengths, in_blocks
from wrpo_lib.planner.report import report
from wrpo_lib.planner.run import Run, model_config, model_name, read_run

if TYPE_CHECKING:
    from wrpo_lib.recipes import Recipe

__all__ = ["GIB", "Cost", "Example", "Machine", "Plan", "Run", "assumed_lengths", "data_lengths",
           "implied_utilisation", "model_config", "plan", "plan_recipe", "read_run",
           "report"]  # fmt: skip

PAPER_EXAMPLES = {"sft": 19_958, "preference": 39_918}
"""A third and two thirds of UltraFeedback's 59,876 prompts, as in the paper's section 4.1."""
SAMPLE = 2_000
"""Rows of a data file that are rendered to learn its lengths."""


def plan_recipe(
    recipe: Recipe,
    machine: Machine,
    *,
    model: str | None = None,
    data: str | None = None,
    sharding: str | None = None,
    prompt_tokens: int = 200,
    response_tokens: int = 400,
    n_examples: int | None = None,
) -> Plan:
    """Plan a recipe's run; ``model``, ``data`` and ``sharding`` replace what it names.

    Lengths come from the data file where there is one, otherwise ``prompt_tokens`` and
    ``response_tokens`` are the means assumed.

    :raises WRPOError: for a model without a known shape, bad data, numbers without a meaning.
    """
    name = model or model_name(recipe)
    config = model_config(name)
    run = read_run(recipe, config, sharding)
    path = Path(data or recipe.data or "")
    if data or path.is_file():
        lengths, count, notes = _measured(path, run, name)
    else:
        count = PAPER_EXAMPLES[recipe.stage]
        lengths = assumed_lengths(len(run.responses), prompt_tokens, response_tokens, run.limits[0])
        notes = (
            f"prompts of {prompt_tokens}, responses of {response_tokens} tokens on average "
            "(no data file)",
        )
    if n_examples is None and not path.is_file():
        notes += (f"{count:,} examples, the paper's number",)
    count = n_examples or count
    if run.block:
        lengths, count = in_blocks(lengths, count, run.block)
    return plan(run, machine, lengths, count, notes)


def _measured(path: Path, run: Run, model: str) -> tuple[list[Example], int, tuple[str, ...]]:
    """Lengths of a file's rows, their number, and what was assumed."""
    from wrpo_lib.io import read_rows

    rows = read_rows(path)
    step = -(-len(rows) // SAMPLE)
    tokenizer, notes = _tokenizer(model)
    lengths = data_lengths(rows[::step], run.responses, tokenizer, *run.limits)
    if step > 1:
        notes += (f"lengths are those of every {step}th row of {path}",)
    return lengths, len(rows), notes


def _tokenizer(model: str) -> tuple[Any, tuple[str, ...]]:
    """The model's tokenizer, or None where it cannot be had."""
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(model), ()
    except (OSError, ValueError):
        return None, (f"four characters a token, the tokenizer of {model} is not at hand",)
