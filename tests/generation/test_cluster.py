"""A real local Ray cluster of two workers: a killed one loses and doubles nothing."""

from __future__ import annotations

import functools
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from generation_rows import prompt_rows, read_rows, write_rows

from wrpo_lib.cli import main
from wrpo_lib.errors import WRPOError
from wrpo_lib.generation.cluster import Cluster, OnCluster
from wrpo_lib.generation.request import Request, Response, Sampling
from wrpo_lib.generation.stage import sample_responses, score_responses

pytest.importorskip("ray", reason="needs the extra `cluster` (ray)")
SHORT = Sampling(n=2, max_tokens=8)
N = 60


def make_engine(folder: Path) -> Any:
    """Echoes of each prompt; p9 fails, and the first worker to meet p40 is killed."""

    def engine(requests: Iterable[Request]) -> Iterator[Response]:
        for request in requests:
            if request.key == "p40" and not (folder / "killed").exists():
                (folder / "killed").write_text(str(os.getpid()))
                os.kill(os.getpid(), signal.SIGKILL)
            for k in request.wanted:
                seed = request.sampling.seed_of(request.key, k)
                text = f"{k} {request.messages[-1]['content']}\u2028ä"
                error = "no room" if request.key == "p9" else None
                yield Response(request.key, k, text, 3, "stop", seed, error)

    return engine


def make_scorer(broken: str) -> Any:
    """The length of a text as its reward; the prompt ``broken`` is refused."""

    def scorer(rows: list[dict[str, Any]]) -> Iterator[tuple[int, float]]:
        for k in reversed(range(len(rows))):
            if rows[k]["prompt_id"] == broken:
                raise WRPOError(f"no reward for {broken}; leave it out")
            yield k, float(len(rows[k]["text"]))

    return scorer


def stages(folder: Path, engine: Any, scorers: list[Any]) -> list[str]:
    """Sampling and scoring; the sentences of what went wrong on the way."""
    said = []
    prompts = [(r["prompt_id"], r["prompt"]) for r in read_rows(folder.parent / "prompts.jsonl")]
    try:
        sample_responses(prompts, engine, "echo", SHORT, folder / "made.jsonl")
    except WRPOError as error:
        said.append(str(error).replace(str(folder), ""))
    rows = read_rows(folder / "made.jsonl")
    for scorer in scorers:
        try:
            score_responses(rows, scorer, "length", folder / "scored.jsonl", window=50)
        except WRPOError as error:
            said.append(str(error))
    return said


def on_cluster(folder: Path) -> None:
    """What the test's own process runs."""
    cluster = Cluster(2, batch_size=4)
    scorers = [
        OnCluster(functools.partial(make_scorer, broken), cluster, scores=True)
        for broken in ("p3", "")
    ]
    engine = OnCluster(functools.partial(make_engine, folder), cluster)
    (folder / "said.json").write_text(json.dumps(stages(folder, engine, scorers)))


def test_the_rows_of_one_machine_though_a_worker_is_killed(tmp_path: Path) -> None:
    """Begun on a file with some rows, the last cut short by an earlier kill."""
    write_rows(tmp_path / "prompts.jsonl", prompt_rows(N))
    one, two = tmp_path / "one", tmp_path / "two"
    one.mkdir()
    two.mkdir()
    (one / "killed").touch()
    expected = stages(one, make_engine(one), [make_scorer("p3"), make_scorer("")])
    begun = (one / "made.jsonl").read_bytes().split(b"\n")[:9]
    (two / "made.jsonl").write_bytes(b"\n".join(begun) + b'\n{"prompt_id": "p')
    code = f"from test_cluster import on_cluster, Path; on_cluster(Path({str(two)!r}))"
    here = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=600,
        env={**os.environ, "RAY_USAGE_STATS_ENABLED": "0", "PYTHONPATH": here},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    said = json.loads((two / "said.json").read_text())
    assert (two / "killed").read_text()
    assert said[0].startswith("2 responses failed, the first for prompt_id 'p9': no room; the 109")
    assert said[1:] == expected[1:] == ["no reward for p3; leave it out"]
    assert (two / "made.jsonl").read_bytes().startswith(b"\n".join(begun) + b"\n")
    for name in ("made.jsonl", "scored.jsonl"):
        mine, theirs = (
            sorted(read_rows(folder / name), key=lambda r: (r["prompt_id"], r["sample"]))
            for folder in (one, two)
        )
        assert mine == theirs
        assert len(mine) == 2 * (N - 1)


def test_bad_options_are_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file, out = write_rows(tmp_path / "prompts.jsonl", prompt_rows(2)), tmp_path / "out.jsonl"
    for options in (["--workers", "-1"], ["--workers", "2", "--worker-batch", "0"]):
        asked = ["sample", str(file), "--model", "none", "--out", str(out), *options]
        monkeypatch.setattr("sys.argv", ["wrpo", *asked])
        with pytest.raises(SystemExit) as stop:
            main()
        assert stop.value.code == 2
        assert "Invalid value" in capsys.readouterr().err
    assert not out.exists()
