"""Prompts for the tiny model, requests for them, and files of rows."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from wrpo_lib.generation.stage import Request, Response, Sampling


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


def ask(
    n: int, sampling: Sampling, key: str = "", content: str = "", samples: Iterable[int] = ()
) -> list[Request]:
    """Requests for all samples of ``n`` prompts, and of one more with its own ``content``."""
    asked = [(row["prompt_id"], row["prompt"]) for row in prompt_rows(n)]
    if key:
        asked.append((key, [{"role": "user", "content": content}]))
    numbers = samples or range(sampling.n)
    return [Request(name, prompt, sampling, k) for name, prompt in asked for k in numbers]


def by_name(made: Iterable[Response]) -> dict[tuple[str, int], Response]:
    return {(r.key, r.sample): r for r in made}


def write_rows(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path
