"""Preference pairs in TRL's conversational format, and SFT rows: what is wrong with them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Any

from wrpo_lib.chat import prompt_problems
from wrpo_lib.quadruples.schema import Problem

SIDES = ("chosen", "rejected")


def validate_pairs(rows: Iterable[dict[str, Any]], kind: str) -> Iterator[Problem]:
    """Every problem of ``rows`` in order; ``kind`` is ``pairs`` or ``sft``."""
    seen: dict[str, int] = {}
    for number, row in enumerate(rows, 1):
        yield from (Problem(number, "prompt", what) for what in prompt_problems(row.get("prompt")))
        said = {"source_chosen": row.get("source_chosen")}
        if kind == "pairs":
            said = {name: _text(row.get(name)) for name in SIDES}
        for name, text in said.items():
            if not isinstance(text, str) or not text.strip():
                yield Problem(number, name, "missing or empty; pair again or remove the row")
            reward = row.get(f"{name}_reward")
            if reward is not None and not (isinstance(reward, float) and math.isfinite(reward)):
                yield Problem(number, f"{name}_reward", f"is {reward!r}; score it again")
        prompt_id = row.get("prompt_id")
        if isinstance(prompt_id, str):
            if prompt_id in seen:
                yield Problem(number, "prompt_id", f"{prompt_id!r} stands in row "
                              f"{seen[prompt_id]} already; make ids unique")  # fmt: skip
            seen.setdefault(prompt_id, number)


def _text(side: Any) -> Any:
    """The text of one side: a text, or messages that end in the response."""
    if isinstance(side, list) and side and isinstance(side[-1], dict):
        return side[-1].get("content")
    return side
