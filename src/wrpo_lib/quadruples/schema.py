"""What is wrong with a row of any kind, and files of quadruples.

A quadruple has ``prompt_id``, ``prompt`` (messages ending in a user turn, or text that went through
a chat template already), ``source_chosen`` (y_ws), ``target_chosen`` (y_wt), ``rejected`` (y_l) and
optionally ``source_model``, the three rewards and ``source_rejected``, a dispreferred source
response (Table 10). Meaning is in the names, never in an order.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, NamedTuple

from wrpo_lib.chat import prompt_problems
from wrpo_lib.errors import WRPOError
from wrpo_lib.io import read_rows, write_rows

if TYPE_CHECKING:
    from datasets import Dataset

RESPONSES = ("source_chosen", "target_chosen", "rejected")
Check = Callable[[Any], Iterator[str]]


class Problem(NamedTuple):
    """One thing wrong: ``row`` counts from 1 (the line, in JSONL)."""

    row: int
    field: str
    what: str

    def sentence(self, where: str) -> str:
        """The problem as one sentence."""
        return f"{where}, row {self.row}, field {self.field!r}: {self.what}"


def _name(value: Any) -> Iterator[str]:
    if not isinstance(value, str) or not value.strip():
        yield "missing or not text; give every row one"


def _text(value: Any) -> Iterator[str]:
    """An empty text is allowed: models do return nothing. Pairing never chooses one."""
    if not isinstance(value, str):
        yield "missing or not text; sample it again or remove the row"


def _response(value: Any) -> Iterator[str]:
    if value is None:
        yield "missing; add the response or remove the row"
    elif not isinstance(value, str):
        yield f"is of type {type(value).__name__}, not text; give the response's text"
    elif not value.strip():
        yield "is empty; sample it again or remove the row"


def _side(value: Any) -> Iterator[str]:
    """A text, or messages that end in the response, as TRL has them."""
    if isinstance(value, list):
        value = value[-1].get("content") if value and isinstance(value[-1], dict) else None
    yield from _response(value)


def _sample(value: Any) -> Iterator[str]:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        yield "missing or no whole number; number the samples of a prompt from 0"


def _reward(value: Any) -> Iterator[str]:
    if value is None:
        yield "missing; score it first (`wrpo score`)"
    elif isinstance(value, bool) or not isinstance(value, int | float):
        yield f"is {value!r}, not a number; score the response again"
    elif not math.isfinite(value):
        yield f"is {value}; score the response again"


RESPONSE_CHECKS: dict[str, Check] = {
    "prompt_id": _name,
    "model": _name,
    "sample": _sample,
    "text": _text,
}
CHECKS: dict[str, dict[str, Check]] = {
    "prompts": {"prompt_id": _name},
    "responses": RESPONSE_CHECKS,
    "rewards": {**RESPONSE_CHECKS, "reward": _reward},
    "quadruples": {
        "prompt_id": _name,
        "prompt": prompt_problems,
        **dict.fromkeys(RESPONSES, _response),
    },
    "pairs": {"prompt": prompt_problems, "chosen": _side, "rejected": _side},
    "sft": {"prompt": prompt_problems, "source_chosen": _response},
}
"""Kind of row -> needed field -> what may be wrong with its value."""
OPTIONAL: dict[str, Check] = {
    "prompt": prompt_problems,
    "reward": _reward,
    "chosen_reward": _reward,
    "source_rejected": _response,
    **{f"{name}_reward": _reward for name in RESPONSES},
}
"""Checks of fields that a row of any kind may have."""


def row_problems(row: dict[str, Any], number: int, kind: str = "quadruples") -> Iterator[Problem]:
    """Everything wrong with one row of a ``kind`` of :data:`CHECKS`, in the order of its fields."""
    needed = CHECKS[kind]
    given = {k: v for k, v in OPTIONAL.items() if k not in needed and row.get(k) is not None}
    for field, check in (*needed.items(), *given.items()):
        yield from (Problem(number, field, what) for what in check(row.get(field)))


def validate_rows(rows: Iterable[dict[str, Any]], kind: str) -> Iterator[Problem]:
    """Every problem of ``rows`` in order, repeated prompt_ids included."""
    seen: dict[str, int] = {}
    for number, row in enumerate(rows, 1):
        yield from row_problems(row, number, kind)
        prompt_id = row.get("prompt_id")
        if isinstance(prompt_id, str) and seen.setdefault(prompt_id, number) != number:
            what = f"{prompt_id!r} stands in row {seen[prompt_id]} already; make ids unique"
            yield Problem(number, "prompt_id", what)


def validate_quadruples(rows: Iterable[dict[str, Any]]) -> Iterator[Problem]:
    """Every problem of ``rows`` in order, repeated prompt_ids included."""
    return validate_rows(rows, "quadruples")


def checked_rows(rows: Iterable[dict[str, Any]], kind: str, where: str) -> list[dict[str, Any]]:
    """All ``rows`` if nothing is wrong with them; the first problem is raised."""
    found = list(rows)
    for problem in validate_rows(found, kind):
        raise WRPOError(problem.sentence(where))
    return found


def read_quadruples(path: str | Path) -> Dataset:
    """Read and validate a file of quadruples; the first problem is raised."""
    from datasets import Dataset

    return Dataset.from_list(checked_rows(read_rows(path), "quadruples", str(path)))


def write_quadruples(rows: Iterable[dict[str, Any]], path: str | Path) -> None:
    """Validate and write quadruples; nothing half-written is ever left at ``path``."""
    write_rows(checked_rows(rows, "quadruples", "the quadruples to write"), path)


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
    return lines + [f"  worth knowing: {what} in {n} rows" for what, n in found.items()]


def count_warnings(rows: Iterable[dict[str, Any]]) -> Counter[str]:
    """What is allowed but worth knowing, counted."""
    found: Counter[str] = Counter()
    pairs = (RESPONSES[:2], RESPONSES[1:], RESPONSES[::2])
    for row in rows:
        found.update(f"{a} equals {b}" for a, b in pairs if row[a] == row[b])
        won, lost = row.get("target_chosen_reward"), row.get("rejected_reward")
        if won is not None and lost is not None and won <= lost:
            how = "equals" if won == lost else "below"
            found[f"target_chosen_reward {how} rejected_reward"] += 1
    return found
