"""Memory of sampling, scoring and pairing grows with keys and numbers, never with texts."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

needs_proc = pytest.mark.skipif(
    not Path("/proc/self/status").is_file(), reason="peak memory is read from /proc (Linux)"
)


def stages(folder: Path, prompts: int) -> tuple[dict[str, Any], float]:
    """Peak memory in MiB after each stage, and the MiB of rewards that pairing read."""
    folder.mkdir()
    script = Path(__file__).with_name("scale_run.py")
    done = subprocess.run(
        [sys.executable, script, folder, str(prompts)], capture_output=True, text=True, check=True,
        env={**os.environ, "TQDM_DISABLE": "1"},
    )  # fmt: skip
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    size = sum(p.stat().st_size for p in folder.glob("*-rewards.jsonl")) / 2**20
    with (folder / "q.jsonl").open() as file:
        assert sum(1 for _ in file) == prompts
    return {row["stage"]: row["peak"] for row in rows}, size


@needs_proc
def test_memory_follows_the_batch_not_the_file(tmp_path: Path) -> None:
    small, size = stages(tmp_path / "small", 500)
    large, larger = stages(tmp_path / "large", 3000)
    print(small, size, large, larger)
    grown = larger - size  # about 45 MiB of text more
    assert grown > 40
    for stage in ("sample", "score"):
        assert large[stage] - small[stage] < 0.35 * grown
