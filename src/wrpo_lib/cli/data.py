"""``wrpo data``: check, convert and split files of rows; ``wrpo pair``."""

from pathlib import Path
from typing import Annotated

import typer

from wrpo_lib.errors import WRPOError
from wrpo_lib.io import check_output, write_json, write_rows

app = typer.Typer(help="Check, convert and split files of the data stages.", no_args_is_help=True)


@app.command()
def check(file: Path) -> None:
    """Validate FILE; exit status 2 and the row named when something is wrong.

    The kinds of rows and the published forms are told apart by their fields and roles.
    """
    from wrpo_lib.quadruples import read_responses
    from wrpo_lib.quadruples.convert import open_rows
    from wrpo_lib.quadruples.schema import IMPORTED

    form, rows = open_rows(file, "unnamed")
    said = f"\n  `wrpo data import` makes {IMPORTED[form]} of them" if form in IMPORTED else ""
    if form in ("responses", "rewards"):
        found = read_responses([file], scored=form == "rewards").frame
        rows, found["empty"] = found.index, found["length"] == 0
        numbers = found.groupby("model", observed=True)[["length", "empty", "truncated", "reward"]]
        said = f"\n  means by model:\n{numbers.mean().to_string()}"
    typer.echo(f"{file}: {len(list(rows))} rows ({form}), nothing wrong{said}")


@app.command("import")
def import_(
    file: Path,
    out: Path,
    model: Annotated[str, typer.Option(help="whose responses; default: their generator")] = "",
    reward_model: Annotated[str, typer.Option(help="what gave the scores, if any")] = "unknown",
) -> None:
    """Convert FILE to quadruples, preference pairs or rows of responses, by what its rows hold."""
    from wrpo_lib.quadruples.convert import open_rows
    from wrpo_lib.quadruples.schema import IMPORTED

    form, rows = open_rows(file, model, reward_model)
    if form not in IMPORTED:
        raise WRPOError(f"{file} holds {form} already; use it as it is")
    write_rows(rows, check_output(out, file))
    typer.echo(f"{file} ({form} form): wrote {IMPORTED[form]} to {out}")


@app.command()
def export(file: Path, out: Path) -> None:
    """Convert the quadruples of FILE to the official format in OUT."""
    from wrpo_lib.quadruples.convert import open_rows, to_official

    form, rows = open_rows(file)
    if form != "quadruples":
        raise WRPOError(f"{file} holds {form}, no quadruples; export takes those alone")
    write_rows(map(to_official, rows), check_output(out, file))
    typer.echo(f"wrote {out} in the official format")


@app.command()
def split(
    prompts: Path,
    out: Annotated[Path, typer.Argument(help="folder for split.json and the two parts")],
    seed: Annotated[int, typer.Option(help="of the draw; the paper states none")] = 42,
) -> None:
    """Split PROMPTS (or the prompts of responses): a third for SFT, the rest for preference."""
    from wrpo_lib.quadruples import Split, read_prompts

    found = dict(read_prompts(prompts))
    made = Split.draw(found, seed)
    record = check_output(out / "split.json", prompts, suffixes=(".json",))
    parts = {name: check_output(out / f"{name}.jsonl", prompts) for name in ("sft", "preference")}
    for name, path in parts.items():
        write_rows(({"prompt_id": i, "prompt": found[i]} for i in getattr(made, name)), path)
    write_json(record, vars(made))
    typer.echo(f"{out}: {len(made.sft)} prompts for SFT, {len(made.preference)} for preference")


@app.command()
def prepare(
    profile: Annotated[str, typer.Argument(help="whose recipes name the files, e.g. workstation")],
    files: Annotated[
        list[Path] | None,
        typer.Argument(help="scored responses of the sources; default: the hub's"),
    ] = None,
    model: Annotated[str, typer.Option(help="whose responses, where the rows do not say")] = "",
    reward_model: Annotated[str, typer.Option(help="what gave the scores, if any")] = "unknown",
    seed: Annotated[int, typer.Option(help="of the split; the paper states none")] = 42,
) -> None:
    """Write the files that the recipes of PROFILE read, from published source responses."""
    from wrpo_lib.quadruples.convert import prepare

    for line in prepare(profile, files or [], model, reward_model, seed):
        typer.echo(line)


def pair(
    files: Annotated[list[Path], typer.Argument(help="scored responses of sources and target")],
    out: Annotated[Path, typer.Option(help="file to write (.jsonl, .jsonl.gz, .parquet)")],
    target: Annotated[str, typer.Option(help="the model whose samples give y_wt and y_l")] = "",
    pairs: Annotated[str, typer.Option(help="or sft, dpo-on, dpo-off, dpo-hybrid")] = "quadruples",
    sources: Annotated[str, typer.Option(help="comma-separated; default: every other model")] = "",
    rank: Annotated[int, typer.Option(help="y_ws is the best (1), second best (2) ...", min=1)] = 1,
    dispreferred: Annotated[bool, typer.Option(help="also the worst source response")] = False,
    split: Annotated[Path | None, typer.Option(help="split.json: its part for --pairs")] = None,
    min_gap: Annotated[float, typer.Option(help="least difference in reward")] = 0.0,
    drop_truncated: Annotated[bool, typer.Option(help="not what hit the token limit")] = False,
) -> None:
    """Choose y_ws, y_wt and y_l by reward and write them, with a report beside them."""
    from wrpo_lib.quadruples import Pairing, Split, write_pairs

    group = tuple(name.strip() for name in sources.split(",")) if sources else None
    pairing = Pairing(target or None, pairs, group, rank, dispreferred, min_gap, drop_truncated)
    check_output(out, *files)
    typer.echo(f"{out}: {write_pairs(files, out, pairing, Split.read(split) if split else None)}")
