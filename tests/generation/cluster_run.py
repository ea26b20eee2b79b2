"""Three runs on one local Ray cluster of two workers, in a process of its own.

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

from wrpo_lib.errors import WRPOError
from wrpo_lib.generation.cluster import spread
from wrpo_lib.store import Store

SAMPLES = 2


def make_work(folder: Path, trouble: str) -> Any:
    """Two upper-case echoes of each prompt; the batch with p50 meets the ``trouble``."""

    def work(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        time.sleep(0.05)
        if any(row["prompt_id"] == "p50" for row in rows):
            if trouble == "kill" and not (folder / "killed").exists():
                (folder / "killed").write_text(str(os.getpid()))
                os.kill(os.getpid(), signal.SIGKILL)
            if trouble == "fail":
                raise WRPOError("the model has no room for p50; shorten it")
        return [
            {"prompt_id": row["prompt_id"], "model": "echo", "sample": k,
             "text": row["prompt"].upper(), "worker": os.getpid()}
            for row in rows for k in range(SAMPLES)
        ]  # fmt: skip

    return work


def run(folder: Path, name: str, trouble: str) -> str:
    """Spread the prompts over two workers; the rows written, or the error."""
    with Store(folder / f"{name}.jsonl", ("prompt_id", "model", "sample")) as store:
        keys = store.keys()
        done = {prompt for prompt, _, k in keys if k == SAMPLES - 1}
        work = functools.partial(make_work, folder, trouble)
        pending = lambda row: row["prompt_id"] not in done  # noqa: E731
        try:
            return str(spread(folder / "prompts.jsonl", store, work, pending, batch_size=4))
        except WRPOError as error:
            return str(error)


if __name__ == "__main__":
    here = Path(sys.argv[1])
    for name, trouble in (("killed", "kill"), ("resumed", "fail"), ("resumed", "none")):
        (here / f"{name}-{trouble}.said").write_text(run(here, name, trouble))
