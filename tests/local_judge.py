"""A judge server in a thread, which answers as a test tells it to."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from wrpo_lib.evaluation.judgements import best_attempts
from wrpo_lib.io import Row, iter_rows
from wrpo_lib.nano.judge_server import serve


@contextmanager
def judge_at(responder: Callable[[dict[str, Any]], Any], latency: float = 0.0) -> Iterator[str]:
    """The base URL of a server that replies with ``responder`` until the block ends."""
    loop, ports, started = asyncio.new_event_loop(), [], threading.Event()

    def note(port: int) -> None:
        ports.append(port)
        started.set()

    task = loop.create_task(serve(responder, latency=latency, started=note))

    def work() -> None:
        with suppress(asyncio.CancelledError):
            loop.run_until_complete(task)
        loop.close()

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    assert started.wait(30)
    try:
        yield f"http://127.0.0.1:{ports[0]}/v1"
    finally:
        loop.call_soon_threadsafe(task.cancel)
        thread.join(30)


def judgements(path: Path) -> list[Row]:
    """The rows of a file of judgements that count, whole."""
    with_reply = [(row["request"], row) for row in iter_rows(path)]
    return [row for _, row in best_attempts(with_reply)]
