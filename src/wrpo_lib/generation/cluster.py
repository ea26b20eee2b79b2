"""Sampling and scoring spread over many machines with Ray Data (extra ``cluster``).

:class:`ClusterEngine` is an engine and :class:`ClusterScorer` a scorer, so the stages of a single
machine keep the records, take each row once and make only what is missing. Each worker is a process
that loads its model once; one that dies is started anew and its batch done again. What is still to
be done lies in Ray's object store, which goes to disk where memory is short.
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
from wrpo_lib.generation.request import Engine, Request, Response
from wrpo_lib.generation.rewards import Scorer
from wrpo_lib.io import Row

SCORED_AT_ONCE = 100_000
"""Rows per call of a :class:`ClusterScorer`: every call starts the workers afresh."""


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

    def __post_init__(self) -> None:
        if self.workers < 1 or self.batch_size < 1:
            raise WRPOError(
                f"{self.workers} workers with {self.batch_size} rows at a time; both must be at "
                "least 1"
            )


@dataclass
class ClusterEngine:
    """The engines that ``make`` makes, one in each worker; ``make`` must be picklable."""

    make: Callable[[], Engine]
    cluster: Cluster

    def __call__(self, requests: Iterable[Request]) -> Iterator[Response]:
        """Responses in any order."""
        yield from _spread(self.cluster, self.make, requests)


@dataclass
class ClusterScorer:
    """The scorers that ``make`` makes, one in each worker; ``make`` must be picklable."""

    make: Callable[[], Scorer]
    cluster: Cluster

    def __call__(self, rows: list[Row]) -> Iterator[tuple[int, float]]:
        """(position, reward) of each row in any order."""
        yield from _spread(self.cluster, self.make, enumerate(rows), numbered=True)


def _spread(
    cluster: Cluster, make: Callable[[], Any], items: Iterable[Any], numbered: bool = False
) -> Iterator[Any]:
    """What the workers make of ``items``; ``numbered`` ones come as (position, row)."""
    try:
        import pyarrow as pa
        import ray
        import ray.data
    except ImportError as error:
        raise WRPOError(
            "Ray is not installed; install the extra: pip install 'wrpo-companion[cluster]'"
        ) from error
    source = iter(items)
    first = list(islice(source, cluster.batch_size))
    if not first:
        return
    _connect(cluster)
    blocks, batch = [], first
    while batch:
        blocks.append(ray.put(pa.table({"batch": [pickle.dumps(batch)]})))
        batch = list(islice(source, cluster.batch_size))
    gpus = cluster.gpus
    if gpus is None:
        gpus = float("GPU" in ray.cluster_resources())
    done = ray.data.from_arrow_refs(blocks).map_batches(
        _Worker,
        fn_constructor_args=(make, numbered),
        batch_size=1,
        compute=ray.data.ActorPoolStrategy(size=cluster.workers),
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
        lines = [x for x in str(error).splitlines() if re.match(r"[\w.]*(Error|Exception)\b", x)]
        what = lines[-1] if lines else type(error).__name__
        raise WRPOError(
            f"a worker failed ({what}); finished rows are kept, run again to go on"
        ) from error


class _Worker:
    """One process of the pool, with the model loaded once."""

    def __init__(self, make: Callable[[], Any], numbered: bool) -> None:
        self.work, self.numbered = make(), numbered

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[bytes]]:
        items = pickle.loads(batch["batch"][0])
        try:
            if self.numbered:
                places, rows = zip(*items, strict=True)
                made: Any = [(places[k], reward) for k, reward in self.work(list(rows))]
            else:
                made = list(self.work(items))
        except WRPOError as error:  # bad input stays bad: say it, and let Ray not try again
            made = error
        return {"made": [pickle.dumps(made)]}


def _connect(cluster: Cluster) -> None:
    """Join the cluster at its address or start one on this machine, unless already joined."""
    import ray

    logging.getLogger("ray.data").setLevel(logging.WARNING)
    ray.data.DataContext.get_current().enable_progress_bars = False
    if ray.is_initialized():
        return
    where: dict[str, Any] = {"address": cluster.address}
    if cluster.address is None:
        where = {"num_cpus": cluster.workers, "include_dashboard": False}
    try:
        ray.init(logging_level=logging.WARNING, **where)
    except (ConnectionError, ValueError) as error:
        raise WRPOError(
            f"no Ray cluster at {cluster.address!r} ({error}); start one first"
        ) from error
