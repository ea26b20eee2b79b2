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
from cluster_run import SAMPLES, make_engine, make_scorer

from wrpo_lib import cli
from wrpo_lib.errors import WRPOError
from wrpo_lib.generation.cluster import (
    Cluster,
    _collect,
    _pending,
    _plain,
    _read_at,
    _Worker,
    spread,
)
from wrpo_lib.generation.request import Sampling
from wrpo_lib.generation.stage import sample_responses, score_responses
from wrpo_lib.io import Store
from wrpo_lib.nano.tasks import Task
from wrpo_lib.quadruples.split import read_prompts

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
    """What a run with a killed worker, begun on a file with some rows, and the stages leave."""
    folder = tmp_path_factory.mktemp("cluster")
    prompts(folder / "prompts.jsonl")
    cut = '{"prompt_id": "p9'  # a line that an earlier kill cut short
    text = "".join(json.dumps(r) + "\n" for r in OLD) + cut
    (folder / "out.jsonl").write_text(text)
    tasks = [Task("copy", x + y + z) for x in "abj" for y in "cdj" for z in "efgj"]
    nano = [{"prompt_id": t.prompt_id, "prompt": t.messages} for t in tasks]
    (folder / "nano.jsonl").write_text("".join(json.dumps(r) + "\n" for r in nano))
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
    """The run went on from rows that were there, the last one cut short by an earlier kill."""
    killed = int((runs / "killed").read_text())
    rows = rows_of(runs / "out.jsonl")
    assert Counter((r["prompt_id"], r["sample"]) for r in rows) == WHOLE
    assert rows[: len(OLD)] == OLD
    new = rows[len(OLD) :]
    assert (runs / "resumed.said").read_text() == str(len(new))
    assert all(r["text"] == f"SAY {r['prompt_id'][1:]}\u2028Ä" for r in new)
    assert killed not in {r["worker"] for r in new if r["prompt_id"] == "p50"}
    assert len({r["worker"] for r in new}) >= 2


def test_what_a_worker_cannot_do_is_one_sentence(tmp_path: Path) -> None:
    """Bad input comes back as its sentence; any other error by its last line."""

    def make_work() -> Any:
        def work(rows: list[dict[str, Any]]) -> Any:
            raise WRPOError("the model has no room for p1; shorten it")

        return work

    path = prompts(tmp_path / "prompts.jsonl")
    sent = _Worker(path, make_work)({"starts": [[0]]})
    with (
        Store(tmp_path / "out.jsonl", ("prompt_id",)) as store,
        pytest.raises(WRPOError, match=r"^the model has no room for p1; shorten it$"),
    ):
        _collect([sent], store)
    said = _plain(RuntimeError("ray::Worker\n  File x\nValueError: no such layer\nTo retry, set"))
    assert str(said).startswith("a worker failed (ValueError: no such layer)")
    with pytest.raises(WRPOError, match="a worker cannot see"):
        _read_at(tmp_path / "elsewhere.jsonl", [0])


def test_sampling_and_scoring_are_what_one_machine_makes(runs: Path, tmp_path: Path) -> None:
    """The same rows as the stages of a single process, in another order; one prompt fails alone."""
    said, made = (runs / "stages.said").read_text().split("\n")
    assert said.startswith(
        "2 responses failed, the first for prompt_id 'copy-jjj': no room; the 70"
    )
    assert made == "70"
    sampling = Sampling(n=SAMPLES, max_tokens=8)
    with pytest.raises(WRPOError, match="2 responses failed"):
        sample_responses(
            read_prompts(runs / "nano.jsonl"), make_engine(), "echo", sampling,
            tmp_path / "sampled.jsonl",
        )  # fmt: skip
    rows = rows_of(tmp_path / "sampled.jsonl")
    score_responses(rows, make_scorer(), "nano", tmp_path / "scored.jsonl")
    for name in ("sampled.jsonl", "scored.jsonl"):
        mine, theirs = (
            sorted(rows_of(folder / name), key=lambda r: (r["prompt_id"], r["sample"]))
            for folder in (tmp_path, runs)
        )
        assert mine == theirs
    assert json.loads((runs / "scored.run.json").read_text())["settings"] == {
        "reward_model": "nano"
    }


def wanted(row: dict[str, Any], number: int) -> bool:
    return True


def test_bad_input_is_named_before_ray_starts(tmp_path: Path) -> None:
    path = prompts(tmp_path / "prompts.jsonl")
    with Store(tmp_path / "out.jsonl", ("prompt_id",)) as store:
        with pytest.raises(WRPOError, match=r"give plain \.jsonl"):
            spread(tmp_path / "p.parquet", store, list, wanted, Cluster())
        with pytest.raises(WRPOError, match=r"none\.jsonl does not exist"):
            spread(tmp_path / "none.jsonl", store, list, wanted, Cluster())
        path.write_text(path.read_text() + "{\n[1]\n")
        with pytest.raises(WRPOError, match=f"line {N + 1}: not JSON"):
            spread(path, store, list, wanted, Cluster())
        path.write_text("[1]\n")
        with pytest.raises(WRPOError, match="line 1: not a JSON object"):
            spread(path, store, list, wanted, Cluster())
        assert spread(prompts(path), store, list, lambda row, number: False, Cluster()) == 0


def test_batches_hold_places_not_rows(tmp_path: Path) -> None:
    path = prompts(tmp_path / "prompts.jsonl")
    batches = list(_pending(path, lambda row, number: row["prompt_id"] != "p1", 50))
    assert [len(b) for b in batches] == [50, 50, 19]
    with path.open("rb") as file:
        file.seek(batches[0][1])
        assert json.loads(file.readline())["prompt_id"] == "p2"


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--workers", "-1"], "--workers -1 and --worker-batch 256 must be 1 or more"),
        (["--workers", "2", "--worker-batch", "0"], "must be 1 or more"),
        (["--workers", "2", "--limit", "3"], "--limit and --workers do not go together"),
    ],
)
def test_bad_options_of_workers_are_one_sentence(
    tmp_path: Path,
    options: list[str],
    sentence: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    file, out = prompts(tmp_path / "prompts.jsonl"), tmp_path / "out.jsonl"
    asked = ["sample", str(file), "--model", "none", "--out", str(out), *options]
    monkeypatch.setattr("sys.argv", ["wrpo", *asked])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert stop.value.code == 2
    err = capsys.readouterr().err
    assert sentence in err
    assert len(err.strip().splitlines()) == 1
    assert not out.exists()
