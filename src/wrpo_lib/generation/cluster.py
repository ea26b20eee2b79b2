"""Sampling and scoring spread over many machines with Ray Data (extra ``cluster``).

The driver reads the input once to find the rows that are still to be done, hands out batches of
them by their place in the file, and appends what comes back to a :class:`~wrpo_lib.io.Store`.
Each worker is a process that loads its model once, reads its batches from the file itself (which
must lie where every machine can read it) and calls the same function that a single machine calls.
A worker that dies is started anew and its batch done again; the store takes each row once. So no
row is lost and none doubled, and memory is bounded by the batches under way, not by the file.
"""

from __future__ import annotations

import functools
import json
import math
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from wrpo_lib.chat import as_messages
from wrpo_lib.errors import WRPOError
from wrpo_lib.generation.request import Engine, Request, Sampling
from wrpo_lib.generation.rewards import Rows, Scorer
from wrpo_lib.generation.stage import KEY, keep_record, response_row
from wrpo_lib.io import Store
from wrpo_lib.quadruples.schema import row_problems

Work = Callable[[Rows], Rows]
"""What is done with a batch: prompts to their responses, responses to the same with rewards. A row
with ``error`` instead of its text says why there is none."""
Pending = Callable[[dict[str, Any], int], bool]
"""Whether a row, with its number, is still to be done; bad input is refused here."""


class Cluster(NamedTuple):
    """Where to run: ``workers`` processes, each with ``gpus`` GPUs, doing ``batch_size`` rows.

    ``address`` joins a running Ray cluster (``auto`` or ``host:port``); None starts one here.
    """

    workers: int = 2
    gpus: float = 0
    batch_size: int = 64
    address: str | None = None


def sample_on_cluster(
    prompts: Path,
    make_engine: Callable[[], Engine],
    model: str,
    sampling: Sampling,
    out: Path,
    cluster: Cluster,
    settings: dict[str, Any] | None = None,
) -> int:
    """:func:`~wrpo_lib.generation.stage.sample_responses` over a cluster; returns rows written."""
    names = ("n", "temperature", "top_p", "max_tokens", "seed", "seeds")
    plain = {name: getattr(sampling, name) for name in names}
    with Store(out, KEY) as store:
        keep_record(out, {"model": model, **plain, **(settings or {})}, free=("n",))
        done, seen = store.keys(), set[str]()

        def pending(row: dict[str, Any], number: int) -> bool:
            where, prompt_id = f"{prompts}, row {number}", row.get("prompt_id")
            as_messages(row.get("prompt"), where)
            if not isinstance(prompt_id, str) or prompt_id in seen:
                raise WRPOError(f"{where}, field 'prompt_id': missing or repeated; make ids unique")
            seen.add(prompt_id)
            return any((prompt_id, model, k) not in done for k in range(sampling.n))

        work = functools.partial(_sampler, make_engine, model, sampling)
        return spread(prompts, store, work, pending, cluster)


def _sampler(make_engine: Callable[[], Engine], model: str, sampling: Sampling) -> Work:
    engine = make_engine()

    def work(rows: Rows) -> Rows:
        messages = {row["prompt_id"]: as_messages(row["prompt"], "prompts") for row in rows}
        found = []
        for made in engine(Request(i, asked, sampling) for i, asked in messages.items()):
            row = response_row(made.key, messages[made.key], model, made)
            found.append(row if made.error is None else {**row, "error": made.error})
        return found

    return work


def score_on_cluster(
    responses: Path,
    make_scorer: Callable[[], Scorer],
    reward_model: str,
    out: Path,
    cluster: Cluster,
    settings: dict[str, Any] | None = None,
) -> int:
    """:func:`~wrpo_lib.generation.stage.score_responses` over a cluster; returns rows written."""
    with Store(out, KEY) as store:
        keep_record(out, {"reward_model": reward_model, **(settings or {})})
        done = store.keys()

        def pending(row: dict[str, Any], number: int) -> bool:
            for problem in row_problems(row, number, "responses"):
                raise WRPOError(problem.sentence(str(responses)))
            return bool(row["text"].strip()) and tuple(row[k] for k in KEY) not in done

        work = functools.partial(_scorer, make_scorer, reward_model)
        return spread(responses, store, work, pending, cluster)


def _scorer(make_scorer: Callable[[], Scorer], reward_model: str) -> Work:
    scorer = make_scorer()

    def work(rows: Rows) -> Rows:
        found: Rows = []
        for position, reward in scorer(rows):
            row = rows[position]
            if not math.isfinite(reward):
                raise WRPOError(
                    f"the reward of sample {row['sample']} of {row['model']!r} for prompt_id "
                    f"{row['prompt_id']!r} is {reward}; check the reward model, or its dtype"
                )
            found.append({**row, "reward_model": reward_model, "reward": reward})
        return found

    return work


def spread(
    path: Path,
    store: Store,
    make_work: Callable[[], Work],
    is_pending: Pending,
    cluster: Cluster,
) -> int:
    """Do the pending rows of ``path`` (plain JSONL) on a Ray cluster; returns the rows written.

    ``make_work`` is called once in every worker, where it loads the model; it must be picklable,
    for example a ``functools.partial`` of a module's function.
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
    batches = [{"starts": found} for found in _pending(path, is_pending, cluster.batch_size)]
    if not batches:
        return 0
    _connect(cluster)
    ray.data.DataContext.get_current().enable_progress_bars = False
    blocks = min(len(batches), 8 * cluster.workers)
    done = ray.data.from_items(batches, override_num_blocks=blocks).map_batches(
        _Worker,
        fn_constructor_args=(path.resolve(), make_work),
        batch_size=1,
        compute=ray.data.ActorPoolStrategy(size=cluster.workers),
        num_cpus=0 if cluster.gpus else 1,
        num_gpus=cluster.gpus,
    )
    try:
        return _collect(done.iter_batches(batch_size=1, prefetch_batches=1), store)
    except ray.exceptions.RayError as error:
        raise _plain(error) from error


def _collect(batches: Any, store: Store) -> int:
    """Append what the workers send back, each row once; what failed is said at the end."""
    written, failed, first, keys = 0, 0, "", store.keys()
    for batch in batches:
        if batch["error"][0]:
            raise WRPOError(batch["error"][0])
        for row in json.loads(batch["rows"][0]):
            if row.get("error"):
                failed += 1
                first = first or f"prompt_id {row['prompt_id']!r}: {row['error']}"
            elif tuple(row[field] for field in store.key) not in keys:
                store.append(row)
                written += 1
    if failed:
        raise WRPOError(
            f"{failed} responses failed, the first for {first}; the {written} made are kept in "
            f"{store.path}: mend the cause and run again for the rest"
        )
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


def _pending(path: Path, is_pending: Pending, size: int) -> Iterator[list[int]]:
    """The byte at which each pending row starts, in lists of ``size``."""
    starts: list[int] = []
    start = 0
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                if is_pending(_row(path, number, line), number):
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


def _connect(cluster: Cluster) -> None:
    """Join the cluster at its address or start one on this machine, unless already joined."""
    import logging

    import ray

    logging.getLogger("ray.data").setLevel(logging.WARNING)
    if ray.is_initialized():
        return
    try:
        if cluster.address is None:
            ray.init(
                num_cpus=cluster.workers, include_dashboard=False, logging_level=logging.WARNING
            )
        else:
            ray.init(address=cluster.address, logging_level=logging.WARNING)
    except (ConnectionError, ValueError) as error:
        raise WRPOError(
            f"no Ray cluster at {cluster.address!r} ({error}); start one first"
        ) from error


def _plain(error: Exception) -> WRPOError:
    """What a worker died of, as one sentence."""
    said = [
        line for line in str(error).splitlines() if re.match(r"[\w.]*(Error|Exception)\b", line)
    ]
    what = said[-1] if said else type(error).__name__
    return WRPOError(f"a worker failed ({what}); finished rows are kept, run again to go on")
