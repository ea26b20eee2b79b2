"""Prompts: read from files, fitted to a chat template, rendered."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from wrpo_lib.chat import as_messages
from wrpo_lib.errors import WRPOError
from wrpo_lib.generation.request import Messages
from wrpo_lib.io import iter_rows


def read_prompts(path: str | Path) -> Iterator[tuple[str, Messages]]:
    """(prompt_id, messages) of every row, one at a time; other fields are ignored.

    ``prompt`` may be messages or text, which is then one user turn; text that went through a chat
    template already is refused, since every model has a template of its own. A repeated id is an
    error, but in a file of responses (which has a ``sample`` field) the prompt may repeat with it.
    """
    seen: dict[str, int] = {}
    for number, row in enumerate(iter_rows(path), 1):
        where = f"{path}, row {number}"
        prompt_id, messages = row.get("prompt_id"), as_messages(row.get("prompt"), where)
        if not isinstance(prompt_id, str) or not prompt_id.strip():
            raise WRPOError(f"{where}, field 'prompt_id': missing or not text; give every row one")
        content = hash(str(messages))
        if prompt_id not in seen:
            seen[prompt_id] = content
            yield prompt_id, messages
        elif "sample" not in row or seen[prompt_id] != content:
            raise WRPOError(
                f"{where}, field 'prompt_id': {prompt_id!r} stands in an earlier row already; "
                "make ids unique"
            )
