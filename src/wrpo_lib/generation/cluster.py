"""Sampling and scoring spread over many machines with Ray Data (extra ``cluster``).

:class:`OnCluster` stands in for an engine or a scorer. Each worker is a process that loads its
model once; one that dies is started anew and its batch done again.
"""

from __future__ import annotations

import logging
import pickle
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

from wrpo_lib.errors import WRPOError, explained


@dataclass
class OnCluster:
    """Engines or scorers that the picklable ``make`` makes, one in each of ``workers`` processes.

    A worker takes ``batch_size`` requests or rows at a time and has ``gpus`` GPUs, by default one
    where the cluster has any; ``address`` joins a running Ray cluster (``auto`` or ``host:port``),
    "" starts one here. Responses, or pairs of position and reward, come in any order.
    """

    make: Callable[[], Any]
    workers: int = 2
    gpus: float | None = None
    batch_size: int = 64
    address: str = ""

    def __call__(self, items: Iterable[Any]) -> Iterator[Any]:
        """What the workers make of requests, or of rows of responses."""
        source, blocks = iter(items), list[dict[str, Any]]()
        while batch := list(islice(source, self.batch_size)):
            start = len(blocks) * self.batch_size
            blocks.append({"start": start, "batch": pickle.dumps(batch)})
        if not blocks:
            return
        ray, gpus = self._join(), self.gpus
        gpus = float("GPU" in ray.cluster_resources()) if gpus is None else gpus
        done = ray.data.from_items(blocks, override_num_blocks=len(blocks)).map(
            _Worker,
            fn_constructor_args=(self.make,),
            compute=ray.data.ActorPoolStrategy(size=self.workers),
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
            said = str(error).strip().splitlines()[-1:]
            raise WRPOError(f"a worker failed {said}; run again to go on") from error

    def _join(self) -> Any:
        """Ray, joined to a cluster."""
        try:
            import ray
            import ray.data
        except ImportError as error:
            raise WRPOError("Ray is missing: pip install 'wrpo-companion[cluster]'") from error
        logging.getLogger("ray.data").setLevel(logging.WARNING)
        ray.data.DataContext.get_current().enable_progress_bars = False
        here = {"num_cpus": self.workers, "include_dashboard": False}
        where = {"address": self.address} if self.address else here
        with explained(f"no Ray cluster at {self.address!r}", "start one"):
            ray.init(logging_level=logging.WARNING, ignore_reinit_error=True, **where)
        return ray


class _Worker:
    """One process of the pool, with the model loaded once."""

    def __init__(self, make: Callable[[], Any]) -> None:
        self.work = make()

    def __call__(self, block: dict[str, Any]) -> dict[str, bytes]:
        try:
            made: Any = list(self.work(pickle.loads(block["batch"])))
            if made and isinstance(made[0], tuple):  # a scorer's pairs
                made = [(block["start"] + position, reward) for position, reward in made]
        except WRPOError as error:  # bad input stays bad: say it, and let Ray not try again
            made = error
        return {"made": pickle.dumps(made)}
