"""The command line: quick to start, one sentence for bad input, exit status 2."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from commandline import wrpo

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


def test_a_good_file_is_summed_up(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = wrpo(capsys, "data", "check", write(tmp_path / "q.jsonl", GOOD))
    assert code == 0
    assert "1 quadruples (wrpo format), nothing wrong" in out
    assert "y_ws from: big 100.0%" in out


@pytest.mark.parametrize(
    ("rows", "sentence"),
    [
        ([GOOD, {**GOOD, "prompt_id": "p2", "rejected": None}], "row 2, field 'rejected': missing"),
        ([{**GOOD, "target_chosen": "  "}], "row 1, field 'target_chosen': is empty"),
        ([GOOD, GOOD], "row 2, field 'prompt_id': 'p1' stands in row 1"),
        ([GOOD, '{"prompt_id": "p2", "pro'], "line 2: not JSON"),
        ([{**GOOD, "rejected_reward": "high"}], "row 1, field 'rejected_reward': is 'high'"),
    ],
)
def test_a_fault_names_row_and_field(
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
    assert wrpo(capsys, "data", "export", mine, theirs)[0] == 0
    code, out, _ = wrpo(capsys, "data", "check", theirs)
    assert code == 0
    assert "official format" in out
    assert wrpo(capsys, "data", "import", theirs, back)[0] == 0
    assert json.loads(back.read_text()) == GOOD


def test_a_failed_import_leaves_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bad = write(
        tmp_path / "bad.jsonl", {"prompt_id": "p", "prompt": [], "chosen": [], "rejected": []}
    )
    code, _, err = wrpo(capsys, "data", "import", bad, tmp_path / "out.jsonl")
    assert code == 2
    assert "row 1, field 'chosen': needs a list of 2" in err
    assert sorted(p.name for p in tmp_path.iterdir()) == ["bad.jsonl"]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["results", "giant"], "unknown profile 'giant'; choose one of nano"),
        (["results", "paper"], "has recipes but no study of its own"),
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


def test_starting_is_quick_and_light() -> None:
    heavy = "{'torch', 'transformers', 'pandas', 'matplotlib', 'datasets'}"
    code = f"import sys, wrpo_lib, wrpo_lib.cli; sys.exit(bool({heavy} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
    seconds = []
    for _ in range(3):  # other work on the machine only ever adds time
        start = time.perf_counter()
        done = subprocess.run([sys.executable, "-m", "wrpo_lib.cli", "--help"], capture_output=True)
        assert done.returncode == 0
        seconds.append(time.perf_counter() - start)
    assert min(seconds) < 3  # under one second on an idle machine
