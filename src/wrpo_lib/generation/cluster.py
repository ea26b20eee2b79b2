"""Sampling and scoring spread over many machines with Ray Data (extra ``cluster``).

:class:`OnCluster` stands in for an engine or a scorer, so the stages of a single machine keep the
records, take each row once and make only what is missing. Each worker is a process that loads its
model once; one that dies is started anew and its batch done again. What is still to be done lies in
Ray's object store, which goes to disk where memory is short.
"""

from __future__ import annotations

import logging
import pickle
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

from wrpo_lib.errors import WRPOError

SCORED_AT_ONCE = 100_000
"""Rows handed to a scorer on a cluster at a time: every call starts the workers afresh."""


@dataclass(frozen=True)
class Cluster:
    """Where to run: ``workers`` processes, each doing ``batch_size`` requests or rows at a time.

    ``gpus`` is how many GPUs each of them has, by default one where the cluster has any;
    ``address`` joins a running Ray cluster (``auto`` or ``host:port``), None starts one here.
    """

    workers: int = 2
    gpus: float | None = None
    batch_size: int = 64
    address: str | None = None


@dataclass
class OnCluster:
    """Engines, or with ``scores`` scorers, that the picklable ``make`` makes, one per worker.

    Called like what it stands for; responses, or pairs of position and reward, come in any order.
    """

    make: Callable[[], Any]
    cluster: Cluster
    scores: bool = False

    def __call__(self, items: Iterable[Any]) -> Iterator[Any]:
        """What the workers make of requests, or of rows of responses."""
        ray = _ray()
        import pyarrow as pa

        _connect(ray, self.cluster)
        source, size, start, blocks = iter(items), self.cluster.batch_size, 0, []
        while batch := list(islice(source, size)):
            row = {"start": [start if self.scores else -1], "batch": [pickle.dumps(batch)]}
            blocks.append(ray.put(pa.table(row)))
            start += len(batch)
        if not blocks:
            return
        gpus = self.cluster.gpus
        gpus = float("GPU" in ray.cluster_resources()) if gpus is None else gpus
        done = ray.data.from_arrow_refs(blocks).map_batches(
            _Worker,
            fn_constructor_args=(self.make,),
            batch_size=1,
            compute=ray.data.ActorPoolStrategy(size=self.cluster.workers),
            num_cpus=0 if gpus else 1,
            num_gpus=gpus,
        )
        try:
            for row in done.iter_rows():
                made = pickle.loads(row["made"])
                if isinstance(made, WRPOError):
                    raise made
                yield from made
        except ray.exceptions.RayError as error:
            found = re.findall(r"^[\w.]*(?:Error|Exception)\b.*", str(error), re.MULTILINE)
            raise WRPOError(
                f"a worker failed ({found[-1] if found else type(error).__name__}); finished rows "
                "are kept, run again to go on"
            ) from error


class _Worker:
    """One process of the pool, with the model loaded once."""

    def __init__(self, make: Callable[[], Any]) -> None:
        self.work = make()

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[bytes]]:
        start, items = int(batch["start"][0]), pickle.loads(batch["batch"][0])
        try:
            made: Any = list(self.work(items))
            if start >= 0:
                made = [(start + position, reward) for position, reward in made]
        except WRPOError as error:  # bad input stays bad: say it, and let Ray not try again
            made = error
        return {"made": [pickle.dumps(made)]}


def _ray() -> Any:
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise WRPOError(
            "Ray is not installed; install the extra: pip install 'wrpo-companion[cluster]'"
        ) from error
    return ray


def _connect(ray: Any, cluster: Cluster) -> None:
    """Join the cluster at its address or start one on this machine, unless already joined."""
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    ray.data.DataContext.get_current().enable_progress_bars = False
    here = {"num_cpus": cluster.workers, "include_dashboard": False}
    where = here if cluster.address is None else {"address": cluster.address}
    try:
        if not ray.is_initialized():
            ray.init(logging_level=logging.WARNING, **where)
    except (ConnectionError, ValueError) as error:
        raise WRPOError(
            f"no Ray cluster at {cluster.address!r} ({error}); start one first"
        ) from error
