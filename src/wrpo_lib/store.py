"""Append-only JSONL files: how a stage survives a kill at any moment and goes on afterwards.

A stage opens its output as a :class:`Store`, asks which keys are there, makes only the missing
rows and appends each as one whole line. Any number of kills later the file is the same set of rows.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from wrpo_lib.errors import WRPOError

Key = tuple[Any, ...]


class Store:
    """One row a line, told apart by the fields ``key``; only the keys are held in memory.

    Opening drops a last line that a kill cut short. A malformed line, a missing key field or a
    repeated key anywhere else is a :class:`WRPOError` that names file and line. One process at a
    time may hold a store open.
    """

    def __init__(self, path: str | Path, key: tuple[str, ...]) -> None:
        self.path, self.key = Path(path), key
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = open(self.path, "a+b", buffering=0)  # noqa: SIM115 (closed in close())
        except OSError as error:
            raise WRPOError(
                f"{self.path} cannot be opened for writing ({error.strerror}); choose another path"
            ) from error
        try:
            self._lock()
            self._mend_last_line()
            self._keys: set[Key] = set()
            for number, row in self._numbered():
                found = self._key_of(row, f"{self.path}, line {number}")
                if found in self._keys:
                    raise WRPOError(
                        f"{self.path}, line {number}: {self._name(found)} stands in an earlier "
                        "line already; remove one of them"
                    )
                self._keys.add(found)
        except BaseException:
            self.close()
            raise

    def keys(self) -> set[Key]:
        """The keys of all rows, each a tuple in the order of ``key``."""
        return self._keys

    def append(self, row: dict[str, Any]) -> None:
        """Write one row as one whole line, at once.

        Lone surrogates, which some servers send for half an emoji, become ``?``. When the disk is
        full the half-written line is taken back, so that every earlier row stays readable.
        """
        found = self._key_of(row, f"a row for {self.path}")
        if found in self._keys:
            raise WRPOError(f"{self.path} has {self._name(found)} already; make keys unique")
        try:
            line = json.dumps(row, ensure_ascii=False, allow_nan=False)
        except ValueError as error:
            raise WRPOError(
                f"{self._name(found)} for {self.path} holds NaN or infinity; make it again"
            ) from error
        self._write(line.encode("utf-8", "replace") + b"\n")
        self._keys.add(found)

    def _write(self, line: bytes) -> None:
        end = os.fstat(self._file.fileno()).st_size
        try:
            while line:  # an unbuffered write may be a partial one
                line = line[self._file.write(line) :]
        except OSError as error:
            self._file.truncate(end)
            raise WRPOError(
                f"writing to {self.path} failed ({error.strerror}); its {len(self._keys)} finished "
                "rows are kept: make room and run again to go on"
            ) from error

    def __len__(self) -> int:
        return len(self._keys)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """All rows in the order written, read from the file one at a time."""
        return (row for _, row in self._numbered())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Give the file back to other processes."""
        self._file.close()

    def _lock(self) -> None:
        try:
            import fcntl
        except ImportError:  # no such lock on Windows
            return
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise WRPOError(
                f"{self.path} is being written by another process; wait for it or choose another "
                "path"
            ) from error
        except OSError:  # a file system without locks, as some network ones are
            return

    def _mend_last_line(self) -> None:
        """Drop a last line cut short; end it if it is whole and lacks only its line feed."""
        size = self._file.seek(0, os.SEEK_END)
        start, tail = size, b""
        while start and b"\n" not in tail:
            step = min(start, 1 << 16)
            start -= step
            self._file.seek(start)
            tail = self._file.read(step) + tail
        last = tail.rpartition(b"\n")[2]
        if not last:
            return
        try:
            json.loads(last)  # no proper prefix of a JSON object is JSON
            self._write(b"\n")
        except ValueError:
            self._file.truncate(size - len(last))

    def _numbered(self) -> Iterator[tuple[int, dict[str, Any]]]:
        with open(self.path, "rb") as file:
            for number, line in enumerate(file, 1):
                try:
                    row = json.loads(line)
                except ValueError as error:
                    raise WRPOError(
                        f"{self.path}, line {number}: not JSON; correct or remove the line"
                    ) from error
                if not isinstance(row, dict):
                    raise WRPOError(
                        f"{self.path}, line {number}: not a JSON object; write one row a line"
                    )
                yield number, row

    def _key_of(self, row: dict[str, Any], where: str) -> Key:
        for field in self.key:
            if not isinstance(row.get(field), str | int):
                raise WRPOError(
                    f"{where}, field {field!r}: missing or neither text nor a whole number; it is "
                    "part of the key, add it"
                )
        return tuple(row[field] for field in self.key)

    def _name(self, key: Key) -> str:
        pairs = zip(self.key, key, strict=True)
        return "the row " + ", ".join(f"{field} {value!r}" for field, value in pairs)
