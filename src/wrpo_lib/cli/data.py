"""``wrpo data``: check files, convert them, split prompts, find overlap with benchmarks."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Annotated

import typer

from wrpo_lib.errors import WRPOError
from wrpo_lib.io import Row, iter_rows, write_json, write_rows

app = typer.Typer(help="Check, convert and split files of the data stages.", no_args_is_help=True)


def _read(file: Path) -> tuple[str, Iterator[Row]]:
    """The format of a file's rows, by the first, and all rows; official ones as quadruples."""
    from wrpo_lib.quadruples.convert import kind_of

    rows = iter_rows(file)
    first = next(rows, None)
    if first is None:
        raise WRPOError(f"{file} has no rows; write at least one")
    kind, rows = kind_of(first, f"{file}, row 1"), chain([first], rows)
    return kind, _as_quadruples(rows, str(file)) if kind == "official" else rows


def _as_quadruples(rows: Iterator[Row], where: str) -> Iterator[Row]:
    from wrpo_lib.quadruples import from_official
    from wrpo_lib.quadruples.schema import require

    for number, row in enumerate(rows, 1):
        require(row, number, "official", where)
        yield from_official(row)


@app.command()
def check(file: Path) -> None:
    """Validate FILE; exit status 2 and the row named when something is wrong.

    Quadruples, the official format, preference pairs, SFT rows, responses, rewards, the SimPO
    pipeline's rows and alpaca_eval outputs are told apart by their fields.
    """
    import pandas as pd

    from wrpo_lib.quadruples import read_responses
    from wrpo_lib.quadruples.convert import as_responses
    from wrpo_lib.quadruples.schema import RESPONSES, checked_rows

    kind, rows = _read(file)
    schema = "quadruples" if kind == "official" else kind
    if kind in ("responses", "rewards"):
        found = read_responses([file], scored=kind == "rewards").frame
        found["empty"] = found["length"] == 0
        numbers = found.groupby("model", observed=True)[["length", "empty", "truncated", "reward"]]
        lines = [f"means by model:\n{numbers.mean().to_string()}"]
    elif kind in ("simpo", "alpaca_eval"):
        found = pd.DataFrame(as_responses(rows, str(file), model="unnamed"))
        lines = ["`wrpo data import` makes rows of responses of them"]
    else:
        found = pd.DataFrame(checked_rows(rows, schema, str(file)))
        names = [] if kind == "pairs" else found.columns.intersection(RESPONSES)
        lines = [f"{n}: {found[n].str.len().median():.0f} characters (median)" for n in names]
    typer.echo("\n  ".join([f"{file}: {len(found)} rows ({kind}), nothing wrong", *lines]))


@app.command("import")
def import_(
    file: Path,
    out: Path,
    model: Annotated[str, typer.Option(help="whose responses, where the rows do not say")] = "",
    reward_model: Annotated[str, typer.Option(help="what gave the scores, if any")] = "unknown",
) -> None:
    """Convert FILE to quadruples or to rows of responses, by what its rows hold."""
    from wrpo_lib.quadruples.convert import as_responses
    from wrpo_lib.quadruples.schema import checked_rows

    kind, rows = _read(file)
    if kind == "official":
        write_rows(checked_rows(rows, "quadruples", str(file)), out)
    elif kind in ("simpo", "alpaca_eval"):
        write_rows(as_responses(rows, str(file), model, reward_model), out)
    else:
        raise WRPOError(f"{file} holds {kind} already; use it as it is")
    typer.echo(f"{file} ({kind} format): wrote {out}")


@app.command()
def export(file: Path, out: Path) -> None:
    """Convert the quadruples of FILE to the official format in OUT."""
    from wrpo_lib.quadruples import read_quadruples, to_official

    write_rows((to_official(dict(row)) for row in read_quadruples(file)), out)
    typer.echo(f"wrote {out} in the official format")


@app.command()
def split(
    prompts: Path,
    out: Annotated[Path, typer.Argument(help="folder for split.json and the two parts")],
    seed: Annotated[int, typer.Option(help="of the draw; the paper states none")] = 42,
    share: Annotated[float, typer.Option(help="of the prompts for SFT (paper: a third)")] = 1 / 3,
) -> None:
    """Split PROMPTS (or the prompts of responses) into SFT and preference part, recorded."""
    from wrpo_lib.quadruples import make_split, read_prompts

    found = dict(read_prompts(prompts))
    made = make_split(found, seed, share)
    for name in ("sft", "preference"):
        rows = ({"prompt_id": i, "prompt": found[i]} for i in made.part(name))
        write_rows(rows, out / f"{name}.jsonl")
    write_json(out / "split.json", vars(made))
    typer.echo(f"{out}: {len(made.sft)} prompts for SFT, {len(made.preference)} for preference")


@app.command()
def overlap(
    file: Path,
    benchmark: Annotated[list[Path], typer.Option(help="file of benchmark prompts; repeatable")],
    out: Annotated[Path, typer.Option(help="file for the matches, for `wrpo pair --exclude`")],
) -> None:
    """Find the prompts of FILE that hold 70 % of a benchmark prompt's word 8-grams."""
    from wrpo_lib.quadruples.overlap import find_overlap

    found = find_overlap(file, benchmark)
    write_rows(found, out)
    prompts = {match["prompt_id"] for match in found}
    typer.echo(f"{file}: {len(prompts)} prompts overlap with the benchmarks; see {out}")
