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
from pathlib import Path
from typing import Any

from commandline import wait_until

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

    def encode(self) -> bytes:
        body = self.body if isinstance(self.body, bytes) else json.dumps(self.body).encode()
        length = len(body) if self.promised is None else self.promised
        head = {"Content-Type": "application/json", "Content-Length": str(length), **self.headers}
        lines = [f"HTTP/1.1 {self.status} X", *(f"{k}: {v}" for k, v in head.items()), "", ""]
        return "\r\n".join(lines).encode() + body


def said(text: str, **more: Any) -> Answer:
    """A whole chat completion that says ``text``."""
    message = {"role": "assistant", "content": text}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    usage = {"prompt_tokens": 3, "completion_tokens": len(text.split()) + 1}
    return Answer({"object": "chat.completion", "choices": [choice], "usage": usage, **more})


Handler = Callable[[dict[str, Any]], Awaitable[Answer]]


class LocalServer:
    """Serves ``handler(body of the request)`` on a free port while the ``with`` block lasts."""

    def __init__(self, handler: Handler) -> None:
        self.handler = handler
        self.requests: list[dict[str, Any]] = []
        self.headers: list[str] = []
        self.active = self.most_active = 0
        self.serving: set[asyncio.Task[Any] | None] = set()

    def __enter__(self) -> LocalServer:
        self.loop = asyncio.new_event_loop()
        started = asyncio.start_server(self._serve, "127.0.0.1", 0, backlog=512)
        self.listener = self.loop.run_until_complete(started)
        self.url = f"http://127.0.0.1:{self.listener.sockets[0].getsockname()[1]}/v1"
        self.thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self._close(), self.loop).result()
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join()
        self.loop.close()

    async def _close(self) -> None:
        """Cancel what is served; let in what was only just accepted, so that it is closed."""
        current = asyncio.current_task()
        while accepted := asyncio.all_tasks() - self.serving - {current}:
            await asyncio.wait(accepted, timeout=0.01)
        self.listener.close()
        tasks = asyncio.all_tasks() - {current}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.sleep(0)  # for what closing a connection leaves to the loop

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.serving.add(asyncio.current_task())
        try:
            await self._connection(reader, writer)
        finally:
            writer.close()

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                fields = dict(line.lower().split(": ", 1) for line in head.split("\r\n")[1:-2])
                body = json.loads(await reader.readexactly(int(fields["content-length"])))
                self.requests.append(body)
                self.headers.append(head)
                self.active += 1
                self.most_active = max(self.most_active, self.active)
                try:
                    answer = await self.handler(body)
                finally:
                    self.active -= 1
                writer.write(answer.encode())
                await writer.drain()
                if answer.promised is not None:
                    return
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
