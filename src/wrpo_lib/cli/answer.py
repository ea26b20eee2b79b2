"""``wrpo answer``: a benchmark's questions, answered by any model with the benchmark's settings."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from wrpo_lib.cli.judge import Benchmark, Connections, KeyEnv, Version
from wrpo_lib.errors import WRPOError


def answer(
    benchmark: Benchmark,
    model: Annotated[str, typer.Option(help="hub id, folder or GGUF file; a server's model name")],
    out: Annotated[Path, typer.Option(help="answers, JSONL")] = Path("answers.jsonl"),
    version: Version = "nano",
    engine: Annotated[str, typer.Option(help="transformers, vllm or server")] = "transformers",
    base_url: Annotated[str, typer.Option(help="server: http://localhost:8000/v1")] = "",
    name: Annotated[str, typer.Option(help="the model's name in the file; default: its own")] = "",
    max_tokens: Annotated[int, typer.Option(help="at most, for one answer", min=1)] = 4096,
    seed: Annotated[int, typer.Option(help="every answer's own seed follows from it")] = 0,
    connections: Connections = 64,
    api_key_env: KeyEnv = "OPENAI_API_KEY",
) -> None:
    """Answer BENCHMARK; finished answers are kept, a second run makes the missing ones."""
    from wrpo_lib.evaluation import answers
    from wrpo_lib.evaluation.benchmarks import load
    from wrpo_lib.generation import make_engine
    from wrpo_lib.server import Server

    asked = load(benchmark, version)
    server = Server(base_url, api_key_env, connections, timeout=600.0)
    made_by = make_engine(engine, model, {"server": server} if engine == "server" else {})
    counts = answers.answer(asked, name or Path(model).name, made_by, out, max_tokens, seed)
    failed = counts.errors.total()
    typer.echo(
        f"{counts.made} answers made, {counts.kept} kept from before, {counts.truncated} cut at "
        f"the token limit, {failed} failed; {out}"
    )
    for reason, n in counts.errors.most_common():
        typer.echo(f"  {n} x {reason}")
    if failed:
        raise WRPOError(f"{failed} answers failed; run again to make them")
