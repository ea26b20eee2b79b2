"""Files of responses and rewards: their numbers in a data frame, their texts fetched on demand.

A row has ``prompt_id``, ``prompt`` (messages), ``model``, ``sample`` (a whole number from 0),
``text``, optionally ``n_tokens``, ``finish_reason`` and ``seed``, and, once scored, ``reward`` and
``reward_model``. A first pass over the files keeps numbers only (about 50 bytes per row); a second
one fetches the few rows whose text is wanted.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wrpo_lib.errors import WRPOError
from wrpo_lib.io import check_suffix, iter_rows, open_binary, parse_row
from wrpo_lib.quadruples.schema import row_problems

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

BLOCK = 32 * 2**20  # bytes of JSONL parsed at a time
KEY = ["prompt_id", "model", "sample"]


@dataclass(frozen=True)
class ResponseTable:
    """Responses by number, in the order of the files.

    ``frame`` has ``prompt_id``, ``model``, ``sample``, ``reward`` (NaN where there is none),
    ``length`` (characters, 0 for a blank text), ``truncated`` (the token limit ended the response),
    and of rows that lie in ``files`` the number of the ``file`` and the ``row`` in it, from 0.
    Without files the frame has the texts too.
    """

    frame: pd.DataFrame
    files: list[Path] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.frame)

    @property
    def prompts(self) -> list[str]:
        """The ids of all prompts, in alphabetical order."""
        return sorted(self.frame["prompt_id"].unique())

    def fetch(self, positions: Iterable[int]) -> dict[int, dict[str, Any]]:
        """The whole rows at ``positions``, by position; each file is read once."""
        wanted = self.frame.loc[sorted(set(positions))]
        if not self.files:
            return wanted.to_dict("index")
        found: dict[int, dict[str, Any]] = {}
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
    parts = [_numbers(block, k) for k, path in enumerate(files) for block in _blocks(path, kind)]
    if not parts:
        raise WRPOError(f"{', '.join(map(str, files))}: no rows; sample responses first")
    frame = pa.concat_tables(parts).unify_dictionaries().to_pandas()
    frame["model"] = frame["model"].cat.set_categories(sorted(frame["model"].cat.categories))
    frame["row"] = frame.groupby("file").cumcount()
    repeated = frame.duplicated(KEY)
    if repeated.any():
        row = frame.loc[repeated.idxmax()]
        raise WRPOError(
            f"{files[row['file']]}, row {row['row'] + 1}: sample {row['sample']} of "
            f"{row['model']!r} for prompt {row['prompt_id']!r} stands in an earlier row already; "
            "remove one or number the samples"
        )
    return ResponseTable(frame, files)


def _numbers(block: pa.Table, file: int) -> pa.Table:
    """The numbers of one block of a file's rows."""
    import pyarrow as pa
    import pyarrow.compute as pc

    return pa.table(
        {
            "prompt_id": block["prompt_id"].dictionary_encode(),
            "model": block["model"].dictionary_encode(),
            "sample": block["sample"],
            "reward": block["reward"],
            "length": _lengths(block["text"]),
            "truncated": pc.equal(pc.fill_null(block["finish_reason"], ""), "length"),
            "file": pa.repeat(pa.scalar(file, pa.int16()), len(block)),
        }
    )


def _blocks(path: Path, kind: str) -> Iterator[pa.Table]:
    """Blocks of a file's rows with the columns we need; a bad row is named by reading it again."""
    from pyarrow.dataset import dataset

    check_suffix(path)
    try:
        if path.suffix == ".parquet":
            blocks = dataset(path, _schema(), "parquet").to_batches(batch_size=2**15)
        else:
            blocks = _json_blocks(path)
        for block in blocks:
            if not _is_sound(block, kind):
                raise ValueError
            yield block
    except (ValueError, KeyError, OSError, EOFError) as error:
        for number, row in enumerate(iter_rows(path), 1):
            for problem in row_problems(row, number, kind):
                raise WRPOError(problem.sentence(str(path))) from error
        raise WRPOError(f"{path}: {error}; write one JSON object a line (.jsonl)") from error


def _schema() -> pa.Schema:
    import pyarrow as pa

    text = dict.fromkeys(("prompt_id", "model", "text", "finish_reason"), pa.string())
    return pa.schema({**text, "sample": pa.int32(), "reward": pa.float64()})


def _json_blocks(path: Path) -> Iterator[pa.Table]:
    import pyarrow as pa
    import pyarrow.json as pj

    parse = pj.ParseOptions(_schema(), unexpected_field_behavior="ignore")
    with open_binary(path) as file:
        while lines := file.readlines(BLOCK):
            data = b"".join(lines)
            read = pj.ReadOptions(use_threads=False, block_size=len(data) + 1)
            block = pj.read_json(pa.BufferReader(data), read, parse)
            if len(block) != len(lines):
                raise ValueError("a line holds no row or more than one")
            yield block


def _lengths(text: pa.ChunkedArray) -> pa.ChunkedArray:
    """Characters of each text, 0 where it is blank."""
    import pyarrow.compute as pc

    return pc.if_else(pc.utf8_is_space(text), 0, pc.utf8_length(text))


def _is_sound(block: pa.Table, kind: str) -> bool:
    """Whether all needed fields are there and make sense (a quick yes for a whole block)."""
    import pyarrow.compute as pc

    needed = ["prompt_id", "model", "sample", "text", *(["reward"] if kind == "rewards" else [])]
    return bool(
        not any(block[name].null_count for name in needed)
        and pc.min(_lengths(block["prompt_id"])).as_py()
        and pc.min(_lengths(block["model"])).as_py()
        and pc.min(block["sample"]).as_py() >= 0
        and pc.all(pc.is_finite(block["reward"]), min_count=0).as_py()
    )


def _rows_at(path: Path, numbers: list[int]) -> Iterator[dict[str, Any]]:
    """The rows of a file with the given numbers, which rise."""
    if path.suffix != ".parquet":
        with open_binary(path) as file:
            done = 0
            for number in numbers:
                line = next(islice(file, number - done, None))
                done = number + 1
                yield parse_row(line, f"{path}, line {number + 1}")
    elif numbers:
        from pyarrow.dataset import dataset

        yield from dataset(path).take(numbers).to_pylist()


def sum_up_responses(table: ResponseTable) -> str:
    """A line for each model: responses, prompts, lengths, rewards, empty and truncated ones."""
    models = table.frame.groupby("model", observed=True)
    found = models.agg(
        responses=("sample", "size"),
        prompts=("prompt_id", "nunique"),
        median_characters=("length", "median"),
        empty=("length", lambda length: (length == 0).sum()),
        truncated=("truncated", "sum"),
        mean_reward=("reward", "mean"),
        least=("reward", "min"),
        greatest=("reward", "max"),
    )
    return str(found.dropna(axis=1, how="all").to_string(float_format="%.4g"))
