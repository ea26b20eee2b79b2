"""Prompts: read from files, and split into the SFT third and the rest (paper section 4.1)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from wrpo_lib.chat import Messages, as_messages
from wrpo_lib.errors import WRPOError
from wrpo_lib.io import iter_rows, parse_row
from wrpo_lib.quadruples.schema import require


def read_prompts(path: str | Path) -> Iterator[tuple[str, Messages]]:
    """(prompt_id, messages) of every row, one at a time; other fields are ignored.

    ``prompt`` may be messages or text, which is then one user turn; text that went through a chat
    template already is refused, since every model has a template of its own. A repeated id is an
    error, but in a file of responses (which has a ``sample`` field) the prompt may repeat with it.
    """
    seen: dict[str, Messages] = {}
    for number, row in enumerate(iter_rows(path), 1):
        require(row, number, "prompt_ids", str(path))
        messages = as_messages(row.get("prompt"), f"{path}, row {number}")
        first = seen.setdefault(row["prompt_id"], messages)
        if first is messages:
            yield row["prompt_id"], messages
        elif "sample" not in row or first != messages:
            what = f"{row['prompt_id']!r} stands in an earlier row already; make ids unique"
            raise WRPOError(f"{path}, row {number}, field 'prompt_id': {what}")


@dataclass(frozen=True)
class Split:
    """Which prompts serve SFT and which preference optimisation, and how that was drawn."""

    seed: int
    share: float
    sft: list[str]
    preference: list[str]


def make_split(prompt_ids: Iterable[str], seed: int, share: float = 1 / 3) -> Split:
    """A random ``share`` for SFT and the rest for preference optimisation.

    The draw depends on the set of ids and the seed alone, never on the order of a file; both parts
    come in the order drawn. The paper states the third, not its seed.
    """
    if not 0 <= share <= 1:
        raise WRPOError(f"the share for SFT is {share}; give one from 0 to 1")
    ids = sorted(set(prompt_ids))
    drawn = [ids[i] for i in np.random.default_rng(seed).permutation(len(ids))]
    cut = round(len(ids) * share)
    return Split(seed, share, drawn[:cut], drawn[cut:])


def read_split(path: Path) -> Split:
    """A recorded split; a file that is none is named."""
    try:
        return Split(**parse_row(path.read_bytes(), str(path)))
    except (OSError, TypeError) as error:
        raise WRPOError(f"{path} is no recorded split ({error}); draw one") from error
