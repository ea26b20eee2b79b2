"""Prompts and their split; responses and rewards, their texts fetched on demand.

A first pass over files of responses checks every row and keeps numbers only (about 40 bytes per
row); a second one fetches the few rows whose text is wanted.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from wrpo_lib.chat import Messages, as_messages
from wrpo_lib.errors import WRPOError
from wrpo_lib.io import Row, iter_rows, parse_row
from wrpo_lib.quadruples.schema import as_written, require

if TYPE_CHECKING:
    import pandas as pd

KEY = ["prompt_id", "model", "sample"]
COUNTED = [(name, "i4") for name in (*KEY, "length", "file", "row")]
NUMBERS = np.dtype([*COUNTED, ("truncated", "?"), ("reward", "f8")])


def read_prompts(path: Path) -> Iterator[tuple[str, Messages]]:
    """(prompt_id, messages) of every row, one at a time; other fields are ignored.

    Text is one user turn, but refused if it went through a chat template, since every model has its
    own. A repeated id is an error, but for the same prompt in a file of responses.
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
    """Which prompts serve SFT and which preference optimisation, each in the order drawn."""

    seed: int
    sft: list[str]
    preference: list[str]

    @staticmethod
    def draw(prompt_ids: Iterable[str], seed: int) -> Split:
        """A random third for SFT (paper section 4.1), by the set of ids and ``seed`` alone."""
        ids = sorted(set(prompt_ids))
        drawn = [ids[i] for i in np.random.default_rng(seed).permutation(len(ids))]
        cut = round(len(ids) / 3)
        return Split(seed, drawn[:cut], drawn[cut:])

    @staticmethod
    def read(path: Path) -> Split:
        """A recorded split; a file that is none is named."""
        try:
            return Split(**parse_row(path.read_bytes(), str(path)))
        except (OSError, TypeError) as error:
            raise WRPOError(f"{path} is no recorded split ({error}); draw one") from error


@dataclass(frozen=True)
class ResponseTable:
    """Responses by number, in the order of the files, each of which may also be a list of rows.

    ``frame`` has ``prompt_id``, ``model``, ``sample``, ``reward`` (NaN where there is none),
    ``length`` in characters, ``truncated`` (by the token limit), and where each row stands:
    ``file``, from 0, and ``row``, from 1.
    """

    frame: pd.DataFrame
    files: Sequence[Path | list[Row]]

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
    names = [str(file) if isinstance(file, Path) else "the responses" for file in files]

    def numbers() -> Iterator[tuple[Any, ...]]:
        for k, file in enumerate(files):
            for number, row in _numbered(file):
                require(row, number, "rewards" if scored else "responses", names[k])
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
    for _, row in frame[frame.duplicated(KEY)].iterrows():
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
