"""``wrpo pair``: from scored responses to quadruples, preference pairs and SFT rows."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from wrpo_lib.io import WRITABLE, check_suffix, iter_rows


def pair(
    files: Annotated[list[Path], typer.Argument(help="scored responses of sources and target")],
    out: Annotated[Path, typer.Option(help="file to write (.jsonl, .jsonl.gz, .parquet)")],
    target: Annotated[str, typer.Option(help="the model whose samples give y_wt and y_l")] = "",
    pairs: Annotated[
        str, typer.Option(help="quadruples, sft, dpo-on, dpo-off or dpo-hybrid")
    ] = "quadruples",
    sources: Annotated[str, typer.Option(help="comma-separated; default: every other model")] = "",
    rank: Annotated[int, typer.Option(help="y_ws is the best (1), second best (2) ...")] = 1,
    dispreferred: Annotated[
        bool, typer.Option(help="also the worst source response, as source_rejected (Table 10)")
    ] = False,
    split: Annotated[
        Path | None, typer.Option(help="split.json of `wrpo data split`; default: all prompts")
    ] = None,
    part: Annotated[
        Literal["sft", "preference", "all"] | None, typer.Option(help="default: by --pairs")
    ] = None,
    exclude: Annotated[
        Path | None, typer.Option(help="file of prompt_ids to leave out (`wrpo data overlap`)")
    ] = None,
    min_gap: Annotated[float, typer.Option(help="least difference in reward")] = 0.0,
    max_gap: Annotated[float, typer.Option(help="greatest difference in reward")] = float("inf"),
    drop_truncated: Annotated[
        bool, typer.Option(help="never choose a response that hit the token limit")
    ] = False,
) -> None:
    """Choose y_ws, y_wt and y_l by reward and write them, with a report beside them."""
    from wrpo_lib.quadruples import Pairing, read_responses, read_split, write_pairs
    from wrpo_lib.quadruples.pair import summary
    from wrpo_lib.quadruples.schema import require

    pairing = Pairing(
        target=target or None,
        pairs=pairs,
        sources=tuple(s.strip() for s in sources.split(",")) if sources else None,
        rank=rank,
        dispreferred=dispreferred,
        min_gap=min_gap,
        max_gap=max_gap,
        drop_truncated=drop_truncated,
    )
    check_suffix(out, WRITABLE)
    parts = read_split(split) if split else None
    default = "sft" if pairs == "sft" else "preference"
    excluded = set()
    for number, row in enumerate(iter_rows(exclude) if exclude else [], 1):
        require(row, number, "prompts", str(exclude))
        excluded.add(row["prompt_id"])
    table = read_responses(files)
    counts = write_pairs(table, out, pairing, parts, part or default, excluded)
    typer.echo(f"{out}: {summary(counts)}")
