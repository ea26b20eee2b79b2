"""Files of responses and rewards: their numbers in a data frame, their texts fetched on demand.

The fields of a row are in :mod:`wrpo_lib.quadruples.schema`. A first pass over the files checks
every row and keeps numbers only (about 50 bytes per row); a second one fetches the few rows whose
text is wanted.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from wrpo_lib.errors import WRPOError
from wrpo_lib.io import Row, iter_rows
from wrpo_lib.quadruples.schema import as_written, require

if TYPE_CHECKING:
    import pandas as pd

KEY = ["prompt_id", "model", "sample"]
COLUMNS = {**dict.fromkeys([*KEY, "length", "truncated", "file", "row"], "i"), "reward": "d"}
"""Column -> the code of the array that holds it while the files are read."""


@dataclass(frozen=True)
class ResponseTable:
    """Responses by number, in the order of the files.

    ``frame`` has ``prompt_id``, ``model``, ``sample``, ``reward`` (NaN where there is none),
    ``length`` (characters without the space around them), ``truncated`` (by the token limit), and
    for rows in ``files`` the numbers of ``file``, from 0, and ``row``, from 1; without files also
    the texts.
    """

    frame: pd.DataFrame
    files: list[Path] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.frame)

    def fetch(self, positions: Iterable[int]) -> dict[int, Row]:
        """The whole rows at ``positions``, by position; each file is read once."""
        wanted = self.frame.loc[sorted(set(positions))]
        if not self.files:
            return wanted.to_dict("index")
        found: dict[int, Row] = {}
        for k, path in enumerate(self.files):
            here = wanted.loc[wanted["file"] == k, "row"]
            found.update(zip(here.index.tolist(), iter_rows(path, set(here)), strict=True))
        return found


def read_responses(files: list[Path], scored: bool = True) -> ResponseTable:
    """The numbers of all responses in ``files``; with ``scored`` each needs a reward.

    :raises WRPOError: naming file and row for a malformed line, a missing or wrong field, a second
        row with the same prompt_id, model and sample, or a row whose prompt or reward model is
        another one than before under the same prompt_id.
    """
    import pandas as pd

    kind = "rewards" if scored else "responses"
    held = {name: array(code) for name, code in COLUMNS.items()}
    models: dict[str, int] = {}
    seen: dict[str, Row] = {}
    for k, path in enumerate(files):
        for number, row in enumerate(iter_rows(path), 1):
            require(row, number, kind, str(path))
            new = {"at": len(seen), "prompt": row["prompt"], "reward_model": None}
            first = seen.setdefault(row["prompt_id"], new)
            _compare(row, first, f"{path}, row {number}", scored)
            model = models.setdefault(row["model"], len(models))
            length, cut = len(row["text"].strip()), row.get("finish_reason") == "length"
            reward = row["reward"] if scored else math.nan
            values = first["at"], model, row["sample"], length, cut, k, number, reward
            for column, value in zip(held.values(), values, strict=True):
                column.append(value)
    if not seen:
        raise WRPOError(f"{', '.join(map(str, files))}: no rows; sample responses first")
    frame = pd.DataFrame({name: np.asarray(numbers) for name, numbers in held.items()})
    frame["prompt_id"] = pd.Categorical.from_codes(frame["prompt_id"], list(seen))
    named = pd.Categorical.from_codes(frame["model"], list(models))
    frame["model"] = named.reorder_categories(sorted(models))
    frame["truncated"] = frame["truncated"].astype(bool)
    repeated = frame.duplicated(KEY)
    if repeated.any():
        row = frame.loc[repeated.idxmax()]
        what = f"sample {row['sample']} of {row['model']!r} for prompt {row['prompt_id']!r}"
        where = f"{files[row['file']]}, row {row['row']}"
        raise WRPOError(f"{where}: {what} stands in an earlier row already; remove one")
    return ResponseTable(frame, files)


def _compare(row: Row, first: Row, where: str, scored: bool) -> None:
    """Refuse a row that cannot be compared with the ``first`` one of its prompt_id."""
    if row["prompt"] != first["prompt"] and as_written(row["prompt"]) != as_written(
        first["prompt"]
    ):
        what = "is another one than before under this prompt_id; make ids unique"
        raise WRPOError(f"{where}, field 'prompt': {what}")
    judge = row.get("reward_model") if scored else None
    first["reward_model"] = first["reward_model"] or judge
    if judge and judge != first["reward_model"]:
        what = f"{judge!r}, where {first['reward_model']!r} scored this prompt before; use one only"
        raise WRPOError(f"{where}, field 'reward_model': {what}")
