"""Sampling and scoring spread over many machines with Ray Data (extra ``cluster``).

The driver reads the input once to find the rows that are still to be done, hands out batches of
them by their place in the file, and appends what comes back to a :class:`~wrpo_lib.store.Store`.
Each worker is a process that loads its model once, reads its batches from the file itself (which
must lie where every machine can read it) and calls the same function that a single machine calls.
A worker that dies is started anew and its batch done again; the store takes each row once. So no
row is lost and none doubled, and memory is bounded by the batches under way, not by the file.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from wrpo_lib.errors import WRPOError
from wrpo_lib.store import Store

Rows = list[dict[str, Any]]
Work = Callable[[Rows], Rows]
"""What is done with a batch: prompts to their responses, responses to the same with rewards."""


def spread(
    path: Path,
    store: Store,
    make_work: Callable[[], Work],
    is_pending: Callable[[dict[str, Any]], bool],
    *,
    workers: int = 2,
    batch_size: int = 64,
    gpus: float = 0,
    address: str | None = None,
) -> int:
    """Do the pending rows of ``path`` (plain JSONL) on a Ray cluster; returns the rows written.

    ``make_work`` is called once in every worker, where it loads the model; it must be picklable,
    for example a ``functools.partial`` of a module's function. ``gpus`` is what each worker asks
    for; ``address`` joins a running cluster (``auto`` or ``host:port``), None starts one here.
    """
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise WRPOError(
            "Ray is not installed; install the extra: pip install 'wrpo-companion[cluster]'"
        ) from error
    if path.suffix != ".jsonl":
        raise WRPOError(f"{path}: workers find their rows by byte; give plain .jsonl")
    batches = [{"starts": starts} for starts in _pending(path, is_pending, batch_size)]
    if not batches:
        return 0
    _connect(address, workers)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    data = ray.data.from_items(batches, override_num_blocks=min(len(batches), 8 * workers))
    done = data.map_batches(
        _Worker,
        fn_constructor_args=(path.resolve(), make_work),
        batch_size=1,
        compute=ray.data.ActorPoolStrategy(size=workers),
        num_cpus=0 if gpus else 1,
        num_gpus=gpus,
    )
    written, keys = 0, store.keys()
    try:
        for batch in done.iter_batches(batch_size=1, prefetch_batches=1):
            if batch["error"][0]:
                raise WRPOError(batch["error"][0])
            for row in json.loads(batch["rows"][0]):
                if tuple(row[field] for field in store.key) not in keys:
                    store.append(row)
                    written += 1
    except ray.exceptions.RayError as error:
        raise _plain(error) from error
    return written


class _Worker:
    """One process of the pool: the model, loaded once, and the file that batches are read from."""

    def __init__(self, path: Path, make_work: Callable[[], Work]) -> None:
        self.path, self.work = path, make_work()

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[str]]:
        # rows travel as JSON text: Arrow would have to guess a type for prompts of every shape
        rows: Rows = []
        error = ""
        try:
            rows = self.work(_read_at(self.path, batch["starts"][0]))
        except WRPOError as found:  # bad input stays bad: say it, and let Ray not try again
            error = str(found)
        return {"rows": [json.dumps(rows, ensure_ascii=False)], "error": [error]}


def _pending(
    path: Path, is_pending: Callable[[dict[str, Any]], bool], size: int
) -> Iterator[list[int]]:
    """The byte at which each pending row starts, in lists of ``size``."""
    starts: list[int] = []
    start = 0
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                if is_pending(_row(path, number, line)):
                    starts.append(start)
                start += len(line)
                if len(starts) == size:
                    yield starts
                    starts = []
    except FileNotFoundError as error:
        raise WRPOError(f"{path} does not exist; check the path") from error
    if starts:
        yield starts


def _row(path: Path, number: int, line: bytes) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise WRPOError(f"{path}, line {number}: not JSON; correct or remove it") from error
    if not isinstance(row, dict):
        raise WRPOError(f"{path}, line {number}: not a JSON object; write one row a line")
    return row


def _read_at(path: Path, starts: Any) -> Rows:
    try:
        with path.open("rb") as file:
            rows = []
            for start in starts:
                file.seek(int(start))
                rows.append(json.loads(file.readline()))
            return rows
    except FileNotFoundError as error:
        raise WRPOError(
            f"a worker cannot see {path}; put the file where every machine can read it"
        ) from error


def _connect(address: str | None, workers: int) -> None:
    """Join the cluster at ``address`` or start one on this machine, unless already joined."""
    import logging

    import ray

    logging.getLogger("ray.data").setLevel(logging.WARNING)
    if ray.is_initialized():
        return
    try:
        if address is None:
            ray.init(num_cpus=workers, include_dashboard=False, logging_level=logging.WARNING)
        else:
            ray.init(address=address, logging_level=logging.WARNING)
    except (ConnectionError, ValueError) as error:
        raise WRPOError(f"no Ray cluster at {address!r} ({error}); start one first") from error


def _plain(error: Exception) -> WRPOError:
    """What a worker died of, as one sentence."""
    said = [
        line for line in str(error).splitlines() if re.match(r"[\w.]*(Error|Exception)\b", line)
    ]
    what = said[-1] if said else type(error).__name__
    return WRPOError(f"a worker failed ({what}); finished rows are kept, run again to go on")
