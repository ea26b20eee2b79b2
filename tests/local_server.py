"""Servers for tests: one that answers, fails, hangs or breaks off as told, and real ones."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from commandline import wait_until

from wrpo_lib.evaluation.benchmarks import load
from wrpo_lib.io import write_rows

TRANSFORMERS = [sys.executable, "-c", "from transformers.cli.transformers import main; main()"]
"""The command of transformers, whose ``serve`` is an OpenAI-compatible server."""


@contextmanager
def serving(
    command: list[str], folder: Path, health: str = "/health", env: dict[str, str] | None = None
) -> Iterator[str]:
    """The base URL of a real server, a process with the working directory ``folder``.

    ``command`` gets the address; once ``health`` answers there, requests can be sent.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command, log = [*command, "--host", "127.0.0.1", "--port", str(port)], folder / "log"

    def ready() -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}{health}", timeout=5):
                return True
        except OSError:
            return False

    with log.open("w") as file:
        how: dict[str, Any] = {"stdout": file, "stderr": file, "start_new_session": True}
        run = subprocess.Popen(command, cwd=folder, env=env, **how)
    try:
        wait_until(ready, run, log.read_text)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        os.killpg(run.pid, signal.SIGKILL)
        run.wait()


@dataclass(frozen=True)
class Answer:
    """What is sent back; ``promised`` is the Content-Length, the real one unless told."""

    body: Any = None
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    promised: int | None = None


def said(text: str, **more: Any) -> Answer:
    """A whole chat completion that says ``text``."""
    message = {"role": "assistant", "content": text}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    usage = {"prompt_tokens": 3, "completion_tokens": len(text.split()) + 1}
    return Answer({"object": "chat.completion", "choices": [choice], "usage": usage, **more})


class _Connection(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # headers and body in one packet
    disable_nagle_algorithm = True
    server: LocalServer

    def do_POST(self) -> None:
        own = self.server
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with own.lock:
            own.requests.append(body)
            own.headers.append(str(self.headers))
            own.active += 1
            own.most_active = max(own.most_active, own.active)
        answer = asyncio.run(own.handler(body))
        with own.lock:
            own.active -= 1
        data = answer.body if isinstance(answer.body, bytes) else json.dumps(answer.body).encode()
        self.send_response(answer.status)
        length = len(data) if answer.promised is None else answer.promised
        head = {"Content-Type": "application/json", "Content-Length": str(length), **answer.headers}
        for name, value in head.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)
        self.wfile.flush()
        self.close_connection = answer.promised is not None

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


class LocalServer(ThreadingHTTPServer):
    """Serves ``handler(body of the request)`` on a free port while the ``with`` block lasts."""

    request_queue_size = 512
    block_on_close = False  # a handler that hangs is left behind

    def __init__(self, handler: Callable[[dict[str, Any]], Awaitable[Answer]]) -> None:
        super().__init__(("127.0.0.1", 0), _Connection)
        self.handler: Any = handler
        self.url = f"http://127.0.0.1:{self.server_port}/v1"
        self.requests: list[dict[str, Any]] = []
        self.headers: list[str] = []
        self.active = self.most_active = 0
        self.lock = threading.Lock()

    def __enter__(self) -> LocalServer:
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *_: Any) -> None:
        self.shutdown()
        self.server_close()

    def handle_error(self, *_: Any) -> None:
        """A client that went away is no fault."""


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
