"""The command line: light to start, one sentence for bad input, exit status 2."""

import subprocess
import sys
from pathlib import Path

import pytest
from commandline import wrpo

HEAVY = {"torch", "transformers", "pandas", "numpy", "matplotlib", "datasets"}


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["results", "giant"], "unknown profile 'giant'; choose one of nano"),
        (["results", "smol"], "needs --published FOLDER"),
        (["figures", "--only", "figur_5"], "did you mean 'figure_5'"),
        (["data", "check", "nowhere.jsonl"], "nowhere.jsonl does not exist"),
        (["data", "check", "cut.jsonl"], "cut.jsonl, line 1: not JSON"),
    ],
)
def test_bad_input_is_one_sentence(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    sentence: str,
) -> None:
    (tmp_path / "cut.jsonl").write_text('{"prompt_id": "p1", "pro')
    monkeypatch.chdir(tmp_path)
    code, out, err = wrpo(capsys, *arguments)
    assert (code, out) == (2, "")
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
