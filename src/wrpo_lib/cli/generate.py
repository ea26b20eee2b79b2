"""``wrpo sample``: responses of models to prompts."""

from __future__ import annotations

import json
from collections import Counter
from functools import partial
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Annotated, Any

import typer

from wrpo_lib.errors import WRPOError

if TYPE_CHECKING:
    from wrpo_lib.generation import Sampling
    from wrpo_lib.generation.cluster import Cluster
    from wrpo_lib.server import Server

Counts = Counter[str]
Workers = Annotated[int, typer.Option(help="processes of a Ray cluster; 0: this one", min=0)]
Ray = Annotated[str, typer.Option(help="address of a running cluster; default: start one")]
GPUs = Annotated[float | None, typer.Option(help="GPUs a worker has; default: 1 if there are any")]
WorkerBatch = Annotated[int, typer.Option(help="rows a worker takes at a time", min=1)]


def register(app: typer.Typer) -> None:
    """Add the commands of this module to ``app``."""
    app.command()(sample)


def sample(
    prompts: Annotated[Path, typer.Argument(help="rows with prompt_id and prompt")],
    out: Annotated[Path, typer.Option(help="responses, .jsonl; a run that was cut goes on")],
    model: Annotated[str, typer.Option(help="hub id, folder, .gguf, or the server's name for it")],
    engine: Annotated[str, typer.Option(help="transformers, vllm or server")] = "transformers",
    name: Annotated[str, typer.Option(help="the model's name in the rows; default: --model")] = "",
    n: Annotated[int, typer.Option(help="responses per prompt")] = 5,
    temperature: Annotated[float, typer.Option()] = 0.8,
    top_p: Annotated[float, typer.Option()] = 0.95,
    max_tokens: Annotated[int, typer.Option(help="tokens per response at most")] = 4096,
    seed: Annotated[int, typer.Option(help="all other seeds follow from it")] = 0,
    seeds: Annotated[
        str, typer.Option(help="one per sample, for all prompts: 1,2,3 or simpo (13,21,42,79,100)")
    ] = "",
    limit: Annotated[int | None, typer.Option(help="only the first so many prompts")] = None,
    revision: Annotated[str | None, typer.Option(help="commit of the model on the hub")] = None,
    trust_remote_code: Annotated[bool, typer.Option(help="run code that comes with it")] = False,
    dtype: Annotated[str, typer.Option(help="auto, bfloat16, float16, float32")] = "auto",
    batch_tokens: Annotated[int, typer.Option(help="transformers: a batch's size")] = 32768,
    tensor_parallel: Annotated[int, typer.Option(help="vllm: GPUs a model is spread over")] = 1,
    max_model_len: Annotated[
        int | None, typer.Option(help="vllm: prompt and response at most; default: the model's")
    ] = None,
    gpu_memory_utilization: Annotated[
        float, typer.Option(help="vllm: share of the memory it may take")
    ] = 0.9,
    enforce_eager: Annotated[
        bool, typer.Option(help="vllm: start without compiling; slower afterwards")
    ] = False,
    base_url: Annotated[str, typer.Option(help="server: http://localhost:8000/v1")] = "",
    api_key_env: Annotated[str, typer.Option(help="server: variable with the key")] = (
        "OPENAI_API_KEY"
    ),
    connections: Annotated[int, typer.Option(help="server: requests under way", min=1)] = 64,
    timeout: Annotated[float, typer.Option(help="server: seconds an attempt")] = 600.0,
    retries: Annotated[int, typer.Option(help="server: further attempts")] = 10,
    fold_system: Annotated[
        bool, typer.Option(help="server: system turn into the user turn (no such role there)")
    ] = False,
    extra_body: Annotated[str, typer.Option(help="server: JSON merged into requests")] = "",
    workers: Workers = 0,
    ray: Ray = "",
    gpus: GPUs = None,
    worker_batch: WorkerBatch = 256,
) -> None:
    """Sample n responses of MODEL to each prompt; only missing ones are made."""
    _sample(SimpleNamespace(**locals()))


def _sample(o: SimpleNamespace) -> None:
    from wrpo_lib.generation.stage import sample_responses
    from wrpo_lib.quadruples.split import read_prompts

    refuse_suffix(o.out)
    sampling, settings = _sampling(o), _settings(o)
    total = sum(1 for _ in islice(read_prompts(o.prompts), o.limit))  # all that is wrong with them
    engine = _engine(o)
    counts = sample_responses(
        islice(read_prompts(o.prompts), o.limit),
        engine,
        o.name or o.model,
        sampling,
        o.out,
        total=total,
        settings=settings,
    )
    folded = getattr(engine, "folded", 0)
    notes = [
        f"{counts['empty']} empty" if counts["empty"] else "",
        f"{counts['truncated']} ended by the token limit" if counts["truncated"] else "",
        f"the system turn of {folded} prompts put into the user turn" if folded else "",
    ]
    kept = f"; {counts['kept']} were there already" if counts["kept"] else ""
    said = "".join(f", {note}" for note in notes if note)
    typer.echo(f"{o.out}: made {counts['made']} responses to {total} prompts{said}{kept}")


def _sampling(o: SimpleNamespace) -> Sampling:
    from wrpo_lib.generation.request import SIMPO_SEEDS, Sampling

    seeds = ",".join(map(str, SIMPO_SEEDS)) if o.seeds == "simpo" else o.seeds
    try:
        chosen = tuple(int(s) for s in seeds.split(",") if s.strip())
    except ValueError as error:
        raise WRPOError(f"--seeds is {seeds!r}; give whole numbers or simpo") from error
    return Sampling(o.n, o.temperature, o.top_p, o.max_tokens, o.seed, chosen)


def _settings(o: SimpleNamespace) -> dict[str, Any]:
    """What must stay the same while a file grows, beside the sampling itself."""
    found = {"engine": o.engine, "revision": o.revision, "dtype": o.dtype}
    if o.engine == "vllm":
        found["max_model_len"] = o.max_model_len
    if o.engine != "server":
        return found
    extra, address = _extra(o.extra_body), _server(o).address
    return found | {"base_url": address, "extra_body": extra, "fold_system": o.fold_system}


def _server(o: SimpleNamespace) -> Server:
    from wrpo_lib.server import Server

    return Server(o.base_url, o.api_key_env, o.connections, o.timeout, o.retries)


def _engine(o: SimpleNamespace) -> Any:
    from wrpo_lib.generation import make_engine

    hub = {"revision": o.revision, "trust_remote_code": o.trust_remote_code, "dtype": o.dtype}
    own: dict[str, dict[str, Any]] = {
        "transformers": {"batch_tokens": o.batch_tokens},
        "vllm": {
            "tensor_parallel_size": o.tensor_parallel,
            "max_model_len": o.max_model_len,
            "gpu_memory_utilization": o.gpu_memory_utilization,
            "enforce_eager": o.enforce_eager,
        },
        "server": {
            "server": _server(o),
            "fold_system": o.fold_system,
            "extra_body": _extra(o.extra_body),
        },
    }
    make = partial(make_engine, o.engine, o.model, **hub, **own.get(o.engine, {}))
    if not o.workers:
        return make()
    from wrpo_lib.generation.cluster import OnCluster

    return OnCluster(make, cluster(o, needs_gpu=o.engine != "server"))


def cluster(o: SimpleNamespace, needs_gpu: bool) -> Cluster:
    """The options ``--workers``, ``--ray``, ``--gpus`` and ``--worker-batch``."""
    from wrpo_lib.generation.cluster import Cluster

    gpus = 0.0 if o.gpus is None and not needs_gpu else o.gpus
    return Cluster(o.workers, gpus, o.worker_batch, o.ray or None)


def _extra(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text or "{}")
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise WRPOError(f"--extra-body is {text!r}; give a JSON object such as '{{\"top_k\": 20}}'")
    return value


def refuse_suffix(out: Path) -> None:
    """Only plain JSONL can be appended to."""
    if out.suffix != ".jsonl":
        raise WRPOError(f"--out is {out}; rows are appended one by one, so give a .jsonl file")
