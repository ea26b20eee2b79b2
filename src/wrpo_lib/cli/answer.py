"""``wrpo answer``: a benchmark's questions, answered by any model with the benchmark's settings."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from wrpo_lib.errors import WRPOError

if TYPE_CHECKING:
    from wrpo_lib.evaluation.answers import Answered


def register(app: typer.Typer) -> None:
    """Add the command of this module to ``app``."""
    app.command()(answer)


def answer(
    benchmark: Annotated[str, typer.Argument(help="alpaca-eval, mt-bench or arena-hard")],
    model: Annotated[str, typer.Option(help="hub id, folder or GGUF file; a server's model name")],
    out: Annotated[Path, typer.Option(help="answers, JSONL")] = Path("answers.jsonl"),
    version: Annotated[str, typer.Option(help="nano, or as in `wrpo judge`")] = "nano",
    engine: Annotated[str, typer.Option(help="transformers, vllm or server")] = "transformers",
    base_url: Annotated[str, typer.Option(help="server: http://localhost:8000/v1")] = "",
    name: Annotated[str, typer.Option(help="the model's name in the file; default: its own")] = "",
    max_tokens: Annotated[int, typer.Option(help="at most, for one answer", min=1)] = 4096,
    seed: Annotated[int, typer.Option(help="every answer's own seed follows from it")] = 0,
    export: Annotated[Path | None, typer.Option(help="also in the benchmark's own form")] = None,
    connections: Annotated[int, typer.Option(help="requests under way at once", min=1)] = 64,
    api_key_env: Annotated[str, typer.Option(help="variable with the key")] = "OPENAI_API_KEY",
    dtype: Annotated[str, typer.Option(help="auto, bfloat16, float16, float32")] = "auto",
    tensor_parallel: Annotated[int, typer.Option(help="vllm: GPUs a model is spread over")] = 1,
) -> None:
    """Answer BENCHMARK; finished answers are kept, a second run makes the missing ones."""
    from wrpo_lib.evaluation import answers as files
    from wrpo_lib.evaluation.benchmarks import load
    from wrpo_lib.generation import make_engine
    from wrpo_lib.server import Server

    asked = load(benchmark, version)
    shown = name or Path(model).name
    options: dict[str, dict[str, Any]] = {
        "vllm": {"tensor_parallel_size": tensor_parallel},
        "server": {"server": Server(base_url, api_key_env, connections, timeout=600.0)},
    }
    made_by = make_engine(engine, model, options.get(engine), dtype=dtype)
    counts = files.answer(asked, shown, made_by, out, max_tokens, seed)
    _say(counts, out)
    if counts.errors:
        raise WRPOError(f"{counts.errors.total()} answers failed; run again to make them")
    if export is not None:
        typer.echo(files.export(files.Answers(out, asked), shown, export))


def _say(counts: Answered, out: Path) -> None:
    typer.echo(
        f"{counts.made} answers made, {counts.kept} kept from before, {counts.truncated} cut at "
        f"the token limit, {counts.errors.total()} failed; {out}"
    )
    for reason, n in counts.errors.most_common():
        typer.echo(f"  {n} x {reason}")
