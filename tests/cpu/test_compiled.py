"""The compiler is asked once, and training goes on where it fails."""

from __future__ import annotations

import ctypes
import logging
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from wrpo_lib.cache import cache_dir
from wrpo_lib.cpu import compiled


@pytest.fixture(autouse=True)
def library() -> None:
    """Not the fixture of the other files: here it is the loading itself that is looked at."""


@pytest.fixture
def fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A cache folder of its own, and nothing loaded."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    compiled.loaded.cache_clear()
    yield tmp_path
    compiled.loaded.cache_clear()


COPY = "for a; do last=$o; o=$a; case $last in -o) : > $a;; esac; done"
"""Writes an empty file where it is told to."""


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
    assert "it needs GCC, found as gcc or named by CC" in record.message
    assert told in record.message or "too short" in record.message


def test_a_folder_that_cannot_be_written(
    fresh: Path, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    (fresh / "cache").write_text("a file", encoding="utf-8")
    assert compiled.loaded() is None
    assert len(caplog.records) == 1


@pytest.mark.parametrize("cc", ['gcc "', "gcc -fvisibility=hidden"])
def test_a_compiler_that_is_named_wrongly(
    cc: str, fresh: Path, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    monkeypatch.setenv("CC", cc)
    assert compiled.loaded() is None
    assert len(caplog.records) == 1


def test_a_home_that_is_not_known(monkeypatch: pytest.MonkeyPatch, caplog: Any) -> None:
    def unknown(path: Path) -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "expanduser", unknown)
    compiled.loaded.cache_clear()
    try:
        assert compiled.loaded() is None
        assert "Could not determine home directory" in caplog.text
    finally:
        compiled.loaded.cache_clear()


def test_a_damaged_file_is_made_again(fresh: Path) -> None:
    if compiled.loaded() is None:
        pytest.skip("there is no GCC here to compile with")
    (made,) = (fresh / "cache" / "wrpo" / "compiled").iterdir()
    made.unlink()  # the code that is loaded stays as it is
    made.write_bytes(b"junk")
    code = "from wrpo_lib.cpu import compiled; assert compiled.loaded() is not None"
    subprocess.run([sys.executable, "-c", code], check=True)
    assert made.read_bytes()[:4] == b"\x7fELF"


def test_processes_that_compile_at_once(fresh: Path) -> None:
    if compiled.loaded() is None:
        pytest.skip("there is no GCC here to compile with")
    code = "import sys, pathlib; from wrpo_lib.cpu import compiled as c; "
    code += "print(c.build(pathlib.Path(sys.argv[1])))"
    command = [sys.executable, "-c", code, str(fresh / "both")]
    started = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    names = {process.communicate()[0].strip() for process in started}
    assert [process.returncode for process in started] == [0, 0]
    assert names == {str(path) for path in (fresh / "both").iterdir()}
    assert len(names) == 1


def test_flags_in_the_compilers_name_count(fresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", compiler(fresh, COPY))
    here = compiled.build(fresh)
    monkeypatch.setenv("CC", compiler(fresh, COPY) + " -g")
    assert compiled.build(fresh) != here


def test_the_cache_folder_is_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Code is loaded from it: not from wherever a command happens to be run."""
    monkeypatch.setenv("HOME", str(tmp_path))
    for named in ("", "relative"):
        monkeypatch.setenv("XDG_CACHE_HOME", named)
        assert cache_dir() == tmp_path / ".cache" / "wrpo"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "x"))
    assert cache_dir() == tmp_path / "x" / "wrpo"


def test_the_name_tells_the_processor(fresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A home folder that several machines share must not hand one the code of another."""
    monkeypatch.setenv("CC", compiler(fresh, COPY))
    here = compiled.build(fresh)
    monkeypatch.setattr(compiled, "processor", lambda fields: "another")
    assert compiled.build(fresh) != here


def test_tensors_without_numbers_are_not_taken() -> None:
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        assert not compiled.usable(torch.empty(16))
