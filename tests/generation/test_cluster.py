"""A real local Ray cluster of two workers: a killed one loses and doubles nothing."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from generation_rows import prompt_rows

from wrpo_lib.errors import WRPOError
from wrpo_lib.generation.cluster import OnCluster
from wrpo_lib.generation.stage import Request, Response, Sampling, sample_responses, score_responses
from wrpo_lib.io import read_rows

pytest.importorskip("ray", reason="needs the extra `cluster` (ray)")
SHORT = Sampling(n=2, max_tokens=8)
N = 60


def make_engine(folder: Path) -> Any:
    """Echoes of each prompt; p9 fails, and the first worker to meet p40 is killed."""

    def engine(requests: Iterable[Request]) -> Iterator[Response]:
        for r in requests:
            if r.key == "p40" and not (folder / "killed").exists():
                (folder / "killed").touch()
                os.kill(os.getpid(), signal.SIGKILL)
            error = "no room" if r.key == "p9" else None
            text = f"{r.sample} {r.messages[-1]['content']}\u2028ä"
            yield Response(r.key, r.sample, text, 3, "stop", r.seed, error)

    return engine


def make_scorer() -> Any:
    """The length of a text as its reward."""
    return lambda rows: ((row, float(len(row["text"]))) for row in rows)


def stages(folder: Path, engine: Any, scorer: Any) -> str:
    """Sampling and scoring; what went wrong on the way."""
    made, said = folder / "made.jsonl", ""
    prompts = [(r["prompt_id"], r["prompt"]) for r in prompt_rows(N)]
    try:
        sample_responses(prompts, engine, "echo", SHORT, made)
    except WRPOError as error:
        said = str(error)
    score_responses(read_rows(made), scorer, "length", folder / "s.jsonl")
    return said


def on_cluster(folder: Path) -> None:
    """What the test's own process runs."""
    engine = OnCluster(partial(make_engine, folder), batch_size=4)
    said = stages(folder, engine, OnCluster(make_scorer, batch_size=16))
    (folder / "said").write_text(said)


def test_the_rows_of_one_machine_though_a_worker_is_killed(tmp_path: Path) -> None:
    """Begun on a file with some rows, the last cut short by an earlier kill."""
    one, two = tmp_path / "one", tmp_path / "two"
    one.mkdir()
    two.mkdir()
    (one / "killed").touch()
    stages(one, make_engine(one), make_scorer())
    begun = b"\n".join((one / "made.jsonl").read_bytes().split(b"\n")[:9]) + b"\n"
    (two / "made.jsonl").write_bytes(begun + b'{"prompt_id": "p')
    code = f"from test_cluster import on_cluster, Path; on_cluster(Path({str(two)!r}))"
    here = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    env = {**os.environ, "RAY_USAGE_STATS_ENABLED": "0", "PYTHONPATH": here}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stderr[-3000:]
    said = (two / "said").read_text()
    assert (two / "killed").exists(), said
    assert said.startswith("2 responses failed, the first for prompt_id 'p9': no room; the 109")
    assert (two / "made.jsonl").read_bytes().startswith(begun)
    for name in ("made.jsonl", "s.jsonl"):
        mine, theirs = (
            sorted(read_rows(folder / name), key=lambda r: (r["prompt_id"], r["sample"]))
            for folder in (one, two)
        )
        assert mine == theirs
        assert len(mine) == 2 * (N - 1)
