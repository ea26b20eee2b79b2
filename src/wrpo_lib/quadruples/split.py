"""Prompts: read from files, and split into the SFT third and the rest (paper section 4.1)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from wrpo_lib.chat import Messages, as_messages
from wrpo_lib.errors import WRPOError
from wrpo_lib.io import iter_rows, parse_row, write_json
from wrpo_lib.quadruples.schema import row_problems

SHARE = 1 / 3


def read_prompts(path: str | Path) -> Iterator[tuple[str, Messages]]:
    """(prompt_id, messages) of every row, one at a time; other fields are ignored.

    ``prompt`` may be messages or text, which is then one user turn; text that went through a chat
    template already is refused, since every model has a template of its own. A repeated id is an
    error, but in a file of responses (which has a ``sample`` field) the prompt may repeat with it.
    """
    seen: dict[str, int] = {}
    for number, row in enumerate(iter_rows(path), 1):
        where = f"{path}, row {number}"
        messages = as_messages(row.get("prompt"), where)
        for problem in row_problems(row, number, "prompts"):
            raise WRPOError(problem.sentence(str(path)))
        prompt_id, content = row["prompt_id"], hash(str(messages))
        if prompt_id not in seen:
            seen[prompt_id] = content
            yield prompt_id, messages
        elif "sample" not in row or seen[prompt_id] != content:
            raise WRPOError(
                f"{where}, field 'prompt_id': {prompt_id!r} stands in an earlier row already; "
                "make ids unique"
            )


@dataclass(frozen=True)
class Split:
    """Which prompts serve SFT and which preference optimisation, and how that was drawn."""

    seed: int
    share: float
    sft: list[str]
    preference: list[str]

    def part(self, name: str) -> list[str]:
        """The prompt ids of ``sft``, ``preference`` or ``all``."""
        parts = {"sft": self.sft, "preference": self.preference, "all": self.sft + self.preference}
        if name not in parts:
            raise WRPOError(f"unknown part {name!r}; choose one of {', '.join(parts)}")
        return parts[name]

    def write(self, path: Path) -> None:
        """Record the split as JSON, atomically."""
        write_json(path, asdict(self))


def make_split(prompt_ids: Iterable[str], seed: int, share: float = SHARE) -> Split:
    """A random ``share`` for SFT and the rest for preference optimisation.

    The draw depends on the set of ids and the seed alone, never on the order of a file; both parts
    come in the order drawn. The paper states the third, not its seed.
    """
    if not 0 <= share <= 1:
        raise WRPOError(f"the share for SFT is {share}; give one from 0 to 1")
    ids = sorted(set(prompt_ids))
    order = np.random.default_rng(seed).permutation(len(ids))
    drawn, cut = [ids[i] for i in order], round(len(ids) * share)
    return Split(seed, share, drawn[:cut], drawn[cut:])


def read_split(path: Path) -> Split:
    """A recorded split; a file that is none is named."""
    try:
        split = Split(**parse_row(path.read_bytes(), str(path)))
        both = sorted(set(split.sft) & set(split.preference))
    except TypeError as error:
        raise WRPOError(f"{path} is no recorded split ({error}); make it again") from error
    if both:
        raise WRPOError(f"{path}: {both[0]!r} stands in both parts; make the split again")
    return split
