"""Files of rows: the one place that parses a line, writes whole files, and appends to one.

A file is JSONL (``.jsonl``, ``.ndjson``), a JSON list of objects (``.json``), both also gzipped, or
parquet. Nothing half-written ever replaces a file; a :class:`Store` takes rows one by one.
"""

import fcntl
import gzip
import hashlib
import json
import os
from collections.abc import Container, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from pydantic_core import from_json

from wrpo_lib.errors import WRPOError, explained

Row = dict[str, Any]
Key = tuple[Any, ...]

WRITABLE = (".jsonl", ".ndjson", ".jsonl.gz", ".ndjson.gz", ".parquet")
SUFFIXES = (*WRITABLE, ".json", ".json.gz")


def check_suffix(path: str | Path, suffixes: tuple[str, ...] = SUFFIXES) -> Path:
    """The path, if its name ends in one of ``suffixes``, in whatever case."""
    if not str(path).lower().endswith(suffixes):
        raise WRPOError(f"{path}: unknown kind of file; use {', '.join(suffixes)}")
    return Path(path)


def check_output(out: Path, *inputs: Path, suffixes: tuple[str, ...] = WRITABLE) -> Path:
    """The path ``out``, if its kind can be written and it is none of the ``inputs``."""
    if any(path.exists() and out.exists() and out.samefile(path) for path in inputs):
        raise WRPOError(f"{out} is read and would be overwritten; choose another output")
    return check_suffix(out, suffixes)


def iter_rows(path: str | Path, only: Container[int] | None = None) -> Iterator[Row]:
    """The rows of a file one by one; JSONL and parquet are never in memory as a whole.

    Text is UTF-8; half a character (a lone surrogate) is read as ``?``. ``only``: the numbers of
    the rows wanted, from 1; no other line of JSONL is parsed.
    """
    path = check_suffix(path)
    if not path.is_file():
        raise WRPOError(f"{path} does not exist; check the path, or run the stage that writes it")
    with explained(f"{path} cannot be read", "damaged, copy it again"):
        if path.suffix.lower() == ".parquet":
            import pyarrow.parquet as pq

            batches = pq.ParquetFile(path).iter_batches(batch_size=1024)
            held = (row for batch in batches for row in batch.to_pylist())
            yield from (_plain(row) for n, row in enumerate(held, 1) if only is None or n in only)
            return
        with open_binary(path) as file:
            if not path.name.lower().endswith((".json", ".json.gz")):
                name, n = str(path), 0
                for number, line in enumerate(file, 1):
                    if not line.isspace():
                        n += 1
                        if only is None or n in only:
                            yield parse_row(line, f"{name}, line {number}")
                return
            rows = _parse(file.read(), str(path))
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            raise WRPOError(f"{path}: not a JSON list of objects; write one row per line as .jsonl")
        yield from (row for n, row in enumerate(rows, 1) if only is None or n in only)


def read_rows(path: str | Path) -> list[Row]:
    """All rows of a file; none at all is an error."""
    rows = list(iter_rows(path))
    if not rows:
        raise WRPOError(f"{path} has no rows; write at least one")
    return rows


def parse_row(line: bytes, where: str) -> Row:
    """One JSON object; ``where`` names file and line in errors."""
    row = _parse(line, where)
    if not isinstance(row, dict):
        raise WRPOError(f"{where}: not a JSON object; write one row per line")
    return row


def _parse(data: bytes, where: str) -> Any:
    try:
        return from_json(data)
    except ValueError:  # a fault, or what only Python's parser reads: a BOM, half a character
        pass
    try:
        return _plain(json.loads(str(data, "utf-8-sig")))
    except (ValueError, RecursionError) as error:
        what = f"not JSON in UTF-8 ({getattr(error, 'msg', error)})"
        remedy = "correct or remove the line, or save the file as UTF-8"
        raise WRPOError(f"{where}: {what}; {remedy}") from error


def _plain(value: Any) -> Any:
    """A value as JSON in UTF-8 has it; what JSON has no form for, such as a date, as text."""

    def text(held: Any) -> str:
        return held.decode("utf-8", "replace") if isinstance(held, bytes) else str(held)

    return from_json(json.dumps(value, ensure_ascii=False, default=text).encode("utf-8", "replace"))


def open_binary(path: Path) -> Any:
    """A file opened for reading bytes, decompressed where its name ends in ``.gz``."""
    return gzip.open(path, "rb") if path.suffix.lower() == ".gz" else path.open("rb", 2**20)


def file_hash(path: Path) -> str:
    """sha256 of a file of any size, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A path in a folder of its own beside ``path``, renamed over it if nothing fails."""
    with explained(f"{path} cannot be written", "fix the cause, or choose another kind or place"):
        path.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(prefix=".part-", dir=path.parent) as own:
            part = Path(own, path.name)
            yield part
            os.replace(part, path)


def write_atomically(path: Path, text: str) -> None:
    """Replace a file by ``text``."""
    with replacing(path) as part:
        part.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically, keys in the order given."""
    write_atomically(path, json.dumps(value, indent=1, ensure_ascii=False) + "\n")


def write_rows(rows: Iterable[Row], path: str | Path) -> None:
    """Write rows as the kind of file that ``path`` names, atomically; JSONL row by row."""
    path = check_suffix(path, WRITABLE)
    with replacing(path) as part:
        if path.suffix.lower() == ".parquet":
            import pyarrow as pa
            import pyarrow.parquet as pq

            found = list(rows)
            names = dict.fromkeys(name for row in found for name in row)
            columns = {name: [row.get(name) for row in found] for name in names}
            pq.write_table(pa.table(columns), part)
            return
        opener = gzip.open if path.suffix.lower() == ".gz" else open
        with opener(part, "wt", encoding="utf-8", errors="replace") as file:
            file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def _lock(file: Any) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:  # other errors: a file system without locks, as some clusters have
        if isinstance(error, BlockingIOError):
            raise


class Store(AbstractContextManager["Store"]):
    """One row per line (``.jsonl``), told apart by the fields ``key``; its ``keys`` are in memory.

    Opening drops a last line that a kill cut short; any other fault is an error. One process at a
    time may hold a store open.
    """

    def __init__(self, path: str | Path, key: tuple[str, ...]) -> None:
        self.path, self.key, self.keys = check_suffix(path, (".jsonl",)), key, set[Key]()
        remedy = "wait for the process that writes it, or choose another path"
        with explained(f"{path} cannot be opened for writing", remedy):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = open(self.path, "a+b", buffering=0)  # noqa: SIM115 (closed in __exit__)
            try:
                _lock(self._file)
                self._load()
            except BaseException:
                self._file.close()
                raise

    def append(self, row: Row) -> None:
        """Write one row as one line, its key first."""
        key = self._new_key(row, f"a row for {self.path}")
        row = {**dict(zip(self.key, key, strict=True)), **row}
        with explained(f"{key} for {self.path} cannot be written as JSON", "make it again"):
            line = json.dumps(row, ensure_ascii=False, allow_nan=False)
        left = line.encode("utf-8", "replace") + b"\n"
        remedy = f"{len(self.keys)} finished rows are kept: make room and run again to go on"
        with explained(f"writing {self.path} failed", remedy):
            while left:  # an unbuffered write may be a partial one
                left = left[self._file.write(left) :]
        self.keys.add(key)

    def __iter__(self) -> Iterator[Row]:
        """All rows in the order written, read from the file one at a time."""
        return iter_rows(self.path)

    def __exit__(self, *_: object) -> None:
        """Give the file back to other processes."""
        self._file.close()

    def _load(self) -> None:
        """Collect the keys; drop a last line cut short, end one that lacks only its line feed."""
        end, line = 0, b"\n"
        with self.path.open("rb") as file:
            for number, line in enumerate(file, 1):
                where = f"{self.path}, line {number}"
                try:
                    row = parse_row(line, where)
                except WRPOError:
                    if line.endswith(b"\n"):
                        raise  # not cut short by a kill
                    self._file.truncate(end)  # no proper prefix of a JSON object is JSON
                    return
                self.keys.add(self._new_key(row, where))
                end += len(line)
        if not line.endswith(b"\n"):
            self._file.write(b"\n")

    def _new_key(self, row: Row, where: str) -> Key:
        """The key of a row that no earlier row has."""
        key = tuple(row.get(field) for field in self.key)
        for field, held in zip(self.key, key, strict=True):
            if not isinstance(held, str | int):
                what = "missing or neither text nor a whole number; the key needs it, add it"
                raise WRPOError(f"{where}, field {field!r}: {what}")
        if key in self.keys:
            name = ", ".join(f"{field} {row[field]!r}" for field in self.key)
            raise WRPOError(f"{where}: the row {name} repeats an earlier line; remove it")
        return key
