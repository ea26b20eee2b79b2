"""``wrpo judge``, ``wrpo nano-judge``: answers judged by any server."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from wrpo_lib.errors import WRPOError

if TYPE_CHECKING:
    from wrpo_lib.evaluation.benchmarks import Benchmark as Asked
    from wrpo_lib.evaluation.judging import Counts, Texts

Benchmark = Annotated[str, typer.Argument(help="alpaca-eval, mt-bench or arena-hard")]
Version = Annotated[
    str,
    typer.Option(
        help="nano (ours, small), or alpaca-eval: 2; mt-bench: 0125-references, "
        "original-references; arena-hard: v0.1"
    ),
]
KeyEnv = Annotated[str, typer.Option(help="environment variable that holds the key")]
Connections = Annotated[int, typer.Option(help="requests under way at once", min=1)]
OPENAI = "https://api.openai.com/v1"


def judge(
    benchmark: Benchmark,
    answers: Annotated[Path, typer.Option(help="answers of one model, ours or upstream's form")],
    judge: Annotated[str, typer.Option(help="the judge's model name at the server")],
    base_url: Annotated[str, typer.Option(help="of an OpenAI-compatible server")] = OPENAI,
    version: Version = "nano",
    out: Annotated[Path, typer.Option(help="judgements, JSONL")] = Path("judgements.jsonl"),
    model: Annotated[str, typer.Option(help="needed if the file holds several")] = "",
    baseline: Annotated[Path | None, typer.Option(help="other answers to compare with")] = None,
    order: Annotated[
        Literal["both", "upstream"], typer.Option(help="upstream: alpaca-eval in one seeded order")
    ] = "both",
    metric: Annotated[Literal["logprobs", "text"], typer.Option(help="alpaca-eval")] = "logprobs",
    retry_unreadable: Annotated[bool, typer.Option(help="ask again where no verdict came")] = False,
    prices: Annotated[
        tuple[float, float] | None, typer.Option(help="of a million prompt and completion tokens")
    ] = None,
    max_cost: Annotated[float | None, typer.Option(help="stop when this much is spent")] = None,
    estimate: Annotated[bool, typer.Option(help="say what it would cost, make no call")] = False,
    connections: Connections = 64,
    api_key_env: KeyEnv = "OPENAI_API_KEY",
) -> None:
    """Judge ANSWERS; a run that was stopped or had errors goes on where it was."""
    from tqdm import tqdm

    from wrpo_lib.evaluation.benchmarks import load
    from wrpo_lib.evaluation.judging import KEY, Plan, Run
    from wrpo_lib.io import Store
    from wrpo_lib.server import Server

    asked = load(benchmark, version)
    plan = Plan(asked, judge, order, metric)
    name, texts = _one_model(answers, asked, model)
    if missing := sum(len(q.turns) for q in asked.questions) - len(texts):
        typer.echo(f"{answers} lacks {missing} answers of {name!r}; judging the others")
    against = _one_model(baseline or asked.baseline, asked) if asked.baseline else None
    calls = list(plan.calls(name, texts, against))
    with Store(out, KEY) as store:
        server = Server(base_url, api_key_env, connections)
        run = Run(store, server, prices, max_cost, retry_unreadable)
        needed = run.estimate(calls)
        _say(needed, "to make")
        if estimate:
            return
        counts = run(tqdm(calls, unit="call", disable=None))
    _say(counts, f"made, in {out}")
    if counts.stopped:
        raise WRPOError(f"stopped: {counts.stopped}; {out} keeps what came, run again to go on")


def _one_model(path: Path, asked: Asked, wanted: str = "") -> tuple[str, Texts]:
    """The model's name and answers."""
    from wrpo_lib.evaluation.forms import read_answers

    models = read_answers(path, asked)
    if not wanted and len(models) == 1:
        return next(iter(models.items()))
    if wanted not in models:
        raise WRPOError(f"{path} holds answers of {', '.join(models)}; name one with --model")
    return wanted, models[wanted]


def _say(counts: Counts, what: str) -> None:
    cost = "" if counts.cost is None else f", cost {counts.cost:.4f}"
    typer.echo(
        f"{counts.calls} calls {what}, {counts.kept} kept from before, {counts.identical} "
        f"identical pairs need none; {counts.prompt_tokens:.0f} prompt and "
        f"{counts.completion_tokens:.0f} completion tokens{cost}"
    )
    for name, n in [*counts.status.items(), *counts.problems.most_common()]:
        typer.echo(f"  {n} x {name}")


def nano_judge(
    port: Annotated[int, typer.Option(help="0 takes a free one")] = 8010,
    position: Annotated[float, typer.Option(help="logits for what is shown second")] = 0.35,
    length: Annotated[float, typer.Option(help="logits for 20 characters more")] = 0.5,
) -> None:
    """Serve the testbed's judge on 127.0.0.1: an OpenAI-compatible server with known biases."""
    import functools

    from wrpo_lib.nano.judge import MODEL, Judge, make_server, respond

    biased = Judge(position=position, length=length)
    with make_server(functools.partial(respond, judge=biased), port) as server:
        at = f"http://127.0.0.1:{server.server_port}/v1"
        typer.echo(f"judge {MODEL!r} at {at} (stop with Ctrl-C)")
        server.serve_forever()
