"""Pairing at size: time and memory of ``wrpo pair`` in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

MEASURE = r"""
import re, sys, time
from wrpo_lib import cli
start = time.perf_counter()
sys.argv = ["wrpo", *sys.argv[1:]]
cli.main.__globals__["app"](standalone_mode=False)
seconds = time.perf_counter() - start
peak = re.search(r"VmHWM:\s+(\d+) kB", open("/proc/self/status").read())  # maxrss has the parent's
print(seconds, int(peak.group(1)) / 1024)
"""


def write_responses(path: Path, prompts: int, models: int, seed: int = 0) -> None:
    """Five responses of each model to each prompt; text lengths like UltraFeedback's answers."""
    rng = np.random.default_rng(seed)
    letters = rng.choice(list("etaoin shrdlu,.\\n"), 1_000_000, p=None)
    sea = json.dumps("".join(letters))[1:-1].replace("\\", "/")
    with path.open("w", encoding="utf-8") as file:
        for p in range(prompts):
            n = models * 5
            sizes = np.clip(rng.lognormal(7.2, 0.7, n), 40, 8000).astype(int)  # median 1,340
            starts = rng.integers(0, len(sea) - 8000, n)
            rewards = rng.normal(0.13, 0.03, n)
            for k in range(n):
                file.write(
                    f'{{"prompt_id": "{p:064x}", "prompt": [{{"role": "user", "content": "'
                    f'{sea[p : p + 300]}"}}], "model": "model-{k // 5:02d}", "sample": {k % 5}, '
                    f'"text": "{sea[starts[k] : starts[k] + sizes[k]]}", "n_tokens": 300, '
                    f'"finish_reason": "stop", "seed": 13, "reward_model": "none", '
                    f'"reward": {rewards[k]:.5f}}}\n'
                )


def measure(tmp_path: Path, prompts: int, models: int) -> tuple[float, float, int]:
    """Seconds and peak MiB of pairing, and the rows written."""
    if not Path("/proc/self/status").is_file():
        pytest.skip("peak memory of a process is read from /proc, which only Linux has")
    tmp_path.mkdir()
    data, out = tmp_path / "rewards.jsonl", tmp_path / "q.jsonl"
    write_responses(data, prompts, models)
    arguments = ["pair", data, "--out", out, "--target", "model-00", "--split", tmp_path / "s.json"]
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, *map(str, arguments)],
        capture_output=True, text=True, check=True, env={**os.environ},
    )  # fmt: skip
    seconds, memory = map(float, done.stdout.splitlines()[-1].split())
    with out.open() as file:
        return seconds, memory, sum(1 for _ in file)


def test_pairing_keeps_numbers_not_texts(tmp_path: Path) -> None:
    """A file four times as large costs a fraction of its size in memory."""
    small = measure(tmp_path / "small", 600, 11)
    large = measure(tmp_path / "large", 2400, 11)
    sizes = [(tmp_path / n / "rewards.jsonl").stat().st_size / 2**20 for n in ("small", "large")]
    print(sizes, small, large)
    assert (small[2], large[2]) == (400, 1600)
    assert large[1] - small[1] < 0.5 * (sizes[1] - sizes[0])


@pytest.mark.slow
def test_sixty_thousand_prompts_with_55_responses(tmp_path: Path) -> None:
    seconds, memory, rows = measure(tmp_path / "full", 60_000, 11)
    size = (tmp_path / "full" / "rewards.jsonl").stat().st_size / 2**30
    print(f"{size:.1f} GiB of responses: {seconds:.0f} s, {memory:.0f} MiB, {rows} rows")
    assert rows == 40_000
    assert memory < 4096
