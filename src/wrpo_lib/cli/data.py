"""``wrpo data``: check files of quadruples and convert them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from wrpo_lib.errors import WRPOError

if TYPE_CHECKING:
    from wrpo_lib.quadruples import Problem

app = typer.Typer(help="Check and convert files of quadruples.", no_args_is_help=True)

SHOWN = 20


def _read(path: Path, kind: str) -> tuple[list[dict[str, Any]], str]:
    """Rows as quadruples and the format they were in (``auto`` looks at the first row)."""
    from wrpo_lib.quadruples import from_official, is_official, read_rows

    if kind not in ("auto", "wrpo", "official"):
        raise WRPOError(f"unknown format {kind!r}; choose auto, wrpo or official")
    rows = read_rows(path)
    if kind == "official" or (kind == "auto" and is_official(rows[0])):
        return [from_official(r, f"{path}, row {n}") for n, r in enumerate(rows, 1)], "official"
    return rows, "wrpo"


def _refuse(problems: list[Problem], path: Path) -> None:
    """One sentence a problem, then exit status 2."""
    for problem in problems[:SHOWN]:
        typer.echo(problem.sentence(str(path)), err=True)
    if len(problems) > SHOWN:
        typer.echo(f"{path}: and {len(problems) - SHOWN} more problems", err=True)
    raise typer.Exit(2)


def _summary(rows: list[dict[str, Any]]) -> list[str]:
    """What a reader of a good file wants to know."""
    from collections import Counter
    from statistics import median

    from wrpo_lib.quadruples import count_warnings
    from wrpo_lib.quadruples.schema import RESPONSES

    lines = [f"  fields: {', '.join(rows[0])}"]
    winners = Counter(r["source_model"] for r in rows if r.get("source_model"))
    if winners:
        shares = [f"{name} {n / len(rows):.1%}" for name, n in winners.most_common()]
        lines.append(f"  y_ws from: {', '.join(shares)}")
    sizes = [f"{name} {median(len(r[name]) for r in rows):.0f}" for name in RESPONSES]
    lines.append(f"  median characters: {', '.join(sizes)}")
    found = count_warnings(rows)
    lines += [f"  worth knowing: {what} in {n} rows" for what, n in found.items() if n]
    return lines


def _truncation(
    rows: list[dict[str, Any]], tokenizer: str, max_length: int, max_prompt_length: int | None
) -> str:
    from transformers import AutoTokenizer

    from wrpo_lib.quadruples import Truncation, render
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
    """Validate FILE; exit status 2 and the row named when something is wrong."""
    from wrpo_lib.quadruples import validate_quadruples

    rows, kind = _read(file, format)
    problems = list(validate_quadruples(rows))
    if problems:
        _refuse(problems, file)
    typer.echo(f"{file}: {len(rows)} quadruples ({kind} format), nothing wrong")
    for line in _summary(rows):
        typer.echo(line)
    if tokenizer:
        typer.echo(f"  {_truncation(rows, tokenizer, max_length, max_prompt_length)}")


@app.command("import")
def import_(file: Path, out: Path) -> None:
    """Convert FILE from the official format to quadruples in OUT."""
    from wrpo_lib.quadruples import write_quadruples

    rows, _ = _read(file, "official")
    write_quadruples(rows, out)
    typer.echo(f"wrote {len(rows)} quadruples to {out}")


@app.command()
def export(file: Path, out: Path) -> None:
    """Convert the quadruples of FILE to the official format in OUT."""
    from wrpo_lib.quadruples import read_quadruples, to_official, write_rows

    rows = [to_official(dict(row)) for row in read_quadruples(file)]
    write_rows(rows, out)
    typer.echo(f"wrote {len(rows)} rows in the official format to {out}")
