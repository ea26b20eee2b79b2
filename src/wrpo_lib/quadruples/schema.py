"""What each kind of row holds, what is wrong with one, and files of quadruples.

A quadruple has ``prompt_id``, ``prompt`` (messages ending in a user turn, or text that went through
a chat template already), ``source_chosen`` (y_ws), ``target_chosen`` (y_wt), ``rejected`` (y_l) and
optionally ``source_model``, the three rewards and ``source_rejected``, a dispreferred source
response (Table 10). Meaning is in the names, never in an order.
"""

from __future__ import annotations

import reprlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import pydantic
from pydantic import AfterValidator, BaseModel, BeforeValidator, Field

from wrpo_lib.chat import prompt_problems
from wrpo_lib.errors import WRPOError
from wrpo_lib.io import Row, read_rows, write_rows

if TYPE_CHECKING:
    from datasets import Dataset

RESPONSES = ("source_chosen", "target_chosen", "rejected")


def _not_blank(text: str) -> str:
    if not text.strip():
        raise ValueError("is empty; correct the row or remove it")
    return text


def _prompt(prompt: Any) -> Any:
    for what in prompt_problems(prompt):
        raise ValueError(what)
    return prompt


def _last_content(side: Any) -> Any:
    """The text of one side of a pair; TRL also has it as messages that end in it."""
    if not isinstance(side, list):
        return side
    return side[-1].get("content") if side and isinstance(side[-1], dict) else None


Text = Annotated[str, AfterValidator(_not_blank)]
Prompt = Annotated[Any, AfterValidator(_prompt)]
Side = Annotated[Text, BeforeValidator(_last_content)]
Sample = Annotated[int, Field(ge=0, description="number a prompt's samples from 0")]
Reward = Annotated[float, Field(allow_inf_nan=False, description="score it (`wrpo score`)")]

RESPONSE = {"prompt_id": Text, "model": Text, "sample": Sample, "text": str}  # text may be empty
NEEDED: dict[str, dict[str, Any]] = {
    "prompts": {"prompt_id": Text},
    "responses": RESPONSE,
    "rewards": {**RESPONSE, "reward": Reward},
    "sft": {"prompt": Prompt, "source_chosen": Text},
    "quadruples": {"prompt_id": Text, "prompt": Prompt, **dict.fromkeys(RESPONSES, Text)},
    "pairs": {"prompt": Prompt, "chosen": Side, "rejected": Side},
    "simpo": {"prompt": str, "all_generated_responses": list[str]},
    "alpaca_eval": {"instruction": str, "output": str},
    "official": {
        "prompt": Any,
        "chosen": Annotated[list[dict[str, Any]], Field(min_length=2, max_length=2)],
        "rejected": Annotated[list[dict[str, Any]], Field(min_length=1, max_length=1)],
    },
}
"""Kind of row -> the fields that it must have."""
OPTIONAL: dict[str, Any] = {
    "prompt": Prompt,
    "finish_reason": str,
    "generator": str,
    "source_rejected": Text,
    "all_rm_scores": list[Reward],
    "reward": Reward,
    **{f"{name}_reward": Reward for name in (*RESPONSES, "chosen")},
}
"""Fields that a row of any kind may have; others are not looked at."""


def _schema(kind: str) -> type[BaseModel]:
    fields: dict[str, Any] = {name: (wanted | None, None) for name, wanted in OPTIONAL.items()}
    fields |= {name: (wanted, ...) for name, wanted in NEEDED[kind].items()}
    return pydantic.create_model(kind, __config__=pydantic.ConfigDict(strict=True), **fields)


SCHEMAS = {kind: _schema(kind) for kind in NEEDED}


class Problem(NamedTuple):
    """One thing wrong with a row; ``row`` counts from 1 (the line, in JSONL)."""

    row: int
    field: str
    what: str

    def sentence(self, where: str) -> str:
        """The problem as one sentence."""
        return f"{where}, row {self.row}, field {self.field!r}: {self.what}"


def problems(schema: type[BaseModel], row: Row, number: int) -> Iterator[Problem]:
    """Everything that any pydantic ``schema`` finds wrong with a row, in the order of its fields.

    The remedy is the field's ``description``; a validator that raises ``ValueError`` says its own.
    """
    try:
        schema.model_validate(dict(row))
    except pydantic.ValidationError as error:
        for found in error.errors():
            known = schema.model_fields.get(str(found["loc"][0])) if found["loc"] else None
            remedy = (known and known.description) or "correct the row or remove it"
            what = f"{reprlib.repr(found['input'])} {found['msg'].removeprefix('Input ')}; {remedy}"
            if found["type"] == "value_error":
                what = str(found["ctx"]["error"])
            elif found["type"] == "missing" or found["input"] is None:
                what = f"missing; {remedy}"
            yield Problem(number, ".".join(map(str, found["loc"])), what)


def row_problems(row: Row, number: int, kind: str = "quadruples") -> Iterator[Problem]:
    """Everything wrong with one row of a ``kind`` of :data:`NEEDED`."""
    return problems(SCHEMAS[kind], row, number)


def require(row: Row, number: int, kind: str, where: str) -> None:
    """Raise the first thing wrong with one row."""
    for problem in row_problems(row, number, kind):
        raise WRPOError(problem.sentence(where))


def validate_quadruples(rows: Iterable[Row], kind: str = "quadruples") -> Iterator[Problem]:
    """Every problem of ``rows`` in order, repeated prompt_ids included."""
    seen: dict[str, int] = {}
    for number, row in enumerate(rows, 1):
        yield from row_problems(row, number, kind)
        prompt_id = row.get("prompt_id")
        if isinstance(prompt_id, str) and seen.setdefault(prompt_id, number) != number:
            what = f"{prompt_id!r} stands in row {seen[prompt_id]} already; make ids unique"
            yield Problem(number, "prompt_id", what)


def checked_rows(rows: Iterable[Row], kind: str, where: str) -> list[Row]:
    """All ``rows`` if nothing is wrong with them; the first problem is raised."""
    found = list(rows)
    for problem in validate_quadruples(found, kind):
        raise WRPOError(problem.sentence(where))
    return found


def read_quadruples(path: str | Path) -> Dataset:
    """Read and validate a file of quadruples; the first problem is raised."""
    from datasets import Dataset

    return Dataset.from_list(checked_rows(read_rows(path), "quadruples", str(path)))


def write_quadruples(rows: Iterable[Row], path: str | Path) -> None:
    """Validate and write quadruples; nothing half-written is ever left at ``path``."""
    write_rows(checked_rows(rows, "quadruples", "the quadruples to write"), path)
