"""Responses and rewards: their numbers in a data frame, their texts fetched on demand.

A first pass over the files checks every row and keeps numbers only (about 40 bytes per row); a
second one fetches the few rows whose text is wanted.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from wrpo_lib.errors import WRPOError
from wrpo_lib.io import Row, iter_rows
from wrpo_lib.quadruples.schema import as_written, require

if TYPE_CHECKING:
    import pandas as pd

KEY = ["prompt_id", "model", "sample"]
COUNTED = [(name, "i4") for name in (*KEY, "length", "file", "row")]
NUMBERS = np.dtype([*COUNTED, ("truncated", "?"), ("reward", "f8")])


@dataclass(frozen=True)
class ResponseTable:
    """Responses by number, in the order of the files, each of which may also be a list of rows.

    ``frame`` has ``prompt_id``, ``model``, ``sample``, ``reward`` (NaN where there is none),
    ``length`` in characters, ``truncated`` (by the token limit), and where each row stands:
    ``file``, from 0, and ``row``, from 1.
    """

    frame: pd.DataFrame
    files: Sequence[Path | list[Row]]

    def __len__(self) -> int:
        return len(self.frame)

    def fetch(self, positions: Iterable[int]) -> dict[int, Row]:
        """The whole rows at ``positions``, by position; each file is read once."""
        wanted = self.frame.loc[sorted(set(positions))]
        found: dict[int, Row] = {}
        for k, file in enumerate(self.files):
            here = wanted.index[wanted["file"] == k]
            at = dict(zip(wanted.loc[here, "row"], here, strict=True))
            found |= {at[n]: row for n, row in _numbered(file) if n in at}
        return found


def _numbered(file: Path | list[Row]) -> Iterator[tuple[int, Row]]:
    return enumerate(iter_rows(file) if isinstance(file, Path) else file, 1)


def read_responses(files: Sequence[Path | list[Row]], scored: bool = True) -> ResponseTable:
    """The numbers of all responses in ``files``; with ``scored`` each needs a reward.

    :raises WRPOError: naming file and row for the first that is malformed, that repeats a
        prompt_id, model and sample, or whose prompt_id had another prompt or reward model before.
    """
    import pandas as pd

    models, seen = dict[str, int](), dict[str, Row]()
    kind = "rewards" if scored else "responses"
    names = [str(file) if isinstance(file, Path) else "the responses" for file in files]

    def numbers() -> Iterator[tuple[Any, ...]]:
        for k, file in enumerate(files):
            for number, row in _numbered(file):
                require(row, number, kind, names[k])
                new = {"at": len(seen), "prompt": row["prompt"], "reward_model": None}
                first = seen.setdefault(row["prompt_id"], new)
                _compare(row, first, f"{names[k]}, row {number}", scored)
                model = models.setdefault(row["model"], len(models))
                length, cut = len(row["text"].strip()), row.get("finish_reason") == "length"
                reward = row["reward"] if scored else np.nan
                yield first["at"], model, row["sample"], length, k, number, cut, reward

    frame = pd.DataFrame(np.fromiter(numbers(), NUMBERS))
    if not seen:
        raise WRPOError(f"{', '.join(names)}: no rows; sample responses first")
    frame["prompt_id"] = pd.Categorical.from_codes(frame["prompt_id"], list(seen))
    named = pd.Categorical.from_codes(frame["model"], list(models))
    frame["model"] = named.reorder_categories(sorted(models))
    repeated = frame.duplicated(KEY)
    if repeated.any():
        row = frame.loc[repeated.idxmax()]
        what = f"sample {row['sample']} of {row['model']!r} for prompt {row['prompt_id']!r}"
        where = f"{names[row['file']]}, row {row['row']}"
        raise WRPOError(f"{where}: {what} stands in an earlier row already; remove one")
    return ResponseTable(frame, files)


def _compare(row: Row, first: Row, where: str, scored: bool) -> None:
    """Refuse a row that cannot be compared with the ``first`` one of its prompt_id."""
    asked, before = row["prompt"], first["prompt"]
    if asked != before and as_written(asked) != as_written(before):
        what = "is another one than before under this prompt_id; make ids unique"
        raise WRPOError(f"{where}, field 'prompt': {what}")
    judge = row.get("reward_model") if scored else None
    first["reward_model"] = first["reward_model"] or judge
    if judge and judge != first["reward_model"]:
        what = f"{judge!r}, where {first['reward_model']!r} scored this prompt before; use one only"
        raise WRPOError(f"{where}, field 'reward_model': {what}")
