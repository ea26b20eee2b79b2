"""Prompts for the tiny model, and files of rows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

from wrpo_lib.io import read_rows

__all__ = ["Tiny", "prompt_rows", "read_rows", "rewards_of", "write_rows"]


class Tiny(NamedTuple):
    """A model, its tokenizer and the folder that both are saved in."""

    model: Any
    tokenizer: Any
    folder: Path


def prompt_rows(n: int) -> list[dict[str, Any]]:
    """Prompts of different lengths, one in four with a system turn."""
    rows: list[dict[str, Any]] = []
    for k in range(n):
        turns = [{"role": "user", "content": f"copy : {'a b c d e f g h '[: 2 + 3 * (k % 5)]}{k}"}]
        if k % 4 == 3:
            turns.insert(0, {"role": "system", "content": "happy to help"})
        rows.append({"prompt_id": f"p{k}", "prompt": turns})
    return rows


def write_rows(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def rewards_of(scorer: Any, rows: list[dict[str, Any]]) -> list[float]:
    """The rewards of some rows in their order."""
    found = dict(scorer(rows))
    return [found[k] for k in range(len(rows))]
