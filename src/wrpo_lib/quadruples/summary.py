"""What a reader of a good file wants to know, in a few lines."""

from __future__ import annotations

from collections import Counter
from statistics import median
from typing import TYPE_CHECKING, Any

from wrpo_lib.quadruples.schema import RESPONSES, count_warnings

if TYPE_CHECKING:
    from wrpo_lib.quadruples.responses import ResponseTable


def sum_up_quadruples(rows: list[dict[str, Any]]) -> list[str]:
    """Fields, winning sources, median lengths, and what is allowed but worth knowing."""
    lines = [f"  fields: {', '.join(rows[0])}"]
    winners = Counter(r["source_model"] for r in rows if r.get("source_model"))
    if winners:
        shares = [f"{name} {n / len(rows):.1%}" for name, n in winners.most_common()]
        lines.append(f"  y_ws from: {', '.join(shares)}")
    sizes = [f"{name} {median(len(r[name]) for r in rows):.0f}" for name in RESPONSES]
    lines.append(f"  median characters: {', '.join(sizes)}")
    found = count_warnings(rows)
    lines += [f"  worth knowing: {what} in {n} rows" for what, n in found.items() if n]
    return lines


def sum_up_responses(table: ResponseTable) -> list[str]:
    """Prompts and, for each model, responses, lengths, rewards, empty and truncated ones."""
    import numpy as np

    lines = [f"  {len(table.prompts)} prompts, {len(table.models)} models"]
    for code, name in enumerate(table.models):
        own = table.model == code
        counts = np.bincount(table.prompt[own], minlength=len(table.prompts))
        some = counts[counts > 0]
        samples = f"{some.min()}" if some.min() == some.max() else f"{some.min()} to {some.max()}"
        line = f"  {name}: {own.sum()} responses ({samples} a prompt), "
        line += f"median {np.median(table.length[own]):.0f} characters"
        rewards = table.reward[own]
        if not np.isnan(rewards).all():
            line += f", mean reward {rewards.mean():.4g} [{rewards.min():.4g}, {rewards.max():.4g}]"
        lines.append(line)
        notes = {
            "empty": (table.length[own] == 0).sum(),
            "ended by the token limit": table.truncated[own].sum(),
            "prompts without a response": (counts == 0).sum(),
        }
        lines += [f"    worth knowing: {n} {what}" for what, n in notes.items() if n]
    return lines
