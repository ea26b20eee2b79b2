"""``wrpo data``: check, convert and split files, find overlap with benchmarks; ``wrpo pair``."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Literal

import typer

from wrpo_lib.errors import WRPOError
from wrpo_lib.io import Row, check_output, iter_rows, write_json, write_rows

Part = Literal["sft", "preference", "all"]
app = typer.Typer(help="Check, convert and split files of the data stages.", no_args_is_help=True)


@app.command()
def check(
    file: Path,
    tokenizer: Annotated[str, typer.Option(help="of this model: what training would cut")] = "",
    max_length: Annotated[int | None, typer.Option(help="tokens of prompt and response")] = None,
    max_prompt_length: Annotated[int | None, typer.Option(help="tokens of the prompt")] = None,
) -> None:
    """Validate FILE; exit status 2 and the row named when something is wrong.

    The kinds of rows and the published forms are told apart by their fields and roles.
    """
    from wrpo_lib.quadruples import read_responses
    from wrpo_lib.quadruples.convert import open_rows
    from wrpo_lib.quadruples.schema import IMPORTED, checked_rows

    form, given = open_rows(file, "unnamed", "unknown")
    kind = IMPORTED.get(form, form)
    if form in ("responses", "rewards"):
        found = read_responses([file], scored=form == "rewards").frame
        found["empty"], size = found["length"] == 0, len(found)
        numbers = found.groupby("model", observed=True)[["length", "empty", "truncated", "reward"]]
        lines = [f"means by model:\n{numbers.mean().to_string()}"]
    else:
        rows = list(given) if kind == "responses" else checked_rows(given, kind, str(file))
        given, size = iter(rows), len(rows)
        lines = [f"`wrpo data import` makes {kind} of them"] if form in IMPORTED else []
    if tokenizer:
        lines.append(_rendered(given, kind, tokenizer, str(file), max_length, max_prompt_length))
    typer.echo("\n  ".join([f"{file}: {size} rows ({form}), nothing wrong", *lines]))


def _rendered(rows: Iterable[Row], kind: str, model: str, where: str, *limits: int | None) -> str:
    """What training would cut and change of rows, with the tokenizer of ``model``."""
    from wrpo_lib.chat import Truncation, render
    from wrpo_lib.models import load_tokenizer
    from wrpo_lib.quadruples.schema import KINDS, RESPONSES, side_text

    counts, tokenizer = Truncation(), load_tokenizer(model)
    fields = [name for name in (*RESPONSES, "chosen", "text") if name in KINDS[kind]]
    for number, row in enumerate(rows, 1):
        try:
            texts = [side_text(row[name]) for name in fields]
            counts.add(render(tokenizer, row["prompt"], texts, *limits), fields)
        except WRPOError as error:
            raise WRPOError(f"{where}, row {number}: {error}") from error
    return counts.report()


@app.command("import")
def import_(
    file: Path,
    out: Path,
    model: Annotated[str, typer.Option(help="whose responses, where the rows do not say")] = "",
    reward_model: Annotated[str, typer.Option(help="what gave the scores, if any")] = "unknown",
) -> None:
    """Convert FILE to quadruples, preference pairs or rows of responses, by what its rows hold."""
    from wrpo_lib.quadruples.convert import open_rows
    from wrpo_lib.quadruples.schema import IMPORTED, checked_rows

    form, rows = open_rows(file, model, reward_model)
    if form not in IMPORTED:
        raise WRPOError(f"{file} holds {form} already; use it as it is")
    kind = IMPORTED[form]
    checked = rows if kind == "responses" else checked_rows(rows, kind, str(file))
    write_rows(checked, check_output(out, file))
    typer.echo(f"{file} ({form} form): wrote {kind} to {out}")


@app.command()
def export(file: Path, out: Path) -> None:
    """Convert the quadruples of FILE to the official format in OUT."""
    from wrpo_lib.quadruples import to_official
    from wrpo_lib.quadruples.schema import checked_rows

    rows = checked_rows(iter_rows(file), "quadruples", str(file))
    write_rows(map(to_official, rows), check_output(out, file))
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
        write_rows(rows, check_output(out / f"{name}.jsonl", prompts))
    write_json(out / "split.json", vars(made))
    typer.echo(f"{out}: {len(made.sft)} prompts for SFT, {len(made.preference)} for preference")


@app.command()
def prepare(
    profile: Annotated[str, typer.Argument(help="whose recipes name the files, e.g. workstation")],
    file: Annotated[list[Path] | None, typer.Option(help="scored responses; repeatable")] = None,
    hub: Annotated[str, typer.Option(help="data set to download where no file is given")] = "",
    revision: Annotated[str | None, typer.Option(help="commit of the data set")] = None,
    model: Annotated[str, typer.Option(help="whose responses, where the rows do not say")] = "",
    reward_model: Annotated[str, typer.Option(help="what gave the scores, if any")] = "unknown",
    seed: Annotated[int, typer.Option(help="of the split; the paper states none")] = 42,
) -> None:
    """Write the files that the recipes of PROFILE read, from published source responses."""
    from wrpo_lib.quadruples import prepare as stage

    files = file or stage.download(hub or stage.PUBLISHED, revision)
    for path, what in stage.prepare(profile, files, model, reward_model, seed).items():
        typer.echo(f"{path}: {what}")


@app.command()
def overlap(
    file: Path,
    benchmark: Annotated[list[Path], typer.Option(help="file of benchmark prompts; repeatable")],
    out: Annotated[Path, typer.Option(help="file for the matches, for `wrpo pair --exclude`")],
) -> None:
    """Find the prompts of FILE that hold 70 % of a benchmark prompt's word 8-grams."""
    from wrpo_lib.quadruples.prompts import find_overlap

    check_output(out, file, *benchmark)
    found = find_overlap(file, benchmark)
    write_rows(found, out)
    prompts = {match["prompt_id"] for match in found}
    typer.echo(f"{file}: {len(prompts)} prompts overlap with the benchmarks; see {out}")


def pair(
    files: Annotated[list[Path], typer.Argument(help="scored responses of sources and target")],
    out: Annotated[Path, typer.Option(help="file to write (.jsonl, .jsonl.gz, .parquet)")],
    target: Annotated[str, typer.Option(help="the model whose samples give y_wt and y_l")] = "",
    pairs: Annotated[str, typer.Option(help="or sft, dpo-on, dpo-off, dpo-hybrid")] = "quadruples",
    sources: Annotated[str, typer.Option(help="comma-separated; default: every other model")] = "",
    rank: Annotated[int, typer.Option(help="y_ws is the best (1), second best (2) ...")] = 1,
    dispreferred: Annotated[bool, typer.Option(help="also the worst source response")] = False,
    split: Annotated[Path | None, typer.Option(help="split.json; default: all prompts")] = None,
    part: Annotated[Part | None, typer.Option(help="of the split; default: by --pairs")] = None,
    exclude: Annotated[Path | None, typer.Option(help="file of prompt_ids to leave out")] = None,
    min_gap: Annotated[float, typer.Option(help="least difference in reward")] = 0.0,
    max_gap: Annotated[float, typer.Option(help="greatest difference in reward")] = float("inf"),
    drop_truncated: Annotated[bool, typer.Option(help="not what hit the token limit")] = False,
) -> None:
    """Choose y_ws, y_wt and y_l by reward and write them, with a report beside them."""
    from wrpo_lib.quadruples import Pairing, read_responses, read_split, write_pairs
    from wrpo_lib.quadruples.pair import summary
    from wrpo_lib.quadruples.schema import require

    group = tuple(name.strip() for name in sources.split(",")) if sources else None
    how = (rank, dispreferred, min_gap, max_gap, drop_truncated)
    pairing = Pairing(target or None, pairs, group, *how)
    check_output(out, *files)
    if part and not split:
        raise WRPOError(f"--part {part} is a part of a recorded split; give --split FILE too")
    part = part or ("sft" if pairs == "sft" else "preference")
    excluded = set()
    for number, row in enumerate(iter_rows(exclude) if exclude else [], 1):
        require(row, number, "prompts", str(exclude))
        excluded.add(row["prompt_id"])
    table = read_responses(files)
    drawn = read_split(split) if split else None
    counts = write_pairs(table, out, pairing, drawn, part, excluded)
    typer.echo(f"{out}: {summary(counts)}")
