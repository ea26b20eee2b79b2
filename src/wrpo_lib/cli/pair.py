"""``wrpo pair``: from scored responses to quadruples, preference pairs and SFT rows."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from wrpo_lib.errors import WRPOError

if TYPE_CHECKING:
    from wrpo_lib.quadruples import ResponseTable, Split

SEED, SHARE = 42, 1 / 3


def register(app: typer.Typer) -> None:
    """Add the commands of this module to ``app``."""
    app.command()(pair)


def pair(
    files: Annotated[list[Path], typer.Argument(help="scored responses of sources and target")],
    out: Annotated[Path, typer.Option(help="file to write (.jsonl, .jsonl.gz, .parquet)")],
    target: Annotated[str, typer.Option(help="the model whose samples give y_wt and y_l")] = "",
    pairs: Annotated[
        str,
        typer.Option(help="quadruples, sft, dpo-on, dpo-off, dpo-hybrid or within-source"),
    ] = "quadruples",
    sources: Annotated[str, typer.Option(help="comma-separated; default: every other model")] = "",
    rank: Annotated[int, typer.Option(help="y_ws is the best (1), second best (2) ...")] = 1,
    dispreferred: Annotated[
        bool, typer.Option(help="also the worst source response, as source_rejected (Table 10)")
    ] = False,
    split: Annotated[
        Path | None, typer.Option(help="recorded split; made if it is not there")
    ] = None,
    part: Annotated[str, typer.Option(help="sft, preference or all; default: by --pairs")] = "",
    seed: Annotated[int | None, typer.Option(help=f"of a new split (default {SEED})")] = None,
    share: Annotated[
        float | None, typer.Option(help="for SFT in a new split (default 1/3)")
    ] = None,
    exclude: Annotated[
        Path | None, typer.Option(help="JSONL of prompt_ids to leave out (`wrpo data overlap`)")
    ] = None,
    min_gap: Annotated[float, typer.Option(help="least difference in reward")] = 0.0,
    max_gap: Annotated[float | None, typer.Option(help="greatest difference in reward")] = None,
    max_length_ratio: Annotated[
        float | None, typer.Option(help="greatest ratio of characters, longer to shorter")
    ] = None,
    keep_identical: Annotated[bool, typer.Option(help="keep pairs of the same text")] = False,
    drop_truncated: Annotated[
        bool, typer.Option(help="never choose a response that hit the token limit")
    ] = False,
) -> None:
    """Choose y_ws, y_wt and y_l by reward and write them, with a report beside them."""
    from wrpo_lib.io import WRITABLE, check_suffix
    from wrpo_lib.quadruples import Pairing, read_responses, write_pairs

    pairing = Pairing(
        target=target or None,
        pairs=pairs,
        sources=tuple(s.strip() for s in sources.split(",")) if sources else None,
        rank=rank,
        dispreferred=dispreferred,
        min_gap=min_gap,
        max_gap=max_gap,
        max_length_ratio=max_length_ratio,
        keep_identical=keep_identical,
        drop_truncated=drop_truncated,
    )
    check_suffix(out, WRITABLE)
    excluded = _excluded(exclude)
    table = read_responses(files)
    parts = _split(split, table, seed, share)
    name = part or ("all" if split is None else "sft" if pairs == "sft" else "preference")
    report = write_pairs(table, out, pairing, parts, name, excluded)
    typer.echo(f"{out}: {report.sentence()}")


def _excluded(path: Path | None) -> set[str]:
    from wrpo_lib.io import read_rows
    from wrpo_lib.quadruples import row_problems

    rows = [] if path is None else read_rows(path)
    for number, row in enumerate(rows, 1):
        for problem in row_problems(row, number, "prompts"):
            raise WRPOError(problem.sentence(str(path)))
    return {row["prompt_id"] for row in rows}


def _split(
    path: Path | None, table: ResponseTable, seed: int | None, share: float | None
) -> Split | None:
    """The recorded split, or a new one over all prompts of the files."""
    from wrpo_lib.quadruples.split import make_split, read_split

    if path is None:
        if seed is not None or share is not None:
            raise WRPOError("--seed and --share belong to a recorded split; give --split FILE too")
        return None
    if path.is_file():
        found = read_split(path)
        if seed not in (None, found.seed) or share not in (None, found.share):
            raise WRPOError(
                f"{path} was drawn with seed {found.seed} and share {found.share:.4g}; "
                "leave --seed and --share out or name a new file"
            )
        return found
    made = make_split(table.prompts, SEED if seed is None else seed, share or SHARE)
    made.write(path)
    return made
