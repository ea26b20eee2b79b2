"""The command line: light to start, one sentence for bad input, exit status 2."""

import subprocess
import sys

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
    ],
)
def test_bad_input_is_one_sentence(
    capsys: pytest.CaptureFixture[str], arguments: list[str], sentence: str
) -> None:
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
