"""Files of responses and rewards: their numbers in a data frame, their texts fetched on demand.

The fields of a row are in :mod:`wrpo_lib.quadruples.schema`. A first pass over the files keeps
numbers only (about 50 bytes per row); a second one fetches the few rows whose text is wanted.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from wrpo_lib.errors import WRPOError
from wrpo_lib.io import WRITABLE, Row, check_suffix, iter_rows, open_binary, parse_row
from wrpo_lib.quadruples.schema import require

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

BLOCK = 32 * 2**20  # bytes of JSONL parsed at a time
KEY = ["prompt_id", "model", "sample"]


@dataclass(frozen=True)
class ResponseTable:
    """Responses by number, in the order of the files.

    ``frame`` has ``prompt_id``, ``model``, ``sample``, ``reward`` (NaN where there is none),
    ``length`` (characters without the space around them), ``truncated`` (by the token limit), and
    for rows in ``files`` the numbers of ``file`` and ``row`` from 0; without files also the texts.
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
            found.update(zip(here.index.tolist(), _rows_at(path, here.tolist()), strict=True))
        return found


def read_responses(files: list[Path], scored: bool = True) -> ResponseTable:
    """The numbers of all responses in ``files``; with ``scored`` each needs a reward.

    :raises WRPOError: naming file and row for a malformed line, a missing or wrong field, a reward
        that is no finite number, or a second row with the same prompt_id, model and sample.
    """
    import pyarrow as pa

    kind = "rewards" if scored else "responses"
    parts = [
        numbers.append_column("file", pa.repeat(pa.scalar(k, pa.int16()), len(numbers)))
        for k, path in enumerate(files)
        for numbers in _numbers(path, kind)
    ]
    if not parts:
        raise WRPOError(f"{', '.join(map(str, files))}: no rows; sample responses first")
    frame = pa.concat_tables(parts).unify_dictionaries().to_pandas()
    frame["model"] = frame["model"].cat.set_categories(sorted(frame["model"].cat.categories))
    frame["row"] = frame.groupby("file").cumcount()
    repeated = frame.duplicated(KEY)
    if repeated.any():
        row = frame.loc[repeated.idxmax()]
        what = f"sample {row['sample']} of {row['model']!r} for prompt {row['prompt_id']!r}"
        where = f"{files[row['file']]}, row {row['row'] + 1}"
        raise WRPOError(f"{where}: {what} stands in an earlier row already; remove one")
    return ResponseTable(frame, files)


def _numbers(path: Path, kind: str) -> Iterator[pa.Table]:
    """The numbers of a file, block by block; a bad row is named by reading it with the schema."""
    import pyarrow as pa
    import pyarrow.compute as pc

    needed = [*KEY, "length", *(["reward"] if kind == "rewards" else [])]
    check_suffix(path, WRITABLE)
    try:
        for block in _blocks(path):
            names = {name: block[name].dictionary_encode() for name in KEY[:2]}
            columns = {**names, "sample": block["sample"], "reward": block["reward"]}
            columns["length"] = pc.utf8_length(pc.utf8_trim_whitespace(block["text"]))
            columns["truncated"] = pc.equal(pc.fill_null(block["finish_reason"], ""), "length")
            known = {name for found in names.values() for name in found.unique().to_pylist()}
            numeric = pc.all(pc.is_finite(block["reward"]), min_count=0).as_py()
            if any(columns[name].null_count for name in needed) or not (
                numeric and all(map(str.strip, known)) and pc.min(block["sample"]).as_py() >= 0
            ):
                raise ValueError("a row lacks a field")
            yield pa.table(columns)
    except (ValueError, KeyError, OSError, EOFError) as error:
        for number, row in enumerate(iter_rows(path), 1):
            require(row, number, kind, str(path))
        raise WRPOError(f"{path}: {error}; write one JSON object a line (.jsonl)") from error


def _blocks(path: Path) -> Iterator[pa.Table]:
    """Blocks of a file's rows with the columns we need."""
    import pyarrow as pa
    import pyarrow.json as pj
    from pyarrow.dataset import dataset

    text = dict.fromkeys(("prompt_id", "model", "text", "finish_reason"), pa.string())
    schema = pa.schema({**text, "sample": pa.int32(), "reward": pa.float64()})
    if path.suffix == ".parquet":
        yield from dataset(path, schema, "parquet").to_batches(batch_size=2**15)
        return
    parse = pj.ParseOptions(schema, unexpected_field_behavior="ignore")
    with open_binary(path) as file:
        while lines := file.readlines(BLOCK):
            data = b"".join(lines)
            read = pj.ReadOptions(use_threads=False, block_size=len(data) + 1)
            block = pj.read_json(pa.BufferReader(data), read, parse)
            if len(block) != len(lines):
                raise ValueError("a line holds no row or more than one")
            yield block


def _rows_at(path: Path, numbers: list[int]) -> Iterator[Row]:
    """The rows of a file with the given numbers, which rise."""
    from pyarrow.dataset import dataset

    if path.suffix == ".parquet":
        yield from dataset(path).take(numbers).to_pylist()
        return
    wanted = set(numbers)
    with open_binary(path) as file:
        for number, line in enumerate(file):
            if number in wanted:
                yield parse_row(line, f"{path}, line {number + 1}")
