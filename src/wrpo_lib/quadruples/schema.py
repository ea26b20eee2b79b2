"""The quadruple schema, its validation, and files of quadruples.

A row has ``prompt_id``, ``prompt`` (messages ending in a user turn, or text that went through a
chat template already), ``source_chosen``, ``target_chosen``, ``rejected`` and optionally
``source_model``, the three rewards and ``split``. Meaning is in the names, never in an order.
Beyond the paper a row may have further source responses, ``source_chosen_2``, ``source_chosen_3``
and so on, and a dispreferred source response, ``source_rejected`` (Table 10); a run uses them only
where its configuration gives them a weight.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from wrpo_lib.chat import prompt_problems
from wrpo_lib.errors import WRPOError
from wrpo_lib.io import read_rows, write_rows

if TYPE_CHECKING:
    from datasets import Dataset

RESPONSES = ("source_chosen", "target_chosen", "rejected")
REWARDS = tuple(f"{name}_reward" for name in RESPONSES)
HINTS = {
    "source_chosen": "the best source response (y_ws)",
    "target_chosen": "the best target response (y_wt)",
    "rejected": "the worst target response (y_l)",
}
SOURCE_FIELD = re.compile(r"source_chosen(_([2-9]|[1-9][0-9]+))?")
"""Names of source responses: the first is ``source_chosen``, the second ``source_chosen_2``."""


class Problem(NamedTuple):
    """One thing wrong: ``row`` counts from 1 (the line, in JSONL)."""

    row: int
    field: str
    what: str

    def sentence(self, where: str) -> str:
        """The problem as one sentence."""
        return f"{where}, row {self.row}, field {self.field!r}: {self.what}"


def optional_responses(names: Iterable[str]) -> tuple[str, ...]:
    """Those of ``names`` that are responses beyond the three, in a fixed order."""
    names = list(names)
    found = [n for n in names if n not in RESPONSES and SOURCE_FIELD.fullmatch(n)]
    found.sort(key=lambda name: int(name.rsplit("_", 1)[1]))
    return (*found, *(n for n in names if n == "source_rejected"))


def row_problems(row: dict[str, Any], number: int) -> Iterator[Problem]:
    """Everything wrong with one row."""
    prompt_id = row.get("prompt_id")
    if not isinstance(prompt_id, str) or not prompt_id.strip():
        yield Problem(number, "prompt_id", "missing or not text; give every row a unique id")
    yield from (Problem(number, "prompt", what) for what in prompt_problems(row.get("prompt")))
    for name in (*RESPONSES, *optional_responses(row)):
        text = row.get(name)
        if text is None:
            yield Problem(number, name, f"missing; add {HINTS.get(name, 'it')} or remove the row")
        elif not isinstance(text, str):
            kind = type(text).__name__
            yield Problem(number, name, f"is a {kind}, not text; give the response's text")
        elif not text.strip():
            yield Problem(number, name, "is empty; sample it again or remove the row")
    for name in REWARDS:
        value = row.get(name)
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int | float):
            yield Problem(number, name, f"is {value!r}, not a number; score the response again")
        elif not math.isfinite(value):
            yield Problem(number, name, f"is {value}; score the response again")


def validate_quadruples(rows: Iterable[dict[str, Any]]) -> Iterator[Problem]:
    """Every problem of ``rows`` in order, repeated ids included."""
    seen: dict[str, int] = {}
    for number, row in enumerate(rows, 1):
        yield from row_problems(row, number)
        prompt_id = row.get("prompt_id")
        if not isinstance(prompt_id, str):
            continue
        if prompt_id in seen:
            yield Problem(number, "prompt_id", f"{prompt_id!r} stands in row {seen[prompt_id]} "
                          "already; make ids unique")  # fmt: skip
        seen.setdefault(prompt_id, number)


def count_warnings(rows: Iterable[dict[str, Any]]) -> dict[str, int]:
    """What is allowed but worth knowing, counted."""
    found = dict.fromkeys(
        ("source_chosen equals target_chosen", "target_chosen equals rejected",
         "source_chosen equals rejected", "target_chosen_reward below rejected_reward",
         "target_chosen_reward equals rejected_reward"), 0)  # fmt: skip
    for row in rows:
        source, target, rejected = (row[name] for name in RESPONSES)
        found["source_chosen equals target_chosen"] += source == target
        found["target_chosen equals rejected"] += target == rejected
        found["source_chosen equals rejected"] += source == rejected
        won, lost = row.get("target_chosen_reward"), row.get("rejected_reward")
        if won is not None and lost is not None:
            found["target_chosen_reward below rejected_reward"] += won < lost
            found["target_chosen_reward equals rejected_reward"] += won == lost
    return found


def read_quadruples(path: str | Path) -> Dataset:
    """Read and validate a file of quadruples; the first problem is raised."""
    from datasets import Dataset

    rows = read_rows(path)
    for problem in validate_quadruples(rows):
        raise WRPOError(problem.sentence(str(path)))
    return Dataset.from_list(rows)


def write_quadruples(rows: Iterable[dict[str, Any]], path: str | Path) -> None:
    """Validate and write quadruples; nothing half-written is ever left at ``path``."""
    path = Path(path)
    rows = [dict(row) for row in rows]
    for problem in validate_quadruples(rows):
        raise WRPOError(problem.sentence("the quadruples to write"))
    write_rows(rows, path)
