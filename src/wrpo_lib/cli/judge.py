"""``wrpo judge``, ``wrpo nano-judge``: answers judged by any server."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from wrpo_lib.errors import WRPOError

if TYPE_CHECKING:
    from wrpo_lib.evaluation.answers import Answers
    from wrpo_lib.evaluation.judging import Counts, Prices

Benchmark = Annotated[str, typer.Argument(help="alpaca-eval, mt-bench or arena-hard")]
Version = Annotated[
    str,
    typer.Option(
        help="nano (ours, small), or alpaca-eval: 2; mt-bench: 0125-references, "
        "original-references; arena-hard: v0.1, v2.0"
    ),
]
AnswersFile = Annotated[Path, typer.Option(help="answers of one model, ours or upstream's form")]
JudgeName = Annotated[str, typer.Option(help="the judge's model name at the server")]
Url = Annotated[str, typer.Option(help="base URL of an OpenAI-compatible server")]
KeyEnv = Annotated[str, typer.Option(help="environment variable that holds the key")]
Connections = Annotated[int, typer.Option(help="requests under way at once", min=1)]
Model = Annotated[str, typer.Option(help="which model of the file; needed if it holds several")]
OPENAI = "https://api.openai.com/v1"


def register(app: typer.Typer) -> None:
    """Add the commands of this module to ``app``."""
    app.command()(judge)
    app.command("nano-judge")(nano_judge)


def judge(
    benchmark: Benchmark,
    answers: AnswersFile,
    judge: JudgeName,
    base_url: Url = OPENAI,
    version: Version = "nano",
    out: Annotated[Path, typer.Option(help="judgements, JSONL")] = Path("judgements.jsonl"),
    model: Model = "",
    baseline: Annotated[Path | None, typer.Option(help="answers to compare with")] = None,
    order: Annotated[str, typer.Option(help="both, or upstream: one seeded order")] = "both",
    metric: Annotated[str, typer.Option(help="alpaca-eval: logprobs or text")] = "logprobs",
    samples: Annotated[int, typer.Option(help="with --metric text: verdicts asked for")] = 1,
    mode: Annotated[str, typer.Option(help="mt-bench: single or pair")] = "single",
    allow_missing: Annotated[bool, typer.Option(help="judge what is answered")] = False,
    retry_unreadable: Annotated[bool, typer.Option(help="ask again where no verdict came")] = False,
    price_prompt: Annotated[float | None, typer.Option(help="per million tokens")] = None,
    price_completion: Annotated[float | None, typer.Option(help="per million tokens")] = None,
    max_cost: Annotated[float | None, typer.Option(help="stop when this much is spent")] = None,
    estimate: Annotated[bool, typer.Option(help="say what it would cost, make no call")] = False,
    connections: Connections = 64,
    api_key_env: KeyEnv = "OPENAI_API_KEY",
) -> None:
    """Judge ANSWERS; a run that was stopped or had errors goes on where it was."""
    from tqdm import tqdm

    from wrpo_lib.evaluation.answers import Answers
    from wrpo_lib.evaluation.benchmarks import load
    from wrpo_lib.evaluation.calls import JudgingPlan, calls, open_baselines
    from wrpo_lib.evaluation.judging import KEY, Run
    from wrpo_lib.evaluation.judging import estimate as estimated
    from wrpo_lib.io import Store
    from wrpo_lib.server import Server

    asked = load(benchmark, version)
    given = Answers(answers, asked)
    name = _one_model(given, model)
    _refuse_missing(given, name, allow_missing)
    if mode == "pair" and baseline is None:
        raise WRPOError("--mode pair compares with a baseline; give --baseline FILE")
    asked, baselines = open_baselines(asked, baseline)
    plan = JudgingPlan(asked, judge, order, metric, samples, mode)
    prices = _prices(judge, price_prompt, price_completion)
    with Store(out, KEY) as store:
        server = Server(base_url, api_key_env, connections)
        run = Run(plan, store, server, prices, max_cost, retry_unreadable)
        needed = estimated(plan, calls(plan, given, name, baselines), run.finished, prices)
        _say_estimate(needed, prices)
        if estimate:
            return
        with tqdm(total=needed.calls, unit="call", disable=None) as bar:
            counts = run(calls(plan, given, name, baselines), bar.update)
    _say_counts(counts, out)
    if counts.stopped:
        raise WRPOError(f"stopped: {counts.stopped}; {out} keeps what came, run again to go on")


def _one_model(answers: Answers, wanted: str) -> str:
    models, path = answers.models(), answers.path
    if wanted and wanted not in models:
        raise WRPOError(f"{path} holds no answers of {wanted!r}; it has {', '.join(models)}")
    if not wanted and len(models) > 1:
        raise WRPOError(f"{path} holds {', '.join(models)}; name one with --model")
    return wanted or models[0]


def _refuse_missing(answers: Answers, model: str, allowed: bool) -> None:
    if missing := answers.missing(model):
        question, turn = missing[0]
        first = f"first: question {question}, turn {turn}"
        text = f"{answers.path} lacks {len(missing)} answers of {model!r} ({first})"
        if not allowed:
            raise WRPOError(f"{text}; answer them, or give --allow-missing to judge the rest")
        typer.echo(f"{text}; judging the rest")


def _prices(judge: str, prompt: float | None, completion: float | None) -> Prices | None:
    from wrpo_lib.evaluation.judging import KNOWN_PRICES, Prices

    if prompt is None and completion is None:
        return KNOWN_PRICES.get(judge)
    if prompt is None or completion is None or min(prompt, completion) < 0:
        raise WRPOError("give --price-prompt and --price-completion together, 0 or more each")
    return Prices(prompt, completion)


def _say_estimate(needed: Counts, prices: Prices | None) -> None:
    cost = "cost unknown (give --price-prompt and --price-completion)"
    if prices:
        each = f"{prices.prompt:g} and {prices.completion:g} a million tokens"
        cost = f"about {needed.cost:.2f} at {each}"
    typer.echo(
        f"{needed.calls} calls to make ({needed.kept} kept from before, {needed.identical} "
        f"identical pairs need none), about {needed.prompt_tokens / 1e6:.3f} M prompt and "
        f"{needed.completion_tokens / 1e6:.3f} M completion tokens (4 characters a token), {cost}"
    )


def _say_counts(counts: Counts, out: Path) -> None:
    cost = "" if counts.cost is None else f", cost {counts.cost:.4f}"
    typer.echo(
        f"{counts.calls} calls in {counts.seconds:.1f} s{cost}: {counts.status['ok']} verdicts, "
        f"{counts.status['unreadable']} replies without one, {counts.status['error']} errors; "
        f"{counts.kept} kept from before; {out}"
    )
    for problem, n in counts.problems.most_common():
        typer.echo(f"  {n} x {problem}")


def nano_judge(
    port: Annotated[int, typer.Option(help="0 takes a free one")] = 8010,
    latency: Annotated[float, typer.Option(help="seconds before each reply")] = 0.0,
    quality: Annotated[float, typer.Option(help="logits a unit of quality")] = 4.0,
    position: Annotated[float, typer.Option(help="logits for what is shown second")] = 0.35,
    length: Annotated[float, typer.Option(help="logits for --length-unit characters")] = 0.5,
    length_unit: Annotated[float, typer.Option(help="characters")] = 20.0,
    noise: Annotated[float, typer.Option(help="s.d. in logits")] = 0.5,
    seed: Annotated[int, typer.Option()] = 0,
) -> None:
    """Serve the testbed's judge on 127.0.0.1: an OpenAI-compatible server with known biases."""
    import functools

    from wrpo_lib.nano.judge import Judge
    from wrpo_lib.nano.judge_server import MODEL, make_server, respond

    biased = Judge(quality, position, length, noise, seed, length_unit)
    with make_server(functools.partial(respond, judge=biased), port, latency) as server:
        at = f"http://127.0.0.1:{server.server_port}/v1"
        typer.echo(f"judge {MODEL!r} at {at} (stop with Ctrl-C)")
        server.serve_forever()
