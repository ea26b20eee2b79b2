"""Memory of sampling and scoring grows with keys and numbers, never with texts."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from wrpo_lib.generation.request import Request, Response, Sampling
from wrpo_lib.generation.stage import sample_responses, score_responses
from wrpo_lib.io import iter_rows

STATUS = Path("/proc/self/status")


def engine(requests: Iterable[Request]) -> Iterator[Response]:
    """Answers of about 1,600 characters."""
    for r in requests:
        yield Response(r.key, r.sample, f"{r.seed} " + "so it is said , " * 100, 9, "stop", r.seed)


def stages(folder: Path, n: int) -> float:
    """Sampling and scoring, five responses to each prompt; the peak of memory in MiB."""
    prompts = ((f"p{k}", [{"role": "user", "content": f"copy : {k}"}]) for k in range(n))
    made, scored = folder / f"{n}.jsonl", folder / f"{n}-rewards.jsonl"
    sample_responses(prompts, engine, "m", Sampling(), made)
    rewards = lambda rows: ((k, float(row["seed"])) for k, row in enumerate(rows))  # noqa: E731
    score_responses(iter_rows(made), rewards, "trivial", scored)
    found = re.search(r"VmHWM:\s+(\d+) kB", STATUS.read_text())
    return int(found.group(1)) / 1024 if found else 0.0


@pytest.mark.skipif(not STATUS.is_file(), reason="peak memory is read from /proc (Linux)")
def test_memory_follows_the_batch_not_the_file(tmp_path: Path) -> None:
    peaks, sizes = [], []
    for n in (500, 6000):
        code = f"from test_scale import Path, stages; print(stages(Path({str(tmp_path)!r}), {n}))"
        here = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
        env = {**os.environ, "TQDM_DISABLE": "1", "PYTHONPATH": here}
        command = [sys.executable, "-c", code]
        done = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
        peaks.append(float(done.stdout))
        sizes.append((tmp_path / f"{n}-rewards.jsonl").stat().st_size / 2**20)
    grown = sizes[1] - sizes[0]
    assert grown > 40
    assert peaks[1] - peaks[0] < 0.35 * grown
