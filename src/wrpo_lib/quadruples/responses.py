"""Files of responses and of rewards, read by columns so that texts never fill the memory.

A row has ``prompt_id``, ``prompt`` (messages), ``model``, ``sample`` (a whole number from 0),
``text``, optionally ``n_tokens``, ``finish_reason`` and ``seed``, and, once scored, ``reward`` and
``reward_model``. A first pass keeps numbers only (about 50 bytes a row) and where each row lies; a
second one fetches the few rows whose text is wanted.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from wrpo_lib.errors import WRPOError
from wrpo_lib.quadruples.columns import numbers, read_blocks, response_problems

__all__ = ["ResponseTable", "read_responses", "response_problems"]


@dataclass(frozen=True)
class ResponseTable:
    """The numbers of all rows, one array entry a row, in the order of the files.

    ``prompt`` and ``model`` are positions in ``prompts`` and ``models`` (which is in alphabetical
    order); ``length`` is in characters, 0 for an empty or blank text; ``reward`` is NaN where there
    is none; ``truncated`` says that the token limit ended the response; ``where`` is the byte at
    which a row starts (JSONL) or its position in the file (parquet).
    """

    files: list[Path]
    prompts: list[str]
    models: list[str]
    prompt: np.ndarray
    model: np.ndarray
    sample: np.ndarray
    reward: np.ndarray
    length: np.ndarray
    truncated: np.ndarray
    file: np.ndarray
    row: np.ndarray
    where: np.ndarray

    def __len__(self) -> int:
        return len(self.prompt)

    @property
    def seekable(self) -> bool:
        """Whether single rows can be fetched at will (plain JSONL)."""
        return all(path.suffix == ".jsonl" for path in self.files)

    def place(self, position: int) -> str:
        """The file and row of an entry, for a message."""
        return f"{self.files[self.file[position]]}, row {self.row[position]}"

    def fetch(self, positions: np.ndarray) -> dict[int, dict[str, Any]]:
        """The whole rows at ``positions``, by position; each file is read once, forwards."""
        wanted = np.unique(positions[positions >= 0])
        found: dict[int, dict[str, Any]] = {}
        for k, path in enumerate(self.files):
            here = wanted[self.file[wanted] == k]
            here = here[np.argsort(self.where[here])]
            reader = _fetch_parquet if path.suffix == ".parquet" else _fetch_jsonl
            rows = reader(path, self.where[here])
            found.update(zip(here.tolist(), rows, strict=True))
        return found


def read_responses(files: list[Path], scored: bool = True) -> ResponseTable:
    """The numbers of all responses in ``files`` (JSONL, gzipped JSONL, parquet).

    Raises a :class:`~wrpo_lib.errors.WRPOError` naming file and row for a malformed line, a missing
    or wrong field, a reward that is no finite number, or a second row with the same prompt_id,
    model and sample.
    """
    codes: dict[str, dict[str, int]] = {"prompt_id": {}, "model": {}}
    parts = [
        {**numbers(block, codes), "file": np.full(len(block.where), k, np.int16)}
        for k, path in enumerate(files)
        for block in read_blocks(path, scored)
    ]
    if not parts:
        raise WRPOError(f"{', '.join(map(str, files))}: no rows; sample responses first")
    columns = {name: np.concatenate([part.pop(name) for part in parts]) for name in list(parts[0])}
    models = sorted(codes["model"])
    place = {name: k for k, name in enumerate(models)}
    order = np.array([place[name] for name in codes["model"]], np.int32)
    columns["model"] = order[columns["model"]]
    table = ResponseTable(files=files, prompts=list(codes["prompt_id"]), models=models, **columns)
    _refuse_duplicates(table)
    return table


def _refuse_duplicates(table: ResponseTable) -> None:
    """No two rows may share prompt_id, model and sample."""
    samples = int(table.sample.max()) + 1
    key = (table.prompt.astype(np.int64) * len(table.models) + table.model) * samples + table.sample
    order = np.argsort(key, kind="stable")
    same = np.flatnonzero(np.diff(key[order]) == 0)
    if len(same):
        first, second = order[same[0]], order[same[0] + 1]
        raise WRPOError(
            f"{table.place(second)}: sample {table.sample[second]} of "
            f"{table.models[table.model[second]]!r} for prompt "
            f"{table.prompts[table.prompt[second]]!r} stands in {table.place(first)} already; "
            "remove one or number the samples"
        )


def _fetch_jsonl(path: Path, offsets: np.ndarray) -> Iterator[dict[str, Any]]:
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rb") as file:
        for offset in offsets.tolist():
            file.seek(offset)
            yield json.loads(file.readline())


def _fetch_parquet(path: Path, rows: np.ndarray) -> Iterator[dict[str, Any]]:
    import pyarrow.parquet as pq

    file = pq.ParquetFile(path)
    start = 0
    for group in range(file.num_row_groups):
        end = start + file.metadata.row_group(group).num_rows
        here = rows[(rows >= start) & (rows < end)] - start
        if len(here):
            yield from file.read_row_group(group).take(here).to_pylist()
        start = end
