"""A judge server in a thread, which answers as a test tells it to."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from local_server import Answer, LocalServer

from wrpo_lib.evaluation.benchmarks import load
from wrpo_lib.evaluation.forms import best_attempts
from wrpo_lib.io import Row, iter_rows, write_rows


@contextmanager
def judge_at(responder: Callable[[dict[str, Any]], Any], latency: float = 0.0) -> Iterator[str]:
    """The base URL of a server that replies with the status and body that ``responder`` gives,
    after ``latency`` seconds, as a model would need."""

    async def handler(body: dict[str, Any]) -> Answer:
        await asyncio.sleep(latency)
        status, said = responder(body)
        return Answer(said, status)

    with LocalServer(handler) as server:
        yield server.url


def answer_file(name: str, folder: Path) -> Path:
    """A file with an answer to every turn of our own questions."""
    rows = [
        {"question_id": q.question_id, "turn": turn, "model": "mine", "text": f"answer to {asked}"}
        for q in load(name).questions
        for turn, asked in enumerate(q.turns, 1)
    ]
    write_rows(rows, folder / f"answers-{name}.jsonl")
    return folder / f"answers-{name}.jsonl"


def judgements(path: Path) -> list[Row]:
    """The rows of a file of judgements that count."""
    return [row for _, row in best_attempts((str(path), row) for row in iter_rows(path))]
