"""Pairing at size: the memory of ``wrpo pair`` in a process of its own."""

import json
import random
import subprocess
import sys
from pathlib import Path

import pytest

MEASURE = r"""
import re, time
from wrpo_lib import cli
cli.app(standalone_mode=False)
peak = re.search(r"VmHWM:\s+(\d+) kB", open("/proc/self/status").read())  # maxrss has the parent's
print(time.process_time(), int(peak.group(1)) / 1024)
"""


def measure(folder: Path, prompts: int) -> tuple[float, float]:
    """MiB of five responses of 11 models to each prompt, and peak MiB of pairing them.

    Their lengths are like those of UltraFeedback's answers.
    """
    data, out, draw = folder / f"{prompts}.jsonl", folder / "q.jsonl", random.Random(0)
    sea = "".join(draw.choices("etaoin shrdlu,.", k=100_000))
    with data.open("w", encoding="utf-8") as file:
        for p, k in ((p, k) for p in range(prompts) for k in range(55)):
            start, size = draw.randrange(90_000), draw.lognormvariate(7.2, 0.7)  # median 1,340
            row = {"prompt_id": f"{p:064x}", "model": f"model-{k // 5:02d}", "sample": k % 5}
            row["prompt"] = [{"role": "user", "content": sea[p : p + 300]}]
            row["text"] = sea[start : start + min(max(int(size), 40), 8000)]
            row |= {"finish_reason": "stop", "reward": draw.gauss(0.13, 0.03)}
            file.write(json.dumps(row) + "\n")
    command = [sys.executable, "-c", MEASURE, "pair", data, "--target", "model-00", "--out", out]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    seconds, memory = map(float, done.stdout.splitlines()[-1].split())
    size = data.stat().st_size / 2**20
    print(f"{size:.0f} MiB of responses: {seconds:.0f} s of CPU, {memory:.0f} MiB")
    with out.open() as file:
        assert sum(1 for _ in file) == prompts
    return size, memory


def test_pairing_keeps_numbers_not_texts(tmp_path: Path) -> None:
    """A file four times as large costs a fraction of its size in memory."""
    small, large = measure(tmp_path, 600), measure(tmp_path, 2400)
    assert large[1] - small[1] < 0.5 * (large[0] - small[0])


@pytest.mark.slow
def test_sixty_thousand_prompts_with_55_responses(tmp_path: Path) -> None:
    assert measure(tmp_path, 60_000)[1] < 4096
