"""Runs on one local Ray cluster of two workers, in a process of its own.

The argument is a folder; ``test_cluster.py`` reads what is left there. A cluster takes seconds to
start, so all runs share one.
"""

from __future__ import annotations

import functools
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from wrpo_lib.cli.score import _programmatic
from wrpo_lib.errors import WRPOError
from wrpo_lib.generation.cluster import Cluster, sample_on_cluster, score_on_cluster, spread
from wrpo_lib.generation.request import Response, Sampling
from wrpo_lib.io import Store

SAMPLES = 2


def make_work(folder: Path) -> Any:
    """Two upper-case echoes of each prompt; the first worker to meet p50 is killed."""

    def work(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        time.sleep(0.05)
        if any(row["prompt_id"] == "p50" for row in rows) and not (folder / "killed").exists():
            (folder / "killed").write_text(str(os.getpid()))
            os.kill(os.getpid(), signal.SIGKILL)
        return [
            {"prompt_id": row["prompt_id"], "model": "echo", "sample": k,
             "text": row["prompt"].upper(), "worker": os.getpid()}
            for row in rows for k in range(SAMPLES)
        ]  # fmt: skip

    return work


def resume(folder: Path) -> int:
    """Do the prompts that ``out.jsonl`` lacks, with two workers; the rows written."""
    with Store(folder / "out.jsonl", ("prompt_id", "model", "sample")) as store:
        done = {prompt for prompt, _, k in store.keys() if k == SAMPLES - 1}  # noqa: SIM118
        pending = lambda row, number: row["prompt_id"] not in done  # noqa: E731
        work = functools.partial(make_work, folder)
        return spread(folder / "prompts.jsonl", store, work, pending, Cluster(2, batch_size=4))


def make_engine() -> Any:
    """An engine that copies the letters asked for; sample 1 slips; one prompt fails."""

    def engine(requests: Any) -> Any:
        for request in requests:
            letters = request.messages[-1]["content"].partition(" : ")[2]
            for k in request.wanted:
                seed = request.sampling.seed_of(request.key, k)
                error = "no room" if request.key == "copy-jjj" else None
                text = f"answer : {letters if k == 0 else 'a'} ."
                yield Response(request.key, k, text, 5, "stop", seed, error)

    return engine


make_scorer = functools.partial(_programmatic, None)  # what `wrpo score --nano` gives each worker


def stages(folder: Path) -> str:
    """Sampling and scoring over the cluster; the prompt that fails is said and the rest kept."""
    sampling, cluster = Sampling(n=SAMPLES, max_tokens=8), Cluster(2, batch_size=8)
    said = ""
    try:
        sample_on_cluster(folder / "nano.jsonl", make_engine, "echo", sampling,
                          folder / "sampled.jsonl", cluster)  # fmt: skip
    except WRPOError as error:
        said = str(error).replace(str(folder), "")
    made = score_on_cluster(folder / "sampled.jsonl", make_scorer, "nano", folder / "scored.jsonl",
                            cluster)  # fmt: skip
    return f"{said}\n{made}"


if __name__ == "__main__":
    here = Path(sys.argv[1])
    (here / "resumed.said").write_text(str(resume(here)))
    (here / "stages.said").write_text(stages(here))
