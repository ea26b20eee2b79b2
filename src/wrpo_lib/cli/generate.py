"""``wrpo sample``, ``score`` and ``pair``: from prompts to quadruples; ``data``: their files."""

import json
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
from wrpo_lib.io import check_output, iter_rows, write_json, write_rows

app = typer.Typer(help="Check, convert and split files of the data stages.", no_args_is_help=True)
Model = Annotated[str, typer.Option(help="hub id, folder, .gguf, or the server's name for it")]
Name = Annotated[str, typer.Option(help="the model's name in the file")]
Seed = Annotated[int, typer.Option(help="all other seeds follow from it")]
Revision = Annotated[str | None, typer.Option(help="commit of the model on the hub")]
Code = Annotated[bool, typer.Option(help="run code that comes with the model")]
Dtype = Annotated[str, typer.Option(help="auto, bfloat16, float16, float32")]
Engine = Annotated[str, typer.Option(help="transformers, vllm, server; auto: vllm if on a GPU")]
Set = Annotated[list[str] | None, typer.Option("--set", help="KEY=VALUE, the engine's own option")]
BaseURL = Annotated[str, typer.Option(help="server: http://localhost:8000/v1")]
ExtraBody = Annotated[str, typer.Option(help="server: JSON added to requests; null drops a field")]
KeyEnv = Annotated[str, typer.Option(help="environment variable that holds the server's key")]
Connections = Annotated[int, typer.Option(help="server: concurrent requests", min=1)]
Workers = Annotated[int, typer.Option(help="Ray's, at RAY_ADDRESS or here; 0: none", min=0)]
GPUs = Annotated[float | None, typer.Option(help="GPUs a worker has; default: 1 if there are any")]


def sample(
    prompts: Annotated[Path, typer.Argument(help="rows with prompt_id and prompt")],
    out: Annotated[Path, typer.Option(help="responses, .jsonl; an interrupted run resumes")],
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
    from wrpo_lib.generation.cluster import OnCluster
    from wrpo_lib.generation.stage import Sampling, sample_responses
    from wrpo_lib.quadruples import read_prompts

    check_output(out, prompts, suffixes=(".jsonl",))
    sampling = Sampling(n, temperature, top_p, max_tokens, seed)
    total = sum(1 for _ in read_prompts(prompts))  # says all that is wrong with them
    at = (base_url, api_key_env, connections)
    hub = {"revision": revision, "trust_remote_code": trust_remote_code, "dtype": dtype}
    make, settings = engine_maker(engine, model, option, at, extra_body, **hub)
    gpus = 0.0 if engine == "server" else gpus
    made_by = OnCluster(make, workers, gpus) if workers else make()
    given = read_prompts(prompts), made_by, name or model, sampling, out
    counts = sample_responses(*given, total=total * n, settings=settings)
    say(f"{out}: made {counts['made']} responses to {total} prompts", counts, made_by)


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
    import torch

    from wrpo_lib.generation.engines import make_engine
    from wrpo_lib.models import identity
    from wrpo_lib.server import Server, without_secrets

    with explained(f"--set {option} of the {kind} engine cannot be read", "give KEY=VALUE"):
        pairs = (pair.partition("=") for pair in option or [])
        options = {key: yaml.safe_load(text) for key, _, text in pairs}
    if kind == "auto":
        kind = "vllm" if torch.cuda.is_available() and find_spec("vllm") else "transformers"
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
    out: Annotated[Path, typer.Option(help="rewards, .jsonl; an interrupted run resumes")],
    reward_model: Annotated[str, typer.Option(help="hub id or folder, one output per row")] = "",
    nano: Annotated[bool, typer.Option(help="the nano testbed's programmatic reward")] = False,
    revision: Revision = None,
    trust_remote_code: Code = False,
    dtype: Dtype = "auto",
    batch_tokens: Annotated[int, typer.Option(help="tokens per batch, padding included")] = 16384,
    workers: Workers = 0,
    gpus: GPUs = None,
) -> None:
    """Give every response of FILES a reward; only missing ones are made."""
    from wrpo_lib.generation.cluster import OnCluster
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
    say(f"{out}: made {counts['made']} rewards", counts, scorer)


def read_extra_body(text: str) -> dict[str, Any]:
    """The fields in ``--extra-body``."""
    with explained(f"--extra-body {text} cannot be read", 'give JSON such as {"top_k": 20}'):
        return dict(json.loads(text))


def say(made: str, counts: Counter[str], maker: Any) -> None:
    """What was made, and what of it is worth a look."""
    renderer = getattr(maker, "renderer", None)  # of a model in this process
    notes = {
        "cut at the beginning": getattr(maker, "cut", 0),
        "with the system turn put into the user turn": getattr(renderer, "folded", 0),
        "empty": counts["empty"],
        "ended by the token limit": counts["truncated"],
        "with a thought, kept beside the text": counts["thought"],
        "there already": counts["kept"],
    }
    typer.echo(made + "".join(f", {number} {what}" for what, number in notes.items() if number))


def pair(
    files: Annotated[list[Path], typer.Argument(help="scored responses of sources and target")],
    out: Annotated[Path, typer.Option(help="file to write (.jsonl, .jsonl.gz, .parquet)")],
    target: Annotated[str, typer.Option(help="the model whose samples give y_wt and y_l")] = "",
    pairs: Annotated[str, typer.Option(help="or sft, dpo-on, dpo-off, dpo-hybrid")] = "quadruples",
    sources: Annotated[str, typer.Option(help="comma-separated; default: every other model")] = "",
    rank: Annotated[int, typer.Option(help="y_ws is the best (1), second best (2) ...", min=1)] = 1,
    dispreferred: Annotated[bool, typer.Option(help="also the worst source response")] = False,
    split: Annotated[Path | None, typer.Option(help="split.json: its part for --pairs")] = None,
    min_gap: Annotated[float, typer.Option(help="least difference in reward")] = 0.0,
    drop_truncated: Annotated[bool, typer.Option(help="exclude truncated responses")] = False,
) -> None:
    """Choose y_ws, y_wt and y_l by reward and write them, with a report beside them."""
    from wrpo_lib.quadruples import Pairing, write_pairs

    group = tuple(name.strip() for name in sources.split(",") if name.strip())
    pairing = Pairing(target or None, pairs, group, rank, dispreferred, min_gap, drop_truncated)
    check_output(out, *files)
    typer.echo(f"{out}: {write_pairs(files, out, pairing, split)}")


@app.command()
def check(file: Path) -> None:
    """Validate FILE of any kind; exit status 2 and the row named when something is wrong.

    Of responses it prints each model's mean length and reward: are the winners merely longer?
    """
    from wrpo_lib.quadruples import read_responses
    from wrpo_lib.quadruples.convert import open_rows

    (form, rows), means = open_rows(file, "unnamed"), ""
    if form in ("responses", "rewards"):
        found = read_responses([file], scored=form == "rewards").frame
        rows, found["empty"] = found.index, found["length"] == 0
        numbers = found.groupby("model", observed=True)[["length", "empty", "truncated", "reward"]]
        means = f"\n  means by model:\n{numbers.mean().to_string()}"
    typer.echo(f"{file}: {len(list(rows))} rows ({form}), nothing wrong{means}")


@app.command("import")
def import_(
    file: Path,
    out: Path,
    model: Annotated[str, typer.Option(help="whose responses; default: their generator")] = "",
    reward_model: Annotated[str, typer.Option(help="what gave the scores, if any")] = "unknown",
) -> None:
    """Convert FILE to quadruples, preference pairs or rows of responses, by what its rows hold."""
    from wrpo_lib.quadruples.convert import open_rows
    from wrpo_lib.quadruples.schema import IMPORTED

    form, rows = open_rows(file, model, reward_model)
    if form not in IMPORTED:
        raise WRPOError(f"{file} holds {form} already; use it as it is")
    write_rows(rows, check_output(out, file))
    typer.echo(f"{file} ({form} form): wrote {IMPORTED[form]} to {out}")


@app.command()
def export(file: Path, out: Path) -> None:
    """Convert the quadruples of FILE to the official format in OUT."""
    from wrpo_lib.quadruples.convert import open_rows, to_official

    form, rows = open_rows(file)
    if form != "quadruples":
        raise WRPOError(f"{file} holds {form}, no quadruples; export takes those alone")
    write_rows(map(to_official, rows), check_output(out, file))
    typer.echo(f"wrote {out} in the official format")


@app.command()
def split(
    prompts: Path,
    out: Annotated[Path, typer.Argument(help="folder for split.json and the two parts")],
    seed: Annotated[int, typer.Option(help="of the draw; the paper states none")] = 42,
) -> None:
    """Split PROMPTS (or the prompts of responses): a third for SFT, the rest for preference."""
    from wrpo_lib.quadruples import draw_split, read_prompts

    found = dict(read_prompts(prompts))
    made = draw_split(found, seed)
    record = check_output(out / "split.json", prompts, suffixes=(".json",))
    parts = {name: check_output(out / f"{name}.jsonl", prompts) for name in ("sft", "preference")}
    for name, path in parts.items():
        write_rows(({"prompt_id": i, "prompt": found[i]} for i in made[name]), path)
    write_json(record, made)
    sizes = f"{len(made['sft'])} prompts for SFT, {len(made['preference'])} for preference"
    typer.echo(f"{out}: {sizes}")


@app.command()
def prepare(
    profile: Annotated[str, typer.Argument(help="whose recipes name the files, e.g. workstation")],
    files: Annotated[
        list[Path] | None, typer.Argument(help="source responses; or the hub's")
    ] = None,
    model: Annotated[str, typer.Option(help="whose responses, where the rows do not say")] = "",
    reward_model: Annotated[str, typer.Option(help="what gave the scores, if any")] = "unknown",
    seed: Annotated[int, typer.Option(help="of the split; the paper states none")] = 42,
) -> None:
    """Write the files that the recipes of PROFILE read, from published source responses."""
    from wrpo_lib.quadruples.convert import prepare

    for line in prepare(profile, files or [], model, reward_model, seed):
        typer.echo(line)
