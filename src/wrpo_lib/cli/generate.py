"""``wrpo sample`` and ``wrpo score``: responses of models to prompts, and their rewards."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from wrpo_lib.errors import WRPOError

if TYPE_CHECKING:
    from wrpo_lib.generation import Engine, Sampling
    from wrpo_lib.generation.rewards import Scorer

Counts = Counter[str]
ENGINES = ("transformers", "vllm", "server")


def register(app: typer.Typer) -> None:
    """Add the commands of this module to ``app``."""
    app.command()(sample)
    app.command()(score)


def sample(
    prompts: Annotated[Path, typer.Argument(help="rows with prompt_id and prompt")],
    out: Annotated[Path, typer.Option(help="responses, .jsonl; a run that was cut goes on")],
    model: Annotated[str, typer.Option(help="hub id, folder, .gguf, or the server's name for it")],
    engine: Annotated[str, typer.Option(help=", ".join(ENGINES))] = "transformers",
    name: Annotated[str, typer.Option(help="the model's name in the rows; default: --model")] = "",
    n: Annotated[int, typer.Option(help="responses a prompt")] = 5,
    temperature: Annotated[float, typer.Option()] = 0.8,
    top_p: Annotated[float, typer.Option()] = 0.95,
    max_tokens: Annotated[int, typer.Option(help="tokens a response at most")] = 4096,
    seed: Annotated[int, typer.Option(help="every response's own seed follows from it")] = 0,
    seeds: Annotated[
        str, typer.Option(help="one a sample, for all prompts: 1,2,3 or simpo (13,21,42,79,100)")
    ] = "",
    limit: Annotated[int | None, typer.Option(help="only the first so many prompts")] = None,
    revision: Annotated[str | None, typer.Option(help="commit of the model on the hub")] = None,
    trust_remote_code: Annotated[bool, typer.Option(help="run code that comes with it")] = False,
    dtype: Annotated[str, typer.Option(help="auto, bfloat16, float16, float32")] = "auto",
    batch_tokens: Annotated[int, typer.Option(help="transformers: a batch's size")] = 32768,
    tensor_parallel: Annotated[int, typer.Option(help="vllm: GPUs a model is spread over")] = 1,
    base_url: Annotated[str, typer.Option(help="server: http://localhost:8000/v1")] = "",
    api_key_env: Annotated[str, typer.Option(help="server: variable with the key")] = (
        "OPENAI_API_KEY"
    ),
    connections: Annotated[int, typer.Option(help="server: requests under way")] = 64,
    timeout: Annotated[float, typer.Option(help="server: seconds an attempt")] = 600.0,
    retries: Annotated[int, typer.Option(help="server: further attempts")] = 6,
    fold_system: Annotated[
        bool, typer.Option(help="server: system turn into the user turn (no such role there)")
    ] = False,
    extra_body: Annotated[str, typer.Option(help="server: JSON merged into requests")] = "",
) -> None:
    """Sample n responses of MODEL to each prompt; only missing ones are made."""
    _refuse_suffix(out)
    sampling = _sampling(n, temperature, top_p, max_tokens, seed, seeds)
    total = _count_prompts(prompts, limit)
    settings: dict[str, Any] = {"engine": engine, "revision": revision, "dtype": dtype}
    if engine == "server":
        served = _extra(extra_body)
        made_by = _server(
            model, base_url, api_key_env, connections, timeout, retries, fold_system, served
        )
        settings |= {"base_url": made_by.server.address, "extra_body": served}
    else:
        made_by = _local(
            engine, model, revision, trust_remote_code, dtype, batch_tokens, tensor_parallel
        )
    counts = _sample(prompts, limit, total, made_by, name or model, sampling, out, settings)
    typer.echo(_sampled(out, counts, total, made_by.folded))


def _sample(
    prompts: Path, limit: int | None, total: int, engine: Engine, name: str, sampling: Sampling,
    out: Path, settings: dict[str, Any],
) -> Counts:  # fmt: skip
    from itertools import islice

    from wrpo_lib.generation.prompts import read_prompts
    from wrpo_lib.generation.stage import sample_responses

    rows = islice(read_prompts(prompts), limit)
    return sample_responses(rows, engine, name, sampling, out, total=total, settings=settings)


def _count_prompts(prompts: Path, limit: int | None) -> int:
    """The number of prompts; anything wrong with them is said before a model is loaded."""
    from itertools import islice

    from wrpo_lib.generation.prompts import read_prompts

    return sum(1 for _ in islice(read_prompts(prompts), limit))


def _sampling(
    n: int, temperature: float, top_p: float, max_tokens: int, seed: int, seeds: str
) -> Sampling:
    from wrpo_lib.generation.request import SIMPO_SEEDS, Sampling

    if seeds == "simpo":
        seeds = ",".join(map(str, SIMPO_SEEDS))
    try:
        chosen = tuple(int(s) for s in seeds.split(",") if s.strip())
    except ValueError as error:
        raise WRPOError(f"--seeds is {seeds!r}; give whole numbers or simpo") from error
    return Sampling(n, temperature, top_p, max_tokens, seed, chosen)


def _local(
    engine: str, model: str, revision: str | None, trust: bool, dtype: str, batch_tokens: int,
    tensor_parallel: int,
) -> Any:  # fmt: skip
    if engine not in ENGINES:
        raise WRPOError(f"unknown engine {engine!r}; choose one of {', '.join(ENGINES)}")
    if engine == "vllm":
        from wrpo_lib.generation.offline import VLLMEngine

        return VLLMEngine(
            model, tensor_parallel=tensor_parallel, revision=revision, trust_remote_code=trust,
            dtype=dtype,
        )  # fmt: skip
    from wrpo_lib.generation import LocalEngine
    from wrpo_lib.generation.loading import load_causal_lm

    return LocalEngine(*load_causal_lm(model, revision, trust, dtype), batch_tokens=batch_tokens)


def _server(
    model: str, base_url: str, api_key_env: str, connections: int, timeout: float, retries: int,
    fold: bool, extra: dict[str, Any],
) -> Any:  # fmt: skip
    from wrpo_lib.generation import ServedEngine
    from wrpo_lib.server import Server

    if not base_url:
        raise WRPOError("--engine server needs --base-url, such as http://localhost:8000/v1")
    server = Server(base_url, api_key_env, connections, timeout, retries)
    return ServedEngine(server, model, fold, extra)


def _extra(text: str) -> dict[str, Any]:
    import json

    try:
        value = json.loads(text or "{}")
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise WRPOError(f"--extra-body is {text!r}; give a JSON object such as '{{\"top_k\": 20}}'")
    return value


def _refuse_suffix(out: Path) -> None:
    if out.suffix != ".jsonl":
        raise WRPOError(f"--out is {out}; rows are appended one by one, so give a .jsonl file")


def _sampled(out: Path, counts: Counts, prompts: int, folded: int) -> str:
    notes = [
        f"{counts['empty']} empty" if counts["empty"] else "",
        f"{counts['truncated']} ended by the token limit" if counts["truncated"] else "",
        f"the system turn of {folded} prompts put into the user turn" if folded else "",
    ]
    kept = f"; {counts['kept']} were there already" if counts["kept"] else ""
    said = "".join(f", {note}" for note in notes if note)
    return f"{out}: made {counts['made']} responses to {prompts} prompts{said}{kept}"


def score(
    files: Annotated[list[Path], typer.Argument(help="responses")],
    out: Annotated[Path, typer.Option(help="rewards, .jsonl; a run that was cut goes on")],
    reward_model: Annotated[str, typer.Option(help="hub id or folder, one output a row")] = "",
    bleu: Annotated[
        Path | None, typer.Option(help="references (responses, alpaca_eval): sentence BLEU")
    ] = None,
    nano: Annotated[bool, typer.Option(help="the nano testbed's programmatic reward")] = False,
    revision: Annotated[str | None, typer.Option(help="commit of the model on the hub")] = None,
    trust_remote_code: Annotated[
        bool, typer.Option(help="run code that comes with the model (ArmoRM); needs --revision")
    ] = False,
    dtype: Annotated[str, typer.Option(help="auto, bfloat16, float16, float32")] = "auto",
    batch_tokens: Annotated[int, typer.Option(help="tokens a batch, padding included")] = 16384,
    max_length: Annotated[int | None, typer.Option(help="tokens; default: the model's")] = None,
) -> None:
    """Give every response of FILES a reward; only missing ones are made."""
    from wrpo_lib.generation.stage import score_responses
    from wrpo_lib.quadruples.schema import iter_rows

    _refuse_suffix(out)
    if sum([bool(reward_model), bleu is not None, nano]) != 1:
        raise WRPOError("choose one reward: --reward-model MODEL, --bleu REFERENCES or --nano")
    totals = [_count_responses(path) for path in files]
    settings: dict[str, Any] = {}
    if reward_model:
        settings = {"revision": revision, "dtype": dtype, "max_length": max_length}
        name, scorer = reward_model, _reward_model(
            reward_model, revision, trust_remote_code, dtype, batch_tokens, max_length
        )  # fmt: skip
    else:
        name, scorer = _programmatic(bleu)
    counts = Counts()
    for path, total in zip(files, totals, strict=True):
        counts += score_responses(
            iter_rows(path), scorer, name, out, where=str(path), total=total, settings=settings
        )
    typer.echo(_scored(out, counts, scorer))


def _count_responses(path: Path) -> int:
    """The number of rows; anything wrong with them is said before a model is loaded."""
    from wrpo_lib.quadruples import read_responses

    return len(read_responses([path], scored=False))


def _reward_model(
    model: str, revision: str | None, trust: bool, dtype: str, tokens: int, max_length: int | None
) -> Scorer:
    from wrpo_lib.generation.rewards import load_reward_model

    return load_reward_model(
        model, revision, trust, dtype, batch_tokens=tokens, max_length=max_length
    )


def _programmatic(bleu: Path | None) -> tuple[str, Scorer]:
    """The name and scorer of a reward without a model."""
    if bleu is None:
        from wrpo_lib.nano.reward import score_rows

        return "nano", score_rows
    from wrpo_lib.generation.rewards import Bleu, read_references

    scorer = Bleu(read_references(bleu))
    return scorer.name, scorer


def _scored(out: Path, counts: Counts, scorer: Scorer) -> str:
    cut, folded = getattr(scorer, "cut", 0), getattr(scorer, "folded", 0)
    notes = [
        f"{counts['empty']} empty responses have none" if counts["empty"] else "",
        f"{counts['truncated']} responses ended by the token limit" if counts["truncated"] else "",
        f"{cut} conversations cut from the left" if cut else "",
        f"the system turn of {folded} put into the user turn" if folded else "",
        f"{counts['kept']} were there already" if counts["kept"] else "",
    ]
    said = "".join(f"; {note}" for note in notes if note)
    return f"{out}: made {counts['made']} rewards{said}"
