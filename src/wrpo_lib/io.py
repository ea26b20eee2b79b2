"""Files of rows: the one place that parses a line, writes whole files, and appends to one.

A file is JSONL (``.jsonl``, ``.jsonl.gz``), a JSON list of objects (``.json``, ``.json.gz``) or
parquet. Nothing half-written ever replaces a file: :func:`write_rows` and :func:`write_json` write
beside it and rename. A stage that makes rows one by one appends them to a :class:`Store`.
"""

from __future__ import annotations

import fcntl
import gzip
import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

from wrpo_lib.errors import WRPOError

Row = dict[str, Any]
Key = tuple[Any, ...]

WRITABLE = (".jsonl", ".jsonl.gz", ".parquet")
SUFFIXES = (*WRITABLE, ".json", ".json.gz")


def parse_row(line: str | bytes, where: str) -> Row:
    """One JSON object; ``where`` names the line in errors."""
    try:
        row = json.loads(line)
    except ValueError as error:
        what = error.msg if isinstance(error, json.JSONDecodeError) else "not UTF-8"
        raise WRPOError(f"{where}: not JSON ({what}); correct or remove the line") from error
    if not isinstance(row, dict):
        raise WRPOError(f"{where}: not a JSON object; write one row a line")
    return row


def check_suffix(path: str | Path, suffixes: tuple[str, ...] = SUFFIXES) -> Path:
    """The path, if its name ends in one of ``suffixes``."""
    if not str(path).endswith(suffixes):
        raise WRPOError(f"{path}: unknown kind of file; use {', '.join(suffixes)}")
    return Path(path)


def iter_rows(path: str | Path) -> Iterator[Row]:
    """The rows of a file one by one; JSONL and parquet are never in memory as a whole."""
    path = check_suffix(path)
    if not path.is_file():
        raise WRPOError(f"{path} does not exist; check the path, or run the stage that writes it")
    suffix = Path(path.name.removesuffix(".gz")).suffix
    read = {".jsonl": _iter_jsonl, ".json": _iter_json, ".parquet": _iter_parquet}[suffix]
    try:
        yield from read(path)
    except WRPOError:
        raise
    except (OSError, EOFError, ValueError) as error:  # ValueError: of json and pyarrow
        raise WRPOError(f"{path} cannot be read ({error}); truncated, copy it again") from error


def read_rows(path: str | Path) -> list[Row]:
    """All rows of a file; none at all is an error."""
    rows = list(iter_rows(path))
    if not rows:
        raise WRPOError(f"{path} has no rows; write at least one")
    return rows


def open_binary(path: Path) -> Any:
    """A file opened for reading bytes, decompressed where its name ends in ``.gz``."""
    return gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb")


def _iter_jsonl(path: Path) -> Iterator[Row]:
    with open_binary(path) as file:
        for number, line in enumerate(file, 1):
            yield parse_row(line, f"{path}, line {number}")


def _iter_json(path: Path) -> Iterator[Row]:
    with open_binary(path) as file:
        rows = json.load(file)
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise WRPOError(f"{path}: not a JSON list of objects; write one row a line as .jsonl")
    yield from rows


def _iter_parquet(path: Path) -> Iterator[Row]:
    import pyarrow.parquet as pq

    for batch in pq.ParquetFile(path).iter_batches(batch_size=1024):
        yield from batch.to_pylist()


def file_hash(path: Path) -> str:
    """sha256 of a file of any size, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """A path beside ``path`` that is renamed over it at the end, and removed if that fails."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".part-{path.name}")
    try:
        yield part
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def write_atomically(path: Path, text: str) -> None:
    """Write ``text`` beside ``path`` and rename it over, so no reader sees half a file."""
    with _replacing(path) as part:
        part.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically, keys in the order given."""
    write_atomically(path, json.dumps(value, indent=1, ensure_ascii=False) + "\n")


def write_rows(rows: Iterable[Row], path: str | Path) -> None:
    """Write rows as the kind of file that ``path`` names, atomically; JSONL row by row."""
    path = check_suffix(path, WRITABLE)
    with _replacing(path) as part:
        if path.suffix == ".parquet":
            from datasets import Dataset

            Dataset.from_list(list(rows)).to_parquet(str(part))
            return
        opener = gzip.open if path.suffix == ".gz" else open
        with opener(part, "wt", encoding="utf-8") as file:
            file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


class Store(AbstractContextManager["Store"]):
    """One row a line, told apart by the fields ``key``; only the keys are held in memory.

    Opening drops a last line that a kill cut short. A malformed line, a missing key field or a
    repeated key anywhere else is a :class:`WRPOError` that names file and line. One process at a
    time may hold a store open.
    """

    def __init__(self, path: str | Path, key: tuple[str, ...]) -> None:
        self.path, self.key = Path(path), key
        self._keys: set[Key] = set()
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = open(self.path, "a+b", buffering=0)  # noqa: SIM115 (closed in close())
        except OSError as error:
            what = f"cannot be opened for writing ({error.strerror}); choose another path"
            raise WRPOError(f"{self.path} {what}") from error
        try:
            self._lock()
            self._load()
        except BaseException:
            self.close()
            raise

    def keys(self) -> set[Key]:
        """The keys of all rows, each a tuple in the order of ``key``."""
        return self._keys

    def append(self, row: Row) -> None:
        """Write one row as one whole line, at once.

        Lone surrogates, which some servers send for half an emoji, become ``?``. When the disk is
        full the half-written line is taken back, so that every earlier row stays readable.
        """
        key = self._new_key(row, f"a row for {self.path}")
        try:
            line = json.dumps(row, ensure_ascii=False, allow_nan=False)
        except ValueError as error:
            raise WRPOError(
                f"{key} for {self.path} holds NaN or infinity; make it again"
            ) from error
        self._write(line.encode("utf-8", "replace") + b"\n")
        self._keys.add(key)

    def _write(self, line: bytes) -> None:
        end = os.fstat(self._file.fileno()).st_size
        try:
            while line:  # an unbuffered write may be a partial one
                line = line[self._file.write(line) :]
        except OSError as error:
            self._file.truncate(end)
            what = f"{len(self._keys)} finished rows are kept: make room and run again to go on"
            raise WRPOError(f"writing {self.path} failed ({error.strerror}); {what}") from error

    def __len__(self) -> int:
        return len(self._keys)

    def __iter__(self) -> Iterator[Row]:
        """All rows in the order written, read from the file one at a time."""
        return _iter_jsonl(self.path)

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give the file back to other processes."""
        self._file.close()

    def _lock(self) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise WRPOError(f"{self.path} is written by another process; wait for it") from error
        except OSError:  # a file system without locks, as some network ones are
            return

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
                        raise
                    self._file.truncate(end)  # no proper prefix of a JSON object is JSON
                    return
                self._keys.add(self._new_key(row, where))
                end += len(line)
        if not line.endswith(b"\n"):
            self._write(b"\n")

    def _new_key(self, row: Row, where: str) -> Key:
        """The key of a row that no earlier row has."""
        for field in self.key:
            if not isinstance(row.get(field), str | int):
                what = "missing or neither text nor a whole number; the key needs it, add it"
                raise WRPOError(f"{where}, field {field!r}: {what}")
        key = tuple(row[field] for field in self.key)
        if key in self._keys:
            name = ", ".join(f"{field} {row[field]!r}" for field in self.key)
            raise WRPOError(f"{where}: the row {name} stands in an earlier line already; remove it")
        return key
