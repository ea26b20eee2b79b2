"""Pairing from files to files: the rows, and a report of how they came about beside them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from wrpo_lib.chat import prompt_problems
from wrpo_lib.errors import WRPOError
from wrpo_lib.io import write_json, write_rows
from wrpo_lib.quadruples.build import PairingReport, build_rows
from wrpo_lib.quadruples.choose import TIE_RULE, Pairing
from wrpo_lib.quadruples.responses import ResponseTable
from wrpo_lib.quadruples.split import Split
from wrpo_lib.records import provenance


def write_pairs(
    table: ResponseTable,
    out: Path,
    pairing: Pairing,
    split: Split | None = None,
    part: str = "all",
    excluded: frozenset[str] = frozenset(),
) -> PairingReport:
    """Pair the responses of ``table`` into ``out``, and write ``<out>.report.json``.

    The prompts are ``part`` of a recorded ``split`` in its order, or without one all prompts by
    their ids. Nothing is left at ``out`` when a prompt is malformed or nothing can be paired.
    """
    asked = sorted(table.prompts) if split is None else split.part(part)
    # rows that can be fetched at will are fetched for some prompts at a time; otherwise all at once
    block = {} if table.seekable else {"block": max(len(asked), 1)}
    rows, report = build_rows(table, table.fetch, pairing, asked, excluded, **block)
    write_rows(_checked(rows, table, report), out)
    stem = out.name.removesuffix(".gz").removesuffix(".jsonl").removesuffix(".parquet")
    record = {
        "pairing": pairing.as_dict(),
        "tie_rule": TIE_RULE,
        "files": [str(path) for path in table.files],
        "responses": len(table),
        "empty": int((table.length == 0).sum()),
        "truncated": int(table.truncated.sum()),
        "part": part,
        "split": None if split is None else {"seed": split.seed, "share": split.share},
        **report.as_dict(),
        "dropped": dict(report.dropped),
        "chosen_from": dict(report.winners.most_common()),
        "source_not_above_rejected": report.source_not_above_rejected,
        "provenance": provenance(),
    }
    write_json(out.with_name(f"{stem}.report.json"), record)
    return report


def _checked(
    rows: Iterator[dict[str, Any]], table: ResponseTable, report: PairingReport
) -> Iterator[dict[str, Any]]:
    """Each row with its prompt; none at all is an error, and then nothing is written."""
    for row in rows:
        for what in prompt_problems(row["prompt"]):
            raise WRPOError(
                f"prompt {row['prompt_id']!r}, field 'prompt': {what}; pairing takes it from the "
                "chosen responses"
            )
        yield row
    if not report.kept:
        files = ", ".join(map(str, table.files))
        raise WRPOError(f"{files}: {report.sentence()}; nothing to write")
