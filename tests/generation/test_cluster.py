"""A real local Ray cluster of two workers: a killed one loses and doubles nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from wrpo_lib.errors import WRPOError
from wrpo_lib.generation.cluster import _pending, spread
from wrpo_lib.store import Store

pytest.importorskip("ray", reason="needs the extra `cluster` (ray)")
N = 120
WHOLE = Counter({(f"p{i}", k): 1 for i in range(N) for k in range(2)})
OLD = [{"prompt_id": f"p{i}", "model": "echo", "sample": k, "text": "old"}
       for i in range(41) for k in range(2)][:-1]  # fmt: skip


def prompts(path: Path) -> Path:
    rows = [{"prompt_id": f"p{i}", "prompt": f"say {i}\u2028ä"} for i in range(N)]
    path.write_text("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows))
    return path


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder after a run with a killed worker, a failing run and its rerun."""
    folder = tmp_path_factory.mktemp("cluster")
    prompts(folder / "prompts.jsonl")
    cut = '{"prompt_id": "p9'  # a line that an earlier kill cut short
    text = "".join(json.dumps(r) + "\n" for r in OLD) + cut
    (folder / "resumed.jsonl").write_text(text)
    script = Path(__file__).with_name("cluster_run.py")
    done = subprocess.run(
        [sys.executable, script, folder], capture_output=True, text=True, timeout=600,
        env={**os.environ, "RAY_USAGE_STATS_ENABLED": "0"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().split("\n") if line]


def test_a_killed_worker_loses_and_doubles_nothing(runs: Path) -> None:
    killed = int((runs / "killed").read_text())
    rows = rows_of(runs / "killed.jsonl")
    assert Counter((r["prompt_id"], r["sample"]) for r in rows) == WHOLE
    assert all(r["text"] == f"SAY {r['prompt_id'][1:]}\u2028Ä" for r in rows)
    assert (runs / "killed-kill.said").read_text() == str(2 * N)
    assert killed not in {r["worker"] for r in rows if r["prompt_id"] == "p50"}
    assert len({r["worker"] for r in rows}) >= 2


def test_an_error_in_a_worker_is_one_sentence_and_a_rerun_does_the_rest(runs: Path) -> None:
    said = (runs / "resumed-fail.said").read_text()
    assert said == "the model has no room for p50; shorten it"
    rows = rows_of(runs / "resumed.jsonl")
    assert rows[: len(OLD)] == OLD
    assert sum(r["text"] == "old" for r in rows) == len(OLD)
    assert Counter((r["prompt_id"], r["sample"]) for r in rows) == WHOLE


def test_bad_input_is_named_before_ray_starts(tmp_path: Path) -> None:
    path = prompts(tmp_path / "prompts.jsonl")
    with Store(tmp_path / "out.jsonl", ("prompt_id",)) as store:
        with pytest.raises(WRPOError, match=r"give plain \.jsonl"):
            spread(tmp_path / "p.parquet", store, list, bool)
        with pytest.raises(WRPOError, match=r"none\.jsonl does not exist"):
            spread(tmp_path / "none.jsonl", store, list, bool)
        path.write_text(path.read_text() + "{\n[1]\n")
        with pytest.raises(WRPOError, match=f"line {N + 1}: not JSON"):
            spread(path, store, list, bool)
        path.write_text("[1]\n")
        with pytest.raises(WRPOError, match="line 1: not a JSON object"):
            spread(path, store, list, bool)
        assert spread(prompts(path), store, list, lambda row: False) == 0


def test_batches_hold_places_not_rows(tmp_path: Path) -> None:
    path = prompts(tmp_path / "prompts.jsonl")
    batches = list(_pending(path, lambda row: row["prompt_id"] != "p1", 50))
    assert [len(b) for b in batches] == [50, 50, 19]
    with path.open("rb") as file:
        file.seek(batches[0][1])
        assert json.loads(file.readline())["prompt_id"] == "p2"
