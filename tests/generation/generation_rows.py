"""Prompts for the tiny model, requests for them, files of rows, and killing a run midway."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from commandline import wait_until

from wrpo_lib.generation.request import Request, Response, Sampling


class Tiny(NamedTuple):
    """A model, its tokenizer and the folder that both are saved in."""

    model: Any
    tokenizer: Any
    folder: Path


def with_template(tiny: Tiny, template: str) -> Any:
    """The tiny model's tokenizer with another chat template."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny.folder)
    tokenizer.chat_template = template
    return tokenizer


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


def wrpo_command(*arguments: object, python: str = sys.executable) -> list[str]:
    return [python, "-m", "wrpo_lib.cli", *map(str, arguments)]


def kill_and_run_again(
    command: list[str], out: Path, rows: int, env: dict[str, str] | None = None
) -> tuple[int, str]:
    """Kill (SIGKILL) a command once ``out`` has so many rows, and run it again to its end.

    Checks that finished rows stay; returns how many there were, and what the second run said.
    """

    def finished() -> list[bytes]:
        return out.read_bytes().split(b"\n")[:-1] if out.exists() else []

    log = out.with_suffix(".log")
    with log.open("w") as file:
        run = subprocess.Popen(command, env=env, stdout=file, stderr=file, start_new_session=True)
        try:
            wait_until(lambda: len(finished()) >= rows, run, log.read_text)
        finally:
            os.killpg(run.pid, signal.SIGKILL)
            run.wait()
    kept = finished()
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert finished()[: len(kept)] == kept, "finished rows must stay as they are"
    return len(kept), done.stdout
