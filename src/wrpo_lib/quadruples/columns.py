"""Files of responses in pieces: Arrow tables of some rows, checked, with the place of each row."""

from __future__ import annotations

import gzip
import io
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from wrpo_lib.chat import prompt_problems
from wrpo_lib.errors import WRPOError
from wrpo_lib.io import SUFFIXES
from wrpo_lib.quadruples.schema import Problem

if TYPE_CHECKING:
    import pyarrow as pa

CHUNK = 32 * 2**20  # bytes of JSONL parsed at a time
TEXTS = ("prompt_id", "model", "text")
MISSING = {
    "prompt_id": "give every prompt an id",
    "model": "name the model that said it",
    "sample": "number the samples of a prompt from 0",
    "text": "sample it again or remove the row",
    "reward": "score it first (`wrpo score`)",
}


def response_problems(row: dict[str, Any], number: int, scored: bool = False) -> Iterator[Problem]:
    """Everything wrong with one row of responses; with ``scored`` a reward is needed too.

    An empty text is allowed: models do return nothing. Pairing never chooses one.
    """
    for name in TEXTS:
        value = row.get(name)
        if not isinstance(value, str) or (name != "text" and not value.strip()):
            yield Problem(number, name, f"missing or not text; {MISSING[name]}")
    sample = row.get("sample")
    if isinstance(sample, bool) or not isinstance(sample, int) or sample < 0:
        yield Problem(number, "sample", f"missing or no whole number; {MISSING['sample']}")
    if row.get("prompt") is not None:
        yield from (Problem(number, "prompt", what) for what in prompt_problems(row["prompt"]))
    reward = row.get("reward")
    if reward is None:
        if scored:
            yield Problem(number, "reward", f"missing; {MISSING['reward']}")
    elif isinstance(reward, bool) or not isinstance(reward, int | float):
        yield Problem(number, "reward", f"is {reward!r}, not a number; score the response again")
    elif not math.isfinite(reward):
        yield Problem(number, "reward", f"is {reward}; score the response again")


class Block(NamedTuple):
    """Some rows of one file as an Arrow table, with their row numbers and places."""

    table: pa.Table
    row: np.ndarray
    where: np.ndarray


def numbers(block: Block, codes: dict[str, dict[str, int]]) -> dict[str, np.ndarray]:
    """The numbers of a block, an array a column; new prompts and models get the next codes."""
    import pyarrow.compute as pc

    def coded(name: str) -> np.ndarray:
        column = block.table[name].combine_chunks().dictionary_encode()
        known = codes[name]
        found = [known.setdefault(value, len(known)) for value in column.dictionary.to_pylist()]
        return np.array(found, np.int32)[column.indices.to_numpy()]

    finish = pc.fill_null(block.table["finish_reason"], "")
    return {
        "prompt": coded("prompt_id"),
        "model": coded("model"),
        "sample": block.table["sample"].to_numpy().astype(np.int32),
        "reward": block.table["reward"].to_numpy().astype(np.float64),
        "length": _lengths(block.table["text"]),
        "truncated": pc.equal(finish, "length").to_numpy(),
        "row": block.row,
        "where": block.where,
    }


def _lengths(text: pa.ChunkedArray) -> np.ndarray:
    """Characters of each text, 0 where it is blank."""
    import pyarrow.compute as pc

    length = pc.utf8_length(text).to_numpy()
    short = np.flatnonzero(length < 64)  # few texts are short, and only those can well be blank
    blank = pc.equal(pc.utf8_trim_whitespace(text.take(short)), "").to_numpy()
    length = length.astype(np.int32)
    length[short[blank]] = 0
    return length


def _schema() -> pa.Schema:
    import pyarrow as pa

    return pa.schema(
        [("prompt_id", pa.string()), ("model", pa.string()), ("sample", pa.int64()),
         ("text", pa.string()), ("reward", pa.float64()), ("finish_reason", pa.string())]
    )  # fmt: skip


def read_blocks(path: Path, scored: bool) -> Iterator[Block]:
    """The rows of one file in pieces, checked."""
    if not path.name.endswith(SUFFIXES):
        raise WRPOError(f"{path}: unknown kind of file; use {', '.join(SUFFIXES)}")
    if not path.is_file():
        raise WRPOError(f"{path} does not exist; check the path")
    blocks = _parquet_blocks if path.suffix == ".parquet" else _jsonl_blocks
    try:
        yield from blocks(path, scored)
    except (OSError, EOFError) as error:
        raise WRPOError(
            f"{path} cannot be read ({error}); it is truncated, copy it again"
        ) from error


def _jsonl_blocks(path: Path, scored: bool) -> Iterator[Block]:
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rb") as file:
        start, number, rest = 0, 1, b""
        while True:
            read = file.read(CHUNK)
            data = rest + read
            cut = data.rfind(b"\n") + 1 if read else len(data)
            data, rest = data[:cut], data[cut:]
            if data:
                block = _parse(path, data, start, number, scored)
                yield block
                start, number = start + len(data), number + len(block.row)
            if not read:
                return


def _parse(path: Path, data: bytes, start: int, number: int, scored: bool) -> Block:
    """Whole lines as a block; whatever is wrong with them is found again line by line."""
    import pyarrow as pa
    import pyarrow.json as pj

    ends = np.flatnonzero(np.frombuffer(data, np.uint8) == ord("\n"))
    if not data.endswith(b"\n"):
        ends = np.append(ends, len(data) - 1)
    begins = np.concatenate([[0], ends[:-1] + 1])
    longest = int((ends - begins).max()) + 2
    try:
        table = pj.read_json(
            io.BytesIO(data),
            read_options=pj.ReadOptions(block_size=max(2**21, 2 * longest)),
            parse_options=pj.ParseOptions(_schema(), unexpected_field_behavior="ignore"),
        )
    except pa.ArrowInvalid:
        table = None
    if table is None or len(table) != len(ends) or not _sound(table, scored):
        _find_problem(path, data, number, scored)
    return Block(table, np.arange(number, number + len(ends)), start + begins)


def _sound(table: pa.Table, scored: bool) -> bool:
    """Whether all needed fields are there and make sense (a quick yes for a whole block)."""
    import pyarrow.compute as pc

    if any(table[name].null_count for name in (*TEXTS, "sample")):
        return False
    for name in ("prompt_id", "model"):
        if "" in pc.utf8_trim_whitespace(pc.unique(table[name])).to_pylist():
            return False
    if pc.min(table["sample"]).as_py() < 0:
        return False
    rewards = table["reward"]
    if scored and rewards.null_count:
        return False
    return bool(pc.all(pc.is_finite(rewards)).as_py() is not False)


def _find_problem(path: Path, data: bytes, number: int, scored: bool) -> None:
    """Raise the first problem of some lines, named by its line."""
    for k, line in enumerate(data.removesuffix(b"\n").split(b"\n"), number):
        row = _json_row(path, line, k)
        for problem in response_problems(row, k, scored):
            raise WRPOError(problem.sentence(str(path)))
    raise WRPOError(f"{path}, from line {number}: not one JSON object a line; write it that way")


def _json_row(path: Path, line: bytes, number: int) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        what = error.msg if isinstance(error, json.JSONDecodeError) else "not UTF-8"
        raise WRPOError(
            f"{path}, line {number}: not JSON ({what}); the line is malformed or cut short, "
            "correct or remove it"
        ) from error
    if not isinstance(row, dict):
        raise WRPOError(f"{path}, line {number}: not a JSON object; write one row a line")
    return row


def _parquet_blocks(path: Path, scored: bool) -> Iterator[Block]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(path)
    except pa.ArrowInvalid as error:
        raise WRPOError(
            f"{path} is no whole parquet file; it is truncated, copy it again"
        ) from error
    have = set(file.schema_arrow.names)
    needed = [*TEXTS, "sample", *(["reward"] if scored else [])]
    for name in needed:
        if name not in have:
            raise WRPOError(f"{path}, row 1, field {name!r}: missing; {MISSING[name]}")
    start = 0
    columns = [name for name in _schema().names if name in have]
    for batch in file.iter_batches(batch_size=2**15, columns=columns):
        table = _as_schema(batch)
        if table is None or not _sound(table, scored):
            for k, row in enumerate(batch.to_pylist(), start + 1):
                for problem in response_problems(row, k, scored):
                    raise WRPOError(problem.sentence(str(path)))
            raise WRPOError(f"{path}, from row {start + 1}: columns of other types; write text")
        rows = np.arange(start, start + len(batch))
        yield Block(table, rows + 1, rows)
        start += len(batch)


def _as_schema(batch: pa.RecordBatch) -> pa.Table | None:
    """A batch with all columns of the schema, absent ones null; None if a type does not fit."""
    import pyarrow as pa

    try:
        return pa.table(
            {
                field.name: batch[field.name].cast(field.type)
                if field.name in batch.schema.names
                else pa.nulls(len(batch), field.type)
                for field in _schema()
            }
        )
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        return None
