"""Append-only files that survive kills, full disks and malformed lines."""

from __future__ import annotations

import json
import resource
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from wrpo_lib.errors import WRPOError
from wrpo_lib.io import Store

KEY = ("prompt_id", "sample")


def row(k: int, text: str = "a b") -> dict[str, Any]:
    return {"prompt_id": f"p{k}", "sample": 0, "text": text}


def filled(path: Path, n: int = 3) -> Path:
    with Store(path, KEY) as store:
        for k in range(n):
            store.append(row(k))
    return path


def test_rows_and_keys_there_and_back(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "rows.jsonl"
    with Store(path, KEY) as store:
        assert (len(store), store.keys()) == (0, set())
        store.append(row(0, "ä \n ' \" 東京 \ud83d"))
        store.append(row(1))
        assert [r["prompt_id"] for r in store] == ["p0", "p1"]
    with Store(path, KEY) as store:
        assert store.keys() == {("p0", 0), ("p1", 0)}
        assert next(iter(store))["text"] == "ä \n ' \" 東京 ?"  # half an emoji


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cut=st.integers(min_value=0, max_value=300))
def test_a_file_cut_anywhere_loses_the_last_line_only(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "rows.jsonl"
    path.unlink(missing_ok=True)
    data = filled(path).read_bytes()
    cut = min(cut, len(data))
    path.write_bytes(data[:cut])
    ends = [len(b"".join(data.splitlines(True)[: k + 1])) for k in range(3)]
    whole = sum(cut >= end - 1 for end in ends)
    with Store(path, KEY) as store:
        assert store.keys() == {(f"p{k}", 0) for k in range(whole)}
        for k in range(whole, 3):
            store.append(row(k))
    assert path.read_bytes() == data


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("{broken", "line 2: not JSON"),
        ("[1]", "line 2: not a JSON object"),
        ('{"prompt_id": "p7"}', "line 2, field 'sample': missing"),
        ('{"prompt_id": "p0", "sample": 0}', "line 2: the row prompt_id 'p0', sample 0 stands in"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, line: str, sentence: str) -> None:
    path = filled(tmp_path / "rows.jsonl")
    lines = path.read_text().splitlines()
    path.write_text("\n".join([lines[0], line, *lines[1:]]) + "\n")
    before = path.read_bytes()
    with pytest.raises(WRPOError, match=rf"rows\.jsonl, {sentence}"):
        Store(path, KEY)
    assert path.read_bytes() == before


def test_a_row_is_refused_before_it_is_written(tmp_path: Path) -> None:
    path = filled(tmp_path / "rows.jsonl", 1)
    before = path.read_bytes()
    with Store(path, KEY) as store:
        with pytest.raises(WRPOError, match="the row prompt_id 'p0', sample 0 stands in"):
            store.append(row(0))
        with pytest.raises(WRPOError, match=r"\('p5', 0\) for .* holds NaN"):
            store.append({**row(5), "reward": float("nan")})
        with pytest.raises(WRPOError, match="field 'prompt_id': missing"):
            store.append({"sample": 0})
    assert path.read_bytes() == before


def test_a_full_disk_keeps_what_is_finished(tmp_path: Path) -> None:
    """Files may grow by ten bytes, so part of a line is written and then no more."""
    path = filled(tmp_path / "rows.jsonl")
    before, limit = path.read_bytes(), resource.getrlimit(resource.RLIMIT_FSIZE)
    with Store(path, KEY) as store:
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 10, limit[1]))
        try:
            with pytest.raises(WRPOError, match=r"too large.*3 finished rows are kept"):
                store.append(row(3))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        assert path.read_bytes() == before
        store.append(row(3))
    assert len(path.read_text().splitlines()) == 4


def test_one_writer_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    with Store(path, KEY), pytest.raises(WRPOError, match="written by another process"):
        Store(path, KEY)
    Store(path, KEY).close()


WRITER = """
import sys
from wrpo_lib.io import Store
with Store(sys.argv[1], ("prompt_id", "sample")) as store:
    for k in range(len(store), 10**9):
        store.append({"prompt_id": f"p{k}", "sample": 0, "text": "x" * (k * 7919 % 50_000)})
        print(k, flush=True)
"""


def test_killed_writers_leave_whole_rows(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    said = 0
    for wait in (1, 5, 23):
        command = [sys.executable, "-c", WRITER, str(path)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
            assert writer.stdout is not None
            for _ in range(wait):
                said = int(writer.stdout.readline())
            writer.send_signal(signal.SIGKILL)
        with Store(path, KEY) as store:
            rows = list(store)
            assert [r["prompt_id"] for r in rows] == [f"p{k}" for k in range(len(store))]
            assert len(rows) > said, "a row that was reported as written is lost"
    assert json.loads(path.read_text().splitlines()[-1])
