"""``wrpo sample`` and ``wrpo score``: responses of models to prompts, and their rewards."""

from collections import Counter
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from itertools import chain
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

from wrpo_lib.errors import WRPOError, explained
from wrpo_lib.io import check_output, iter_rows

Model = Annotated[str, typer.Option(help="hub id, folder, .gguf, or the server's name for it")]
Name = Annotated[str, typer.Option(help="the model's name in the file")]
Seed = Annotated[int, typer.Option(help="all other seeds follow from it")]
Revision = Annotated[str | None, typer.Option(help="commit of the model on the hub")]
Code = Annotated[bool, typer.Option(help="run code that comes with the model")]
Dtype = Annotated[str, typer.Option(help="auto, bfloat16, float16, float32")]


def _engine(kind: str) -> str:
    """The engine by its name; by default vLLM where it is installed and has a GPU."""
    if kind != "auto":
        return kind
    import torch

    return "vllm" if torch.cuda.is_available() and find_spec("vllm") else "transformers"


Engine = Annotated[
    str,
    typer.Option(
        callback=_engine,
        help="transformers, vllm or server; auto is vllm where it is installed and has a GPU",
    ),
]
Set = Annotated[list[str] | None, typer.Option("--set", help="KEY=VALUE, the engine's own option")]
BaseURL = Annotated[str, typer.Option(help="server: http://localhost:8000/v1")]
ExtraBody = Annotated[str, typer.Option(help="server: JSON added to requests; null drops a field")]
KeyEnv = Annotated[str, typer.Option(help="environment variable that holds the server's key")]
Connections = Annotated[int, typer.Option(help="server: requests under way at once", min=1)]
Workers = Annotated[
    int, typer.Option(help="Ray's, on the cluster at RAY_ADDRESS if set; 0: none", min=0)
]
GPUs = Annotated[float | None, typer.Option(help="GPUs a worker has; default: 1 if there are any")]


def sample(
    prompts: Annotated[Path, typer.Argument(help="rows with prompt_id and prompt")],
    out: Annotated[Path, typer.Option(help="responses, .jsonl; a run that was cut goes on")],
    model: Model,
    engine: Engine = "auto",
    name: Name = "",
    n: Annotated[int, typer.Option(help="responses per prompt")] = 5,
    temperature: float = 0.8,
    top_p: float = 0.95,
    max_tokens: Annotated[int, typer.Option(help="tokens per response at most")] = 4096,
    seed: Seed = 0,
    revision: Revision = None,
    trust_remote_code: Code = False,
    dtype: Dtype = "auto",
    option: Set = None,
    base_url: BaseURL = "",
    api_key_env: KeyEnv = "OPENAI_API_KEY",
    connections: Connections = 64,
    extra_body: ExtraBody = "{}",
    workers: Workers = 0,
    gpus: GPUs = None,
) -> None:
    """Sample n responses of MODEL to each prompt; only missing ones are made."""
    from wrpo_lib.generation import Sampling
    from wrpo_lib.generation.engines import OnCluster
    from wrpo_lib.generation.stage import sample_responses
    from wrpo_lib.quadruples import read_prompts

    check_output(out, prompts, suffixes=(".jsonl",))
    sampling = Sampling(n, temperature, top_p, max_tokens, seed)
    total = sum(1 for _ in read_prompts(prompts))  # says all that is wrong with them
    at = (base_url, api_key_env, connections)
    hub = {"revision": revision, "trust_remote_code": trust_remote_code, "dtype": dtype}
    make, settings = engine_maker(engine, model, option, at, extra_body, **hub)
    gpus = 0.0 if engine == "server" else gpus
    made_by: Any = OnCluster(make, workers, gpus) if workers else make()
    given = read_prompts(prompts), made_by, name or model, sampling, out
    counts = sample_responses(*given, total=total * n, settings=settings)
    _say(f"{out}: made {counts['made']} responses to {total} prompts", counts, made_by)


def engine_maker(
    kind: str,
    model: str,
    option: list[str] | None,
    at: tuple[str, str, int],
    extra_body: str,
    **hub: Any,
) -> tuple[Callable[[], Any], dict[str, Any]]:
    """What makes the engine, here or in a worker, and the settings that its file records.

    ``at``: the server's address, its key's variable and the connections; ``hub``: ``revision``,
    ``trust_remote_code``, ``dtype``.
    """
    from wrpo_lib.generation import make_engine
    from wrpo_lib.models import identity
    from wrpo_lib.server import Server, without_secrets

    with explained(f"--set {option} of the {kind} engine cannot be read", "give KEY=VALUE"):
        pairs = (pair.partition("=") for pair in option or [])
        options = {key: yaml.safe_load(text) for key, _, text in pairs}
    settings = {"engine": kind, "max_model_len": options.get("max_model_len")}
    settings |= {"revision": hub["revision"], "dtype": hub["dtype"]}
    extra = read_extra_body(extra_body)
    if kind == "server":
        server = Server(*at, timeout=600.0)
        settings |= {"base_url": server.address, "extra_body": without_secrets(extra)}
        options |= {"server": server, "extra_body": extra}
    settings["weights"] = model if kind == "server" else identity(model, hub["revision"])
    return partial(make_engine, kind, model, options, **hub), settings


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
    gpus: GPUs = None,
) -> None:
    """Give every response of FILES a reward; only missing ones are made."""
    from wrpo_lib.generation.engines import OnCluster
    from wrpo_lib.generation.local import load_reward_model
    from wrpo_lib.generation.stage import score_responses
    from wrpo_lib.models import identity
    from wrpo_lib.nano.world import score_rows
    from wrpo_lib.quadruples import read_responses

    check_output(out, *files, suffixes=(".jsonl",))
    if bool(reward_model) == nano:
        raise WRPOError("choose one reward: --reward-model MODEL or --nano")
    total = len(read_responses(files, scored=False).frame)  # says all that is wrong with them
    scorer: Any = score_rows
    settings: dict[str, Any] = {}
    if reward_model:
        settings = {"revision": revision, "dtype": dtype}
        hub: dict[str, Any] = {**settings, "trust_remote_code": trust_remote_code}
        settings["weights"] = identity(reward_model, revision)
        make = partial(load_reward_model, reward_model, batch_tokens, **hub)
        scorer = OnCluster(make, workers, gpus) if workers else make()
    rows = chain.from_iterable(map(iter_rows, files))
    given = rows, scorer, reward_model or "nano", out
    counts = score_responses(*given, total=total, settings=settings)
    _say(f"{out}: made {counts['made']} rewards", counts, scorer)


def read_extra_body(text: str) -> dict[str, Any]:
    """The fields in ``--extra-body``."""
    with explained(f"--extra-body {text} cannot be read", 'give JSON such as {"top_k": 20}'):
        return dict(yaml.safe_load(text))


def _say(made: str, counts: Counter[str], maker: Any) -> None:
    renderer = getattr(maker, "renderer", maker)  # a server renders by itself
    notes = {
        "empty": counts["empty"],
        "ended by the token limit": counts["truncated"],
        "with a thought, kept beside the text": counts["thought"],
        "with the system turn put into the user turn": getattr(renderer, "folded", 0),
        "cut from the left": getattr(maker, "cut", 0),
        "there already": counts["kept"],
    }
    typer.echo(made + "".join(f", {number} {what}" for what, number in notes.items() if number))
