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
FORMATS = ("auto", "wrpo", "official")


def _kind(path: Path, format: str) -> tuple[str, Iterator[dict[str, Any]]]:
    """The format of a file, by its first row unless it is named, and all its rows."""
    from wrpo_lib.io import iter_rows
    from wrpo_lib.quadruples.published import kind_of

    if format not in FORMATS:
        raise WRPOError(f"unknown format {format!r}; choose {', '.join(FORMATS)}")
    rows = iter_rows(path)
    first = next(rows, None)
    if first is None:
        raise WRPOError(f"{path} has no rows; write at least one")
    kind = kind_of(first, f"{path}, row 1") if format == "auto" else format
    return "quadruples" if kind == "wrpo" else kind, chain([first], rows)


def _refuse(problems: list[Problem], path: Path) -> None:
    """One sentence a problem, then exit status 2."""
    for problem in problems[:SHOWN]:
        typer.echo(problem.sentence(str(path)), err=True)
    if len(problems) > SHOWN:
        typer.echo(f"{path}: and {len(problems) - SHOWN} more problems", err=True)
    raise typer.Exit(2)


def _truncation(
    rows: list[dict[str, Any]], tokenizer: str, max_length: int, max_prompt_length: int | None
) -> str:
    from transformers import AutoTokenizer

    from wrpo_lib.chat import Truncation, render
    from wrpo_lib.quadruples.schema import RESPONSES

    try:
        loaded = AutoTokenizer.from_pretrained(tokenizer)
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise WRPOError(f"cannot load the tokenizer {tokenizer!r} ({reason}); check it") from error
    counts = Truncation()
    for row in rows:
        texts = [row[name] for name in RESPONSES]
        counts.add(
            render(loaded, row["prompt"], texts, max_length, max_prompt_length), [*RESPONSES]
        )
    return counts.report()


@app.command()
def check(
    file: Path,
    format: Annotated[str, typer.Option(help="auto, wrpo or official")] = "auto",
    tokenizer: Annotated[str, typer.Option(help="also count truncation under it")] = "",
    max_length: Annotated[int, typer.Option(help="tokens of prompt and response")] = 2048,
    max_prompt_length: Annotated[int, typer.Option(help="tokens of a cut prompt")] = 1800,
) -> None:
    """Validate FILE; exit status 2 and the row named when something is wrong.

    Quadruples, the official format, preference pairs, SFT rows, responses, rewards, the SimPO
    pipeline's rows and alpaca_eval outputs are told apart by their fields.
    """
    kind, rows = _kind(file, format)
    if kind in ("responses", "rewards"):
        _check_responses(file, kind)
    elif kind in ("simpo", "alpaca_eval"):
        _check_published(file, kind, rows)
    elif kind in ("sft", "pairs"):
        _check_rows(file, kind, rows)
    else:
        _check_quadruples(file, kind, rows, (tokenizer, max_length, max_prompt_length))


def _check_quadruples(
    file: Path, kind: str, rows: Iterator[dict[str, Any]], tokens: tuple[str, int, int]
) -> None:
    from wrpo_lib.quadruples import from_official, validate_quadruples
    from wrpo_lib.quadruples.summary import sum_up_quadruples

    if kind == "official":
        found = [from_official(r, f"{file}, row {n}") for n, r in enumerate(rows, 1)]
    else:
        found = list(rows)
    problems = list(validate_quadruples(found))
    if problems:
        _refuse(problems, file)
    name = "official" if kind == "official" else "wrpo"
    typer.echo(f"{file}: {len(found)} quadruples ({name} format), nothing wrong")
    for line in sum_up_quadruples(found):
        typer.echo(line)
    if tokens[0]:
        typer.echo(f"  {_truncation(found, *tokens)}")


def _check_responses(file: Path, kind: str) -> None:
    from wrpo_lib.quadruples import read_responses
    from wrpo_lib.quadruples.summary import sum_up_responses

    table = read_responses([file], scored=kind == "rewards")
    typer.echo(f"{file}: {len(table)} {kind}, nothing wrong")
    for line in sum_up_responses(table):
        typer.echo(line)


def _check_published(file: Path, kind: str, rows: Iterator[dict[str, Any]]) -> None:
    """Responses in another format: each row as it would be imported."""
    from wrpo_lib.quadruples import response_problems
    from wrpo_lib.quadruples.published import as_responses

    count, prompts, models, empty = 0, set(), set(), 0
    for count, row in enumerate(as_responses(rows, str(file), model="(unnamed)"), 1):
        for problem in response_problems(row, count):
            raise WRPOError(f"{file}, response {count}: {problem.field} {problem.what}")
        prompts.add(row["prompt_id"])
        models.add(row["model"])
        empty += not row["text"].strip()
    typer.echo(f"{file}: {count} responses to {len(prompts)} prompts ({kind} format), nothing "
               "wrong; `wrpo data import` converts them")  # fmt: skip
    if empty:
        typer.echo(f"  worth knowing: {empty} empty")


def _check_rows(file: Path, kind: str, rows: Iterator[dict[str, Any]]) -> None:
    from wrpo_lib.quadruples.pairs import validate_pairs

    found = list(rows)
    problems = list(validate_pairs(found, kind))
    if problems:
        _refuse(problems, file)
    name = "SFT rows" if kind == "sft" else "preference pairs"
    typer.echo(f"{file}: {len(found)} {name}, nothing wrong")


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
    from wrpo_lib.quadruples.published import (
        PUBLISHED,
        as_quadruples,
        as_responses,
        hub_rows,
        kind_of,
    )
    from wrpo_lib.quadruples.schema import validate_quadruples

    on_hub = source.count("/") == 1 and not source.endswith(SUFFIXES)
    rows = hub_rows(source, split, revision or None) if on_hub else iter_rows(source)
    first = next(rows, None)
    if first is None:
        raise WRPOError(f"{source} has no rows; write at least one")
    kind, rows = kind_of(first, f"{source}, row 1"), chain([first], rows)
    if kind in ("official", "quadruples"):
        found = list(as_quadruples(rows, source))
        for problem in validate_quadruples(found):
            raise WRPOError(problem.sentence(source))
        write_rows(found, out)
        typer.echo(f"wrote {len(found)} quadruples to {out}")
        return
    if kind not in ("simpo", "alpaca_eval"):
        raise WRPOError(f"{source} holds {kind} already; use it as it is")
    known = PUBLISHED.get(source)
    name = model or (known.model if known else None)
    write_rows(as_responses(rows, source, name, known.reward_model if known else None), out)
    typer.echo(f"wrote responses to {out}")


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
    from wrpo_lib.quadruples.split import make_split

    rows: dict[str, dict[str, Any]] = {}
    for number, row in enumerate(iter_rows(prompts), 1):
        prompt_id = row.get("prompt_id")
        if not isinstance(prompt_id, str) or prompt_id in rows:
            what = "missing or not text" if not isinstance(prompt_id, str) else "occurs twice"
            raise WRPOError(f"{prompts}, row {number}, field 'prompt_id': {what}; give unique ids")
        rows[prompt_id] = row
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
