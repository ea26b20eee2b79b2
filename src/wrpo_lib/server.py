"""Many requests to any OpenAI-compatible server: concurrent, patient, and careful with the key.

Sampling from a served model and judging with a paid one are the same traffic. A server that is
busy slows all connections down, not only the one it told; the key comes from the environment and
reaches neither a file nor a message.
"""

from __future__ import annotations

import asyncio
import json
import os
import queue
import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from wrpo_lib.errors import WRPOError
from wrpo_lib.patience import Pace, backoff, retry_after

NO_KEY = "none"  # local servers ask for no key, but the client insists on a text
BUSY = (429, 503)
REFUSED = (401, 403)


@dataclass(frozen=True)
class Server:
    """Where to send requests and how patiently.

    ``base_url`` ends in ``/v1`` as a rule; ``api_key_env`` names the environment variable that
    holds the key (unset: no key is sent); ``timeout`` is seconds for one whole attempt; ``retries``
    are further attempts after the first.
    """

    base_url: str
    api_key_env: str = "OPENAI_API_KEY"
    connections: int = 64
    timeout: float = 120.0
    retries: int = 6

    @property
    def address(self) -> str:
        """The address without any password or query in it, fit to be shown and recorded."""
        parts = urlsplit(self.base_url)
        port = f":{parts.port}" if parts.port else ""
        return f"{parts.scheme}://{parts.hostname}{port}{parts.path}"


@dataclass(frozen=True)
class Reply:
    """The server's answer to one request: ``body`` as it came, or ``error`` in one sentence."""

    key: str
    body: dict[str, Any] | None
    error: str | None


def complete(
    server: Server,
    requests: Iterable[tuple[str, dict[str, Any]]],
    *,
    stop: Callable[[], bool] | None = None,
) -> Iterator[Reply]:
    """Send each (key, body) to ``/chat/completions``; yield replies as they arrive, unordered.

    At most ``server.connections`` requests are under way, and no more are drawn from ``requests``.
    Timeouts, broken or half answers and statuses 408, 409, 429 and 5xx are tried again, after what
    Retry-After asks or a doubling wait; a 429 or 503 also makes every connection wait and halves
    how many are used, which grows again with success. A request that fails for good is a
    :class:`Reply` with ``error``. A refused key, a used-up quota, an address without such a server
    and, before any success, an unknown model stop everything with a :class:`WRPOError`.
    Once ``stop()`` is true no further request is sent; those under way are still yielded.
    """
    pool = _Pool(server)
    source = iter(requests)
    pending, more = 0, True
    try:
        while more or pending:
            if stop is not None and not pool.stopped and stop():
                more = False
                pool.stop()
            while more and pending < server.connections:
                request = next(source, None)
                if request is None:
                    more = False
                else:
                    pool.send(*request)
                    pending += 1
            if not pending:
                continue
            try:
                outcome = pool.done.get(timeout=0.5)  # looks at stop() even while all wait
            except queue.Empty:
                continue
            pending -= 1
            if isinstance(outcome, BaseException):
                raise outcome
            if outcome is not None:
                yield outcome
    finally:
        pool.close()


@dataclass(frozen=True)
class _Failure:
    """Why an attempt failed: an HTTP status (0: none came), and the wait the server asked for."""

    what: str
    status: int = 0
    wait: float | None = None
    fatal: str | None = None

    @property
    def worth_a_retry(self) -> bool:
        return self.status in (0, 200, 408, 409, 429) or self.status >= 500


class _Pool:
    """An event loop in a thread of its own, so that it runs inside notebooks as well."""

    def __init__(self, server: Server) -> None:
        from openai import AsyncOpenAI

        _check_address(server.base_url)
        self.server, self.key = server, _read_key(server.api_key_env)
        self.done: queue.SimpleQueue[Reply | BaseException | None] = queue.SimpleQueue()
        self.pace = Pace(server.connections)
        self.stopped = self.reached = False
        self.tasks: set[asyncio.Task[Reply | None]] = set()
        self.sending: set[asyncio.Task[Any] | None] = set()
        self.client = AsyncOpenAI(
            base_url=server.base_url, api_key=self.key, max_retries=0, timeout=server.timeout
        )
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self.thread.start()

    def send(self, key: str, body: dict[str, Any]) -> None:
        """Start one request (from the caller's thread)."""
        self.loop.call_soon_threadsafe(self._start, key, body)

    def stop(self) -> None:
        """Drop every request that waits for its turn; those at the server go on."""
        self.stopped = True
        self.loop.call_soon_threadsafe(self._cancel_waiting)

    def close(self) -> None:
        """Cancel what is under way, close the connections, end the thread."""
        asyncio.run_coroutine_threadsafe(self._close(), self.loop).result()
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join()
        self.loop.close()

    async def _close(self) -> None:
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        await self.client.close()

    def _start(self, key: str, body: dict[str, Any]) -> None:
        task = self.loop.create_task(self._ask(key, body))
        self.tasks.add(task)
        task.add_done_callback(self._finished)

    def _cancel_waiting(self) -> None:
        for task in self.tasks - self.sending:
            task.cancel()

    def _finished(self, task: asyncio.Task[Reply | None]) -> None:
        self.tasks.discard(task)
        self.done.put(None if task.cancelled() else task.exception() or task.result())

    async def _ask(self, key: str, body: dict[str, Any]) -> Reply | None:
        """One request through all of its attempts; None when it was dropped by ``stop``."""
        tries = 0
        while not self.stopped:
            served = self.pace.served
            began, outcome = await self._attempt(body)
            if isinstance(outcome, dict):
                self.pace.success()
                return Reply(key, outcome, None)
            if outcome.fatal:
                raise WRPOError(outcome.fatal)
            busy = outcome.status in BUSY
            # being told to wait while others are served is no failure of this request
            tries += not (busy and self.pace.served > served)
            if not outcome.worth_a_retry or tries > self.server.retries:
                return Reply(key, None, outcome.what)
            wait = backoff(tries) if outcome.wait is None else outcome.wait
            if busy:
                self.pace.slow_down(wait, began)
            else:
                await asyncio.sleep(wait)
        return None

    async def _attempt(self, body: dict[str, Any]) -> tuple[float, dict[str, Any] | _Failure]:
        await self.pace.enter()
        me = asyncio.current_task()
        self.sending.add(me)
        try:
            return time.monotonic(), await self._post(body)
        finally:
            self.sending.discard(me)
            self.pace.leave()

    async def _post(self, body: dict[str, Any]) -> dict[str, Any] | _Failure:
        import openai

        where, seconds = self.server.address, self.server.timeout
        try:
            async with asyncio.timeout(seconds):  # the client's own limit is for a single read
                text = await self.client.post("/chat/completions", cast_to=str, body=body)
        except (TimeoutError, openai.APITimeoutError):
            return _Failure(f"{where} gave no whole answer in {seconds:g} s")
        except openai.APIConnectionError as error:
            return self._unreachable(error)
        except openai.APIStatusError as error:
            return self._status(error)
        self.reached = True
        return _read_answer(text, where)

    def _unreachable(self, error: Exception) -> _Failure:
        cause = self._redact(str(error.__cause__ or error))
        what = f"the connection to {self.server.address} failed ({cause})"
        refused = type(error.__cause__).__name__ == "ConnectError" and not self.reached
        fatal = f"{what}; start the server or correct its address" if refused else None
        return _Failure(what, fatal=fatal)

    def _status(self, error: Any) -> _Failure:
        self.reached = True
        status, where = error.status_code, self.server.address
        said = self._redact(error.response.text)
        what = f"{where} answered {status}: {said}"
        fatal = None
        if status in REFUSED:
            kind = "the key in" if self.key != NO_KEY else "a request without a key; set"
            fatal = f"{where} refused {kind} {self.server.api_key_env} (status {status}: {said})"
        elif status == 429 and "insufficient_quota" in said:
            fatal = f"{where} says that the quota is used up ({said}); add to it and run again"
        elif status == 404 and not self.pace.served:
            fatal = f"{what}; check the server's address and the model's name"
        return _Failure(what, status, retry_after(error.response.headers), fatal)

    def _redact(self, text: str) -> str:
        """At most 300 characters on one line, without the key or what looks like one."""
        if self.key != NO_KEY:
            text = text.replace(self.key, "***")
        text = re.sub(r"\b(sk|key|hf|gsk|xai)[-_][\w*.-]{6,}", "***", text)
        return " ".join(text.split())[:300]


def _check_address(url: str) -> None:
    try:
        parts = urlsplit(url)
        good = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:  # a port that is no number
        good = False
    if not good:
        raise WRPOError(
            "the server's address is no address of a web server; give one such as "
            "http://localhost:8000/v1"
        )


def _read_key(variable: str) -> str:
    key = os.environ.get(variable, "").strip() or NO_KEY
    if not key.isascii() or not key.isprintable() or " " in key:
        raise WRPOError(
            f"the environment variable {variable} holds no valid key (spaces or unusual "
            "characters); set it again"
        )
    return key


def _read_answer(text: str, where: str) -> dict[str, Any] | _Failure:
    """The JSON of a whole answer; an answer cut short is a failure that is tried again."""
    try:
        body = json.loads(text)
    except ValueError:
        return _Failure(f"{where} answered with what is not JSON ({len(text)} characters)", 200)
    choices = body.get("choices") if isinstance(body, dict) else None
    if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
        return _Failure(f"{where} answered without a choice in it", 200)
    return dict(body)
