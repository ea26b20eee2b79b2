"""What each kind of row holds, and what is wrong with one.

A quadruple has ``prompt_id``, ``prompt`` (messages ending in a user turn, or text, which is one
user turn unless it went through a chat template), ``source_chosen`` (y_ws), ``target_chosen``
(y_wt), ``rejected`` (y_l) and optionally ``source_model``, the three rewards and
``source_rejected``, a dispreferred source response (Table 10). Meaning is in the names.
"""

import reprlib
from collections.abc import Iterable, Iterator
from typing import Annotated, Any, NamedTuple, NotRequired

import pydantic
from pydantic import AfterValidator, BeforeValidator, Field, StringConstraints, TypeAdapter
from typing_extensions import TypedDict

from wrpo_lib.chat import check_prompt, is_rendered
from wrpo_lib.errors import WRPOError
from wrpo_lib.io import Row

RESPONSES = ("source_chosen", "target_chosen", "rejected")


def side_text(side: Any) -> Any:
    """The text of one side of a pair, which TRL also has as a list of one assistant message."""
    one = side[0] if isinstance(side, list) and len(side) == 1 else None
    return one.get("content") if isinstance(one, dict) and one.get("role") == "assistant" else side


Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]
Prompt = Annotated[Any, AfterValidator(check_prompt)]
Side = Annotated[Text, BeforeValidator(side_text)]
Reward = Annotated[float, Field(allow_inf_nan=False)]
OPTIONAL = {f"{name}_reward": NotRequired[Reward | None] for name in (*RESPONSES, "chosen")}
OPTIONAL["prompt_id"] = NotRequired[Text | None]
RESPONSE: dict[str, Any] = {
    "prompt_id": Text,
    "model": Text,
    "sample": Annotated[int, Field(ge=0, lt=2**31)],
    "text": str,  # may be empty
    "prompt": Prompt,
    "finish_reason": NotRequired[str | None],
    "reward_model": NotRequired[str | None],
}
KINDS: dict[str, dict[str, Any]] = {
    "prompts": {"prompt_id": Text, "prompt": Prompt},
    "responses": RESPONSE,
    "rewards": RESPONSE | {"reward": Reward},
    "sft": OPTIONAL | {"prompt": Prompt, "source_chosen": Text},
    "quadruples": OPTIONAL
    | {"prompt_id": Text, "prompt": Prompt, **dict.fromkeys(RESPONSES, Text)}
    | {"source_rejected": NotRequired[Text | None], "source_model": NotRequired[str | None]},
    "pairs": OPTIONAL | {"prompt": Prompt, "chosen": Side, "rejected": Side},
}
"""Kind of row -> its fields; others may hold anything."""
SCHEMAS = {
    kind: TypeAdapter[Any](TypedDict(kind, fields))  # type: ignore[operator]
    for kind, fields in KINDS.items()
}
REMEDIES = {
    "model": "name it (`--model` of `wrpo data import`)",
    "sample": "number a prompt's samples from 0",
    "reward": "score it (`wrpo score`)",
}
IMPORTED = {
    "simpo": "responses",
    "alpaca_eval": "responses",
    "official": "quadruples",
    "conversations": "pairs",
}
"""Published form -> the kind of rows that `wrpo data import` makes of it."""


def kind_of(row: Row) -> str | None:
    """The form of a row by its fields and, of preference data, its roles; None if unknown."""
    fields = set(row)
    if "all_generated_responses" in fields:
        return "simpo"
    if {"instruction", "output"} <= fields:
        return "alpaca_eval"
    if fields & {"source_chosen", "target_chosen"}:
        return "quadruples" if fields & {"target_chosen", "rejected"} else "sft"
    if "chosen" in fields:
        roles = [turn["role"] for turn in as_turns(row["chosen"])]
        if roles == ["assistant"] * 2 and side_text(row.get("rejected")) is not row.get("rejected"):
            return "official"
        whole = side_text(row["chosen"]) is row["chosen"] and roles[-1:] == ["assistant"]
        return "conversations" if whole else "pairs"
    if fields & {"text", "model", "sample"}:
        return "rewards" if "reward" in fields else "responses"
    return "prompts" if {"prompt_id", "prompt"} <= fields else None


def as_turns(side: Any) -> list[Row]:
    """A conversation or a turn of one as messages, from ShareGPT's ``from`` and ``value`` too; text
    is one user turn."""
    found = []
    for turn in side if isinstance(side, list) else [side]:
        turn = turn if isinstance(turn, dict) else {"role": "user", "content": turn}
        role = str(turn.get("role", turn.get("from")))
        role = {"human": "user", "gpt": "assistant"}.get(role, role)
        found.append({"role": role, "content": turn.get("content", turn.get("value"))})
    return found


def as_written(prompt: Any) -> Any:
    """A prompt as our files hold it: messages, or text that went through a chat template."""
    return prompt if is_rendered(prompt) else as_turns(prompt)


class Problem(NamedTuple):
    """One thing wrong with a row; ``row`` counts from 1 (the line, in JSONL)."""

    row: int
    field: str
    what: str

    def sentence(self, where: str) -> str:
        """The problem as one sentence."""
        return f"{where}, row {self.row}, field {self.field!r}: {self.what}"


def validate_quadruples(
    rows: Iterable[Row], kind: str = "quadruples", start: int = 1
) -> Iterator[Problem]:
    """Every problem of ``rows`` of a ``kind`` in order, repeated prompt_ids included.

    ``start`` is the number of the first row.
    """
    seen: dict[str, int] = {}
    for number, row in enumerate(rows, start):
        try:
            SCHEMAS[kind].validate_python(row, strict=True)
        except pydantic.ValidationError as error:
            form = kind_of(row)
            hint = f" (the row looks like the {form} form: `wrpo data import` converts it)"
            for found in error.errors():
                field, what = str(found["loc"][0]), found["msg"].removeprefix("Value error, ")
                if found["type"] not in ("missing", "value_error"):
                    what += f", not {reprlib.repr(found['input'])}"
                if found["type"] != "value_error":
                    what += f"; {REMEDIES.get(field, 'correct the row or remove it')}"
                yield Problem(number, field, what + (hint if form in IMPORTED else ""))
        prompt_id = row.get("prompt_id")
        if isinstance(prompt_id, str) and seen.setdefault(prompt_id, number) != number:
            what = f"{prompt_id!r} repeats row {seen[prompt_id]}; make ids unique"
            yield Problem(number, "prompt_id", what)


def require(rows: Iterable[Row], kind: str, where: str, start: int = 1) -> None:
    """Raise the first thing wrong with ``rows``."""
    for problem in validate_quadruples(rows, kind, start):
        raise WRPOError(problem.sentence(where))


def require_one(row: Row, kind: str, where: str, number: int) -> None:
    """:func:`require` of row ``number``, fast where nothing is wrong with it."""
    if not SCHEMAS[kind].validator.isinstance_python(row, strict=True):
        require([row], kind, where, number)
