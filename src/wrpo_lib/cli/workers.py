"""The options of ``wrpo sample`` and ``wrpo score`` that spread them over many machines."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from wrpo_lib.errors import WRPOError

if TYPE_CHECKING:
    from wrpo_lib.generation import Engine, Sampling
    from wrpo_lib.generation.cluster import Cluster
    from wrpo_lib.generation.rewards import Scorer


def workers_of(
    workers: int, ray: str, gpus: float, batch: int, limit: int | None = None
) -> Cluster:
    """The options ``--workers``, ``--ray``, ``--gpus`` and ``--worker-batch``."""
    from wrpo_lib.generation.cluster import Cluster

    if workers < 1 or batch < 1:
        raise WRPOError(f"--workers {workers} and --worker-batch {batch} must be 1 or more")
    if limit is not None:
        raise WRPOError("--limit and --workers do not go together; cut the file of prompts instead")
    return Cluster(workers, gpus, batch, ray or None)


def sample_spread(
    prompts: Path, make: Callable[[], Engine], name: str, sampling: Sampling, out: Path,
    cluster: Cluster, settings: dict[str, Any],
) -> None:  # fmt: skip
    """Sample over the cluster and say how much was made."""
    from wrpo_lib.generation.cluster import sample_on_cluster

    made = sample_on_cluster(prompts, make, name, sampling, out, cluster, settings)
    typer.echo(f"{out}: made {made} responses with {cluster.workers} workers")


def score_spread(
    files: list[Path], make: Callable[[], Scorer], name: str, out: Path, cluster: Cluster,
    settings: dict[str, Any],
) -> None:  # fmt: skip
    """Score file after file over the cluster and say how much was made."""
    from wrpo_lib.generation.cluster import score_on_cluster

    made = sum(score_on_cluster(path, make, name, out, cluster, settings) for path in files)
    typer.echo(f"{out}: made {made} rewards with {cluster.workers} workers")
