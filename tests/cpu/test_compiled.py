"""The compiler is asked once, and training goes on where it fails."""

from __future__ import annotations

import ctypes
import logging
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from wrpo_lib.cpu import compiled


@pytest.fixture(params=[None], autouse=True)
def library() -> None:
    """Not the fixture of the other files: here it is the loading itself that is looked at."""


@pytest.fixture
def fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A cache folder of its own, and nothing loaded."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    compiled.loaded.cache_clear()
    yield tmp_path
    compiled.loaded.cache_clear()


def compiler(folder: Path, script: str) -> str:
    """A command that answers like a compiler."""
    path = folder / "compiler"
    path.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)


def test_code_is_compiled_once(fresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if compiled.loaded() is None:
        pytest.skip("there is no GCC here to compile with")
    folder = fresh / "cache" / "wrpo" / "compiled"
    (made,) = folder.iterdir()
    written = made.stat().st_mtime_ns
    compiled.loaded.cache_clear()
    assert compiled.loaded() is not None
    assert [path.stat().st_mtime_ns for path in folder.iterdir()] == [written]

    monkeypatch.setattr(compiled, "FLAGS", (*compiled.FLAGS, "-DOTHER"))
    assert compiled.build(folder) != made, "other flags, other code"
    assert len(list(folder.iterdir())) == 2


def test_all_functions_are_there() -> None:
    library = compiled.loaded()
    if library is None:
        pytest.skip("there is no GCC here to compile with")
    assert all(isinstance(library[name], ctypes._CFuncPtr) for name in compiled.FUNCTIONS)


@pytest.mark.parametrize(
    ("script", "told"),
    [
        (None, "No such file"),
        ("[ $1 = --version ] || { echo no such processor >&2; exit 1; }", "no such processor"),
        ('echo; for a; do [ "$before" = -o ] && echo junk > $a; before=$a; done', "invalid ELF"),
    ],
    ids=["missing", "failing", "writing junk"],
)
def test_without_a_compiler_there_is_one_line_and_none(
    script: str | None, told: str, fresh: Path, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    monkeypatch.setenv("CC", compiler(fresh, script) if script else str(fresh / "none"))
    with caplog.at_level(logging.WARNING):
        assert compiled.loaded() is None
        assert not compiled.usable(torch.zeros(16))
    (record,) = caplog.records
    assert "install GCC, or name it in CC" in record.message
    assert told in record.message or "too short" in record.message


def test_a_folder_that_cannot_be_written(
    fresh: Path, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    (fresh / "cache").write_text("a file", encoding="utf-8")
    assert compiled.loaded() is None
    assert len(caplog.records) == 1


def test_the_name_tells_the_processor(fresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A home folder that several machines share must not hand one the code of another."""
    monkeypatch.setenv(
        "CC", compiler(fresh, "for a; do last=$o; o=$a; case $last in -o) : > $a;; esac; done")
    )
    here = compiled.build(fresh)
    monkeypatch.setattr(compiled, "processor", lambda fields: "another")
    assert compiled.build(fresh) != here


def test_tensors_without_numbers_are_not_taken() -> None:
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        assert not compiled.usable(torch.empty(16))


def test_threads_are_torchs_up_to_a_limit() -> None:
    before = torch.get_num_threads()
    try:
        for threads in (1, 2, 100):
            torch.set_num_threads(threads)
            assert compiled.threads() == min(threads, compiled.THREADS)
    finally:
        torch.set_num_threads(before)
    assert os.cpu_count()
