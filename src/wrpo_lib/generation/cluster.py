"""Many engines or scorers at once, on this machine or a cluster, under Ray Data."""

import logging
import os
import pickle
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, cast

from wrpo_lib.errors import WRPOError, explained
from wrpo_lib.generation.stage import windows

BLOCKS = 1000  # batches in Ray's memory at once; each such round starts the workers anew


@dataclass
class OnCluster:
    """Stands in for an engine or a scorer: ``make`` (picklable) makes one in each worker's process.

    A worker that dies is started anew and its batch of ``batch_size`` requests or rows done again.
    Each has ``gpus`` GPUs, by default one where the cluster has any. Ray joins the cluster at its
    RAY_ADDRESS, else starts one here. What comes back is in any order.
    """

    make: Callable[[], Any]
    workers: int = 2
    gpus: float | None = None
    batch_size: int = 256

    def __call__(self, items: Iterable[Any]) -> Iterator[Any]:
        """What the workers make of requests, or of rows of responses."""
        with explained("Ray is missing", "pip install 'wrpo-companion[cluster]'"):
            import ray.data
        logging.getLogger("ray.data").setLevel(logging.WARNING)
        here: dict[str, Any] = {"num_cpus": self.workers, "include_dashboard": False}
        here = {} if "RAY_ADDRESS" in os.environ else here
        for blocks in windows(windows(items, self.batch_size), BLOCKS):
            try:
                ray.init(logging_level=logging.WARNING, ignore_reinit_error=True, **here)
                ray.data.DataContext.get_current().enable_progress_bars = False
                gpus = float("GPU" in ray.cluster_resources()) if self.gpus is None else self.gpus
                packed = [{"batch": pickle.dumps(block)} for block in blocks]
                done = ray.data.from_items(packed, override_num_blocks=len(packed)).map(
                    cast("Any", _Worker),
                    fn_constructor_args=(self.make,),
                    compute=ray.data.ActorPoolStrategy(size=self.workers),
                    num_cpus=0 if gpus else 1,
                    num_gpus=gpus,
                )
                for row in done.iter_rows():
                    yield from pickle.loads(row["made"])
            except Exception as error:  # Ray's words, with the worker's among them
                said = [*re.findall(r"WRPOError: (.+)", str(error)), *str(error).splitlines(), ""]
                what = f"Ray or a worker failed ({said[0]}); run again to go on"
                raise WRPOError(what) from error


class _Worker:
    """One process of the pool, with the model loaded once."""

    def __init__(self, make: Callable[[], Any]) -> None:
        self.work = make()

    def __call__(self, block: dict[str, Any]) -> dict[str, bytes]:
        return {"made": pickle.dumps(list(self.work(pickle.loads(block["batch"]))))}
