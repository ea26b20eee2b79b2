"""``wrpo data``: check files, convert them, split prompts, find overlap with benchmarks."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from wrpo_lib.errors import WRPOError

if TYPE_CHECKING:
    from wrpo_lib.quadruples import Problem

app = typer.Typer(help="Check, convert and split files of the data stages.", no_args_is_help=True)

SHOWN = 20
NAMES = {
    "quadruples": "quadruples (wrpo format)",
    "official": "quadruples (official format)",
    "pairs": "preference pairs",
    "sft": "SFT rows",
}
Rows = Iterator[dict[str, Any]]


def _with_kind(rows: Rows, where: str) -> tuple[str, Rows]:
    """The format of ``rows``, by the first of them, and all of them."""
    from wrpo_lib.quadruples.convert import kind_of

    first = next(rows, None)
    if first is None:
        raise WRPOError(f"{where} has no rows; write at least one")
    return kind_of(first, f"{where}, row 1"), chain([first], rows)


def _refuse(problems: list[Problem], path: Path) -> None:
    """One sentence per problem, then exit status 2."""
    for problem in problems[:SHOWN]:
        typer.echo(problem.sentence(str(path)), err=True)
    if len(problems) > SHOWN:
        typer.echo(f"{path}: and {len(problems) - SHOWN} more problems", err=True)
    if problems:
        raise typer.Exit(2)


@app.command()
def check(
    file: Path,
    tokenizer: Annotated[str, typer.Option(help="also count truncation under it")] = "",
    max_length: Annotated[int, typer.Option(help="tokens of prompt and response")] = 2048,
    max_prompt_length: Annotated[int, typer.Option(help="tokens of a cut prompt")] = 1800,
) -> None:
    """Validate FILE; exit status 2 and the row named when something is wrong.

    Quadruples, the official format, preference pairs, SFT rows, responses, rewards, the SimPO
    pipeline's rows and alpaca_eval outputs are told apart by their fields.
    """
    from wrpo_lib.io import iter_rows
    from wrpo_lib.quadruples.schema import sum_up_quadruples, validate_rows

    kind, rows = _with_kind(iter_rows(file), str(file))
    if kind in ("responses", "rewards"):
        return _check_responses(file, kind)
    if kind in ("simpo", "alpaca_eval"):
        return _check_published(file, kind, rows)
    name = NAMES[kind]
    if kind == "official":
        from wrpo_lib.quadruples import from_official

        rows = (from_official(r, f"{file}, row {n}") for n, r in enumerate(rows, 1))
        kind = "quadruples"
    found = list(rows)
    _refuse(list(validate_rows(found, kind)), file)
    typer.echo(f"{file}: {len(found)} {name}, nothing wrong")
    if kind == "quadruples":
        typer.echo("\n".join(sum_up_quadruples(found)))
        if tokenizer:
            typer.echo(f"  {_truncation(found, tokenizer, max_length, max_prompt_length)}")


def _truncation(
    rows: list[dict[str, Any]], tokenizer: str, max_length: int, max_prompt_length: int | None
) -> str:
    from wrpo_lib.chat import Truncation, render
    from wrpo_lib.models import load_tokenizer
    from wrpo_lib.quadruples.schema import RESPONSES

    loaded, counts = load_tokenizer(tokenizer), Truncation()
    for row in rows:
        texts = [row[name] for name in RESPONSES]
        made = render(loaded, row["prompt"], texts, max_length, max_prompt_length)
        counts.add(made, [*RESPONSES])
    return counts.report()


def _check_responses(file: Path, kind: str) -> None:
    from wrpo_lib.quadruples.responses import read_responses, sum_up_responses

    table = read_responses([file], scored=kind == "rewards")
    typer.echo(f"{file}: {len(table)} {kind}, nothing wrong\n{sum_up_responses(table)}")


def _check_published(file: Path, kind: str, rows: Rows) -> None:
    """Responses in another format: each row as it would be imported."""
    from wrpo_lib.quadruples import row_problems
    from wrpo_lib.quadruples.convert import as_responses

    count, prompts, empty = 0, set(), 0
    for count, row in enumerate(as_responses(rows, str(file), model="(unnamed)"), 1):
        for problem in row_problems(row, count, "responses"):
            raise WRPOError(f"{file}, response {count}: {problem.field} {problem.what}")
        prompts.add(row["prompt_id"])
        empty += not row["text"].strip()
    note = f"; {empty} are empty" if empty else ""
    typer.echo(
        f"{file}: {count} responses to {len(prompts)} prompts ({kind} format), nothing wrong"
        f"{note}; `wrpo data import` converts them"
    )


@app.command("import")
def import_(
    source: Annotated[str, typer.Argument(help="a file, or a data set of the hub (owner/name)")],
    out: Path,
    model: Annotated[str, typer.Option(help="whose responses, where the rows do not say")] = "",
    split: Annotated[str, typer.Option(help="of a data set of the hub")] = "train",
    revision: Annotated[str, typer.Option(help="commit of a data set of the hub")] = "",
) -> None:
    """Convert SOURCE to quadruples or to rows of responses, by what its rows hold."""
    from wrpo_lib.io import SUFFIXES, iter_rows, write_rows
    from wrpo_lib.quadruples.convert import PUBLISHED, as_quadruples, as_responses, hub_rows
    from wrpo_lib.quadruples.schema import checked_rows

    on_hub = source.count("/") == 1 and not source.endswith(SUFFIXES)
    rows = hub_rows(source, split, revision or None) if on_hub else iter_rows(source)
    kind, rows = _with_kind(rows, source)
    if kind in ("official", "quadruples"):
        found = checked_rows(as_quadruples(rows, source), "quadruples", source)
        write_rows(found, out)
        typer.echo(f"wrote {len(found)} quadruples to {out}")
    elif kind in ("simpo", "alpaca_eval"):
        _, of, reward_model = PUBLISHED.get(source, (None, None, None))
        write_rows(as_responses(rows, source, model or of, reward_model), out)
        typer.echo(f"wrote responses to {out}")
    else:
        raise WRPOError(f"{source} holds {kind} already; use it as it is")


@app.command()
def export(file: Path, out: Path) -> None:
    """Convert the quadruples of FILE to the official format in OUT."""
    from wrpo_lib.io import write_rows
    from wrpo_lib.quadruples import read_quadruples, to_official

    rows = [to_official(dict(row)) for row in read_quadruples(file)]
    write_rows(rows, out)
    typer.echo(f"wrote {len(rows)} rows in the official format to {out}")


@app.command()
def split(
    prompts: Path,
    out: Annotated[Path, typer.Argument(help="folder for split.json and the two parts")],
    seed: Annotated[int, typer.Option(help="of the draw; the paper states none")] = 42,
    share: Annotated[float, typer.Option(help="of the prompts for SFT (paper: a third)")] = 1 / 3,
) -> None:
    """Split PROMPTS into the SFT third and the preference rest, and record how."""
    from wrpo_lib.io import iter_rows, write_rows
    from wrpo_lib.quadruples.schema import checked_rows
    from wrpo_lib.quadruples.split import make_split

    found = checked_rows(iter_rows(prompts), "prompts", str(prompts))
    rows = {row["prompt_id"]: row for row in found}
    made = make_split(rows, seed, share)
    for name in ("sft", "preference"):
        write_rows((rows[i] for i in made.part(name)), out / f"{name}.jsonl")
    made.write(out / "split.json")
    typer.echo(f"{out}: {len(made.sft)} prompts for SFT, {len(made.preference)} for preference")


@app.command()
def overlap(
    file: Path,
    benchmark: Annotated[list[Path], typer.Option(help="file of benchmark prompts; repeatable")],
    out: Annotated[Path | None, typer.Option(help="file for the matches")] = None,
    keep: Annotated[Path | None, typer.Option(help="file for the rows without overlap")] = None,
) -> None:
    """Find the prompts of FILE that overlap with benchmark prompts (n-grams, near-duplicates)."""
    from dataclasses import asdict

    from wrpo_lib.io import iter_rows, write_rows
    from wrpo_lib.quadruples.overlap import Benchmarks, find_overlap, read_benchmark

    known = [prompt for path in benchmark for prompt in read_benchmark(path)]
    found, n = find_overlap(iter_rows(file), Benchmarks(known), str(file))
    prompts = {match.prompt_id for match in found}
    typer.echo(f"{file}: {len(prompts)} of {n} prompts overlap with {len(known)} benchmark prompts")
    for match in found[:SHOWN]:
        typer.echo(
            f"  {match.prompt_id}: {match.benchmark} {match.question_id} ({match.found_by}; "
            f"n-grams {match.ngram_share:.2f}, similarity {match.similarity:.2f})"
        )
    if len(found) > SHOWN:
        typer.echo(f"  and {len(found) - SHOWN} more; --out FILE has them all")
    if out:
        write_rows((asdict(match) for match in found), out)
    if keep:
        write_rows((row for row in iter_rows(file) if row["prompt_id"] not in prompts), keep)
