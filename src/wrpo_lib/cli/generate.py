"""``wrpo sample`` and ``wrpo score``: responses of models to prompts, and their rewards."""

from __future__ import annotations

from collections import Counter
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

from wrpo_lib.errors import WRPOError
from wrpo_lib.io import iter_rows

Revision = Annotated[str | None, typer.Option(help="commit of the model on the hub")]
Code = Annotated[bool, typer.Option(help="run code that comes with the model")]
Dtype = Annotated[str, typer.Option(help="auto, bfloat16, float16, float32")]
Workers = Annotated[int, typer.Option(help="processes of a Ray cluster; 0: this one", min=0)]
Ray = Annotated[str, typer.Option(help="address of a running cluster; default: start one")]
GPUs = Annotated[float | None, typer.Option(help="GPUs a worker has; default: 1 if there are any")]
WorkerBatch = Annotated[int, typer.Option(help="rows a worker takes at a time", min=1)]


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
    limit: Annotated[int | None, typer.Option(help="only the first so many prompts")] = None,
    revision: Revision = None,
    trust_remote_code: Code = False,
    dtype: Dtype = "auto",
    option: Annotated[
        list[str] | None, typer.Option("--set", help="KEY=VALUE, an option of the engine's own")
    ] = None,
    base_url: Annotated[str, typer.Option(help="server: http://localhost:8000/v1")] = "",
    api_key_env: Annotated[str, typer.Option(help="variable with the key")] = "OPENAI_API_KEY",
    connections: Annotated[int, typer.Option(help="server: requests under way", min=1)] = 64,
    extra_body: Annotated[str, typer.Option(help="server: JSON merged into requests")] = "{}",
    workers: Workers = 0,
    ray: Ray = "",
    gpus: GPUs = None,
    worker_batch: WorkerBatch = 256,
) -> None:
    """Sample n responses of MODEL to each prompt; only missing ones are made."""
    from wrpo_lib.generation import Sampling, make_engine
    from wrpo_lib.generation.cluster import OnCluster
    from wrpo_lib.generation.stage import sample_responses
    from wrpo_lib.quadruples.split import read_prompts
    from wrpo_lib.server import Server

    _refuse_suffix(out)
    sampling = Sampling(n, temperature, top_p, max_tokens, seed)
    options, extra = _options(engine, option or []), _yaml(extra_body, "--extra-body")
    if not isinstance(extra, dict):
        raise WRPOError(f'--extra-body is {extra_body}; give a JSON object such as {{"top_k": 20}}')
    total = sum(1 for _ in islice(read_prompts(prompts), limit))  # says all that is wrong with them
    settings: dict[str, Any] = {"engine": engine, "revision": revision, "dtype": dtype}
    settings["max_model_len"] = options.get("max_model_len")
    if engine == "server":
        server = Server(base_url, api_key_env, connections, timeout=600.0)
        settings |= {"base_url": base_url and server.address, "extra_body": extra}
        settings["fold_system"] = options.get("fold_system", False)
        options |= {"server": server, "extra_body": extra}
    hub: dict[str, Any] = {"revision": revision, "trust_remote_code": trust_remote_code}
    make = partial(make_engine, engine, model, options, dtype=dtype, **hub)
    gpus = 0.0 if engine == "server" else gpus
    made_by: Any = OnCluster(make, workers, gpus, worker_batch, ray) if workers else make()
    given = islice(read_prompts(prompts), limit), made_by, name or model, sampling, out
    counts = sample_responses(*given, total=total * n, settings=settings)
    _say(f"{out}: made {counts['made']} responses to {total} prompts", counts, made_by)


def score(
    files: Annotated[list[Path], typer.Argument(help="responses")],
    out: Annotated[Path, typer.Option(help="rewards, .jsonl; a run that was cut goes on")],
    reward_model: Annotated[str, typer.Option(help="hub id or folder, one output a row")] = "",
    nano: Annotated[bool, typer.Option(help="the nano testbed's programmatic reward")] = False,
    revision: Revision = None,
    trust_remote_code: Code = False,
    dtype: Dtype = "auto",
    batch_tokens: Annotated[int, typer.Option(help="tokens per batch, padding included")] = 16384,
    workers: Workers = 0,
    ray: Ray = "",
    gpus: GPUs = None,
    worker_batch: WorkerBatch = 256,
) -> None:
    """Give every response of FILES a reward; only missing ones are made."""
    from wrpo_lib.generation.cluster import OnCluster
    from wrpo_lib.generation.rewards import load_reward_model
    from wrpo_lib.generation.stage import score_responses
    from wrpo_lib.nano.reward import score_rows
    from wrpo_lib.quadruples import read_responses

    _refuse_suffix(out)
    if bool(reward_model) == nano:
        raise WRPOError("choose one reward: --reward-model MODEL or --nano")
    total = len(read_responses(files, scored=False))  # says all that is wrong with them
    make = partial(
        load_reward_model, reward_model, revision, trust_remote_code, dtype, batch_tokens
    )
    scorer: Any = score_rows
    if reward_model:
        scorer = OnCluster(make, workers, gpus, worker_batch, ray) if workers else make()
    counts = score_responses(
        chain.from_iterable(map(iter_rows, files)),
        scorer,
        reward_model or "nano",
        out,
        total=total,
        settings={"revision": revision, "dtype": dtype} if reward_model else {},
        window=100_000 if workers else 1024,  # each call of a cluster starts its workers
    )
    _say(f"{out}: made {counts['made']} rewards", counts, scorer)


def _options(engine: str, pairs: list[str]) -> dict[str, Any]:
    """The engine's options in ``KEY=VALUE``, the values read as YAML."""
    from wrpo_lib.generation.engines import OPTIONS

    known, found = OPTIONS.get(engine, {}), {}
    for pair in pairs:
        key, _, text = pair.partition("=")
        value, kind = _yaml(text, "--set"), known.get(key)
        if kind is None or not isinstance(value, (int, float) if kind is float else kind):
            names = ", ".join(f"{name} ({kind.__name__})" for name, kind in known.items())
            raise WRPOError(f"--set {pair} is no option of the {engine} engine; it has {names}")
        found[key] = value
    return found


def _yaml(text: str, option: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise WRPOError(f"{option} {text} cannot be read ({error.__class__.__name__})") from error


def _refuse_suffix(out: Path) -> None:
    """Only plain JSONL can be appended to."""
    if out.suffix != ".jsonl":
        raise WRPOError(f"--out is {out}; rows are appended one by one, so give a .jsonl file")


def _say(made: str, counts: Counter[str], maker: Any) -> None:
    renderer = getattr(maker, "renderer", maker)  # a server renders by itself
    notes = {
        "empty": counts["empty"],
        "ended by the token limit": counts["truncated"],
        "with the system turn put into the user turn": getattr(renderer, "folded", 0),
        "cut from the left": getattr(maker, "cut", 0),
        "there already": counts["kept"],
    }
    typer.echo(made + "".join(f", {number} {what}" for what, number in notes.items() if number))
