"""``wrpo assets``, ``answer``, ``judge``, ``nano-judge``: from questions to judgements; and
``summarise``, ``agreement``, ``published``: what they say."""

import json
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from wrpo_lib.cli import generate
from wrpo_lib.errors import WRPOError

Benchmark = Annotated[str, typer.Argument(help="alpaca-eval, mt-bench or arena-hard")]
Version = Annotated[
    str,
    typer.Option(
        help="nano (ours, small), or alpaca-eval: 2; mt-bench: 0125-references, "
        "original-references; arena-hard: v0.1"
    ),
]
Files = Annotated[list[Path], typer.Argument(help="judgements: ours, or upstream's formats")]

assets = typer.Typer(help="List and fetch the benchmarks' files.", no_args_is_help=True)


@assets.command(name="list")
def list_() -> None:
    """Name, licence, hash and what each file is."""
    from wrpo_lib.evaluation.benchmarks import manifest

    for name, asset in manifest().items():
        typer.echo(f"{name:52} {asset['licence']:14} {asset['sha256'][:12]}  {asset['what']}")


@assets.command()
def fetch(names: Annotated[list[str] | None, typer.Argument(help="default: all")] = None) -> None:
    """Find NAMES in a mirror (WRPO_ASSETS), a package or the cache, else fetch; hashes count."""
    from wrpo_lib.evaluation.benchmarks import fetch, manifest

    for name in names or manifest():
        typer.echo(f"{name}: {fetch(name)}")


def answer(
    benchmark: Benchmark,
    model: generate.Model,
    out: Annotated[Path, typer.Option(help="answers, JSONL")] = Path("answers.jsonl"),
    version: Version = "nano",
    engine: generate.Engine = "auto",
    name: generate.Name = "",
    max_tokens: Annotated[int, typer.Option(help="at most, for one answer", min=1)] = 4096,
    seed: generate.Seed = 0,
    revision: generate.Revision = None,
    trust_remote_code: generate.Code = False,
    dtype: generate.Dtype = "auto",
    option: generate.Set = None,
    base_url: generate.BaseURL = "",
    api_key_env: generate.KeyEnv = "OPENAI_API_KEY",
    connections: generate.Connections = 64,
    extra_body: generate.ExtraBody = "{}",
) -> None:
    """Answer BENCHMARK; finished answers are kept, a second run makes the missing ones."""
    from wrpo_lib.evaluation import benchmarks

    asked, at = benchmarks.load(benchmark, version), (base_url, api_key_env, connections)
    hub = {"revision": revision, "trust_remote_code": trust_remote_code, "dtype": dtype}
    make, settings = generate.engine_maker(engine, model, option, at, extra_body, **hub)
    given = asked, name or Path(model).name, (made_by := make()), out, max_tokens, seed
    counts = benchmarks.answer(*given, settings | {"model": model})
    generate.say(f"{out}: made {counts['made']} answers", counts, made_by)


def judge(
    benchmark: Benchmark,
    answers: Annotated[Path, typer.Option(help="answers of one model, ours or upstream's form")],
    judge: Annotated[str, typer.Option(help="the judge's model name at the server")],
    base_url: generate.BaseURL = "https://api.openai.com/v1",
    version: Version = "nano",
    out: Annotated[Path, typer.Option(help="judgements, JSONL")] = Path("judgements.jsonl"),
    baseline: Annotated[Path | None, typer.Option(help="other answers to compare with")] = None,
    order: Annotated[
        Literal["both", "upstream"], typer.Option(help="upstream: alpaca-eval in one seeded order")
    ] = "both",
    metric: Annotated[Literal["logprobs", "text"], typer.Option(help="alpaca-eval")] = "logprobs",
    prices: Annotated[
        tuple[float, float] | None, typer.Option(help="of a million prompt and completion tokens")
    ] = None,
    max_cost: Annotated[float | None, typer.Option(help="stop when this much is spent")] = None,
    estimate: Annotated[bool, typer.Option(help="say what it would cost, make no call")] = False,
    connections: generate.Connections = 64,
    api_key_env: generate.KeyEnv = "OPENAI_API_KEY",
    extra_body: generate.ExtraBody = "{}",
) -> None:
    """Judge ANSWERS; a run that was stopped or had errors goes on where it was."""
    from tqdm import tqdm

    from wrpo_lib.evaluation.benchmarks import load, read_one
    from wrpo_lib.evaluation.judging import KEY, Plan, Run
    from wrpo_lib.io import Store, check_output
    from wrpo_lib.server import Server

    check_output(out, answers, *([baseline] if baseline else []))
    asked = load(benchmark, version)
    plan = Plan(asked, judge, order, metric, generate.read_extra_body(extra_body))
    name, texts = read_one(answers, asked, typer.echo)
    against = read_one(baseline or asked.baseline, asked, typer.echo) if asked.baseline else None
    calls = list(plan.calls(name, texts, against))
    with Store(out, KEY) as store:
        run = Run(store, Server(base_url, api_key_env, connections), prices, max_cost)
        said = "{calls} calls {what}, {kept} kept from before, {identical} identical pairs need "
        said += "none; {prompt_tokens} prompt and {completion_tokens} completion tokens"
        said += ", cost {cost:.4f}" if prices else ""
        needed = run.estimate(calls)
        typer.echo(said.format(what="to make", cost=run.cost(needed), **needed))
        if estimate:
            return
        counts = run(tqdm(calls, unit="call", disable=None))
    typer.echo(said.format(what=f"made, in {out}", cost=run.cost(counts), **counts))
    for what, number in [*run.status.items(), *run.problems.most_common()]:
        typer.echo(f"  {number} x {what}")
    if run.stopped:
        raise WRPOError(f"stopped: {run.stopped}; {out} keeps what came, run again to go on")


def nano_judge(port: Annotated[int, typer.Option(help="0 takes a free one")] = 8010) -> None:
    """Serve the testbed's judge on 127.0.0.1: an OpenAI-compatible server with known biases."""
    from http.server import ThreadingHTTPServer

    from wrpo_lib.nano.judge import MODEL, Handler

    ThreadingHTTPServer.request_queue_size = 512  # `wrpo judge` opens 64 connections at once
    with ThreadingHTTPServer(("127.0.0.1", port), Handler) as server:
        at = f"http://127.0.0.1:{server.server_port}/v1"
        typer.echo(f"judge {MODEL!r} at {at} (stop with Ctrl-C)")
        server.serve_forever()


def summarise(
    benchmark: Benchmark,
    files: Files,
    c: Annotated[
        float | None, typer.Option("--C", help="of length control; default: cross-validated")
    ] = None,
    replicates: Annotated[int, typer.Option(help="refits behind the LC interval; 0: none")] = 200,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON instead of text")] = False,
) -> None:
    """Scores with intervals, what is missing, effects; several models also as paired differences.

    Every model is compared with the first one.
    """
    from wrpo_lib.analysis.statistics import Estimate
    from wrpo_lib.evaluation.summary import differences, summarise_files

    found = summarise_files(benchmark, files, C=c, replicates=replicates)
    pairs = differences(found)
    if as_json:
        models = [{"model": s.model, **s.setting, **s.values, "notes": s.notes} for s in found]
        report = {"models": models, "differences": pairs}
        typer.echo(json.dumps(report, indent=1, ensure_ascii=False, default=Estimate.shown))
        return
    for s in found:
        named = ", ".join(f"{name} {value}" for name, value in s.setting.items() if value)
        _say(f"{s.model}: {named or 'judge not named'}", s.values)
        typer.echo("".join(f"  note: {note}\n" for note in s.notes), nl=False)
    for pair in pairs:
        _say(f"{pair.pop('model')} minus {pair.pop('against')}:", pair)


def agreement(
    benchmark: Benchmark,
    first: Annotated[Path, typer.Argument(help="judgements of one judge")],
    second: Annotated[Path, typer.Argument(help="judgements of another, of the same answers")],
) -> None:
    """Agreement of two judges: raw share and Cohen's kappa."""
    from wrpo_lib.evaluation.forms import read_judgements
    from wrpo_lib.evaluation.summary import agreement

    tables = (read_judgements(benchmark, path) for path in (first, second))
    _say("agreement:", agreement(*tables))


def published(folder: Annotated[Path, typer.Argument(help="holds eval/ with judgements")]) -> None:
    """Compute results/published anew: what published judgements of real models teach."""
    from wrpo_lib.evaluation.summary import make_published

    typer.echo(f"wrote {make_published(folder)}")


def _say(of: str, values: dict[str, Any]) -> None:
    """A line for each value that is there: an interval as text, a number short."""
    from wrpo_lib.analysis.statistics import Estimate

    typer.echo(of)
    for name, value in values.items():
        if isinstance(value, Estimate):
            value = f"{value.text()} (95 %; {value.n} rows, {value.n_clusters} clusters)"
        if value is not None:
            typer.echo(f"  {name}: {f'{value:.4f}' if isinstance(value, float) else value}")
