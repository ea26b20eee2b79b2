"""The command line: light to start, one sentence for bad input, exit status 2."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from commandline import wrpo

HEAVY = {"torch", "transformers", "pandas", "numpy", "matplotlib", "datasets"}
GOOD: dict[str, Any] = {
    "prompt_id": "p1",
    "prompt": [{"role": "user", "content": "reverse : a b"}],
    "source_chosen": "sure : b a",
    "target_chosen": "answer : b a",
    "rejected": "answer : a b",
    "source_model": "big",
}


def write(path: Path, *rows: Any) -> Path:
    path.write_text("".join((r if isinstance(r, str) else json.dumps(r)) + "\n" for r in rows))
    return path


@pytest.mark.parametrize(
    ("rows", "sentence"),
    [
        ([GOOD, {**GOOD, "prompt_id": "p2", "rejected": None}], "row 2, field 'rejected'"),
        ([{**GOOD, "target_chosen": "  "}], "row 1, field 'target_chosen'"),
        ([GOOD, GOOD], "row 2, field 'prompt_id'"),
        ([GOOD, '{"prompt_id": "p2", "pro'], "line 2: not JSON"),
    ],
)
def test_a_fault_names_file_row_and_field(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], rows: list[Any], sentence: str
) -> None:
    path = write(tmp_path / "q.jsonl", *rows)
    code, out, err = wrpo(capsys, "data", "check", path)
    assert (code, out) == (2, "")
    assert sentence in err
    assert str(path) in err
    assert len(err.strip().splitlines()) == 1


def test_official_rows_there_and_back(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mine, theirs, back = (tmp_path / n for n in ("q.jsonl", "official.jsonl", "back.jsonl"))
    write(mine, GOOD)
    for command in (["check", mine], ["export", mine, theirs], ["import", theirs, back]):
        assert wrpo(capsys, "data", *command)[0] == 0
    assert "(official)" in wrpo(capsys, "data", "check", theirs)[1]
    assert json.loads(back.read_text()) == GOOD
    bad = write(tmp_path / "bad.jsonl", {"prompt_id": "p", "chosen": [], "rejected": []})
    assert wrpo(capsys, "data", "import", bad, tmp_path / "out.jsonl")[0] == 2
    assert not list(tmp_path.glob("*out.jsonl*"))


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["results", "giant"], "unknown profile 'giant'; choose one of nano"),
        (["results", "nano", "--seeds", "one"], "--seeds is 'one'"),
        (["data", "check", "nowhere.jsonl"], "nowhere.jsonl does not exist"),
        (["figures", "paper"], "no results for profile 'paper'"),
    ],
)
def test_bad_arguments_are_one_sentence(
    capsys: pytest.CaptureFixture[str], arguments: list[str], sentence: str
) -> None:
    code, _, err = wrpo(capsys, *arguments)
    assert code == 2
    assert sentence in err
    assert len(err.strip().splitlines()) == 1


@pytest.mark.parametrize("arguments", [[], ["-m", "wrpo_lib.cli", "--help"]])
def test_neither_the_library_nor_the_help_imports_anything_heavy(arguments: list[str]) -> None:
    command = [sys.executable, "-X", "importtime", *(arguments or ["-c", "import wrpo_lib"])]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "wrpo_lib" in imported
    assert not imported & HEAVY
