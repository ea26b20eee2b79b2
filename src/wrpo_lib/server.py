"""Many requests to any OpenAI-compatible server: concurrent, with retries, careful with the key.

Sampling from a served model and judging with a paid one are the same traffic. Retries and waits
are the OpenAI client's own; the key comes from the environment and reaches neither a file nor a
message.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple

from wrpo_lib.errors import WRPOError

if TYPE_CHECKING:
    from openai import APIStatusError

URL = r"(https?://)([^/@]*@)?([^/?:]+|\[[\da-f:]+\])(:\d+)?(/[^?]*)?(\?.*)?"
NO_KEY = "none"  # local servers ask for no key, but the client insists on a text


@dataclass(frozen=True)
class Server:
    """Where to send requests, and how many at a time.

    ``base_url`` ends in ``/v1`` as a rule; ``api_key_env`` names the environment variable that
    holds the key (unset: no key is sent); ``timeout`` is the seconds that the server may be silent
    in one attempt; ``retries`` are further attempts after the first.
    """

    base_url: str
    api_key_env: str = "OPENAI_API_KEY"
    connections: int = 64
    timeout: float = 120.0
    retries: int = 10

    @property
    def address(self) -> str:
        """The address without any password or query in it, fit to be shown and recorded."""
        found = re.fullmatch(URL, self.base_url)
        if found is None:
            raise WRPOError(
                "--base-url is no web address; give one such as http://localhost:8000/v1"
            )
        scheme, _, host, port, path, _ = found.groups(default="")
        return f"{scheme}{host}{port}{path}"


class Reply(NamedTuple):
    """The server's answer to one request: ``body`` as it came, or ``error`` in one sentence."""

    key: Any
    body: dict[str, Any] | None
    error: str | None


def complete(
    server: Server,
    requests: Iterable[tuple[Any, dict[str, Any]]],
    stop: Callable[[], bool] = lambda: False,
) -> Iterator[Reply]:
    """Send each (key, body) to ``/chat/completions``; yield replies as they arrive, unordered.

    At most ``server.connections`` requests are under way, and no more are drawn from ``requests``.
    The OpenAI client tries again after timeouts, lost connections and statuses 408, 409, 429 and
    5xx. A request that fails for good is a :class:`Reply` with ``error``. Once ``stop()`` is true
    no further request is sent; those under way are still yielded.

    :raises WRPOError: for what no retry can mend: a refused key, a used-up quota, nobody at the
        address and, before any success, an unknown model. Requests under way are dropped.
    """
    client = _Client(server)
    loop = asyncio.new_event_loop()  # in a thread of its own: a notebook has a loop already
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    source, under_way = iter(requests), set[Future[Reply]]()
    try:
        while True:
            free = 0 if stop() else server.connections - len(under_way)
            for key, body in islice(source, free):
                under_way.add(asyncio.run_coroutine_threadsafe(client.reply(key, body), loop))
            if not under_way:
                return
            done, under_way = wait(under_way, return_when=FIRST_COMPLETED)
            for future in done:
                yield future.result()
    finally:
        asyncio.run_coroutine_threadsafe(client.close(), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


class _Client:
    """One request at a time into a :class:`Reply`; all of its methods run in the loop's thread."""

    def __init__(self, server: Server) -> None:
        from openai import AsyncOpenAI

        self.server, self.where, self.served = server, server.address, False
        self.key = os.environ.get(server.api_key_env, "").strip() or NO_KEY
        if not self.key.isascii() or not self.key.isprintable():
            raise WRPOError(f"{server.api_key_env} holds unusual characters, so no key; set it")
        self.client = AsyncOpenAI(
            base_url=server.base_url,
            api_key=self.key,
            max_retries=server.retries,
            timeout=server.timeout,
        )

    async def close(self) -> None:
        """Cancel what is under way and close the connections."""
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self.client.close()

    async def reply(self, key: Any, body: dict[str, Any]) -> Reply:
        """The reply to one request, after all retries."""
        import openai

        try:
            text = await self.client.post("/chat/completions", cast_to=str, body=body)
        except openai.APITimeoutError:
            return Reply(key, None, f"{self.where} gave no answer in {self.server.timeout:g} s")
        except openai.APIConnectionError as error:
            what = f"the connection to {self.where} failed ({self._redact(str(error.__cause__))})"
            if not self.served and type(error.__cause__).__name__ == "ConnectError":
                raise WRPOError(f"{what}; start the server or correct its address") from error
            return Reply(key, None, what)
        except openai.APIStatusError as error:
            return Reply(key, None, self._refusal(error))
        try:
            answer = json.loads(text)
            good = answer["choices"][0].get("finish_reason") != "error"
        except (ValueError, LookupError, TypeError, AttributeError):
            good = False
        if not good:
            said = self._redact(text) or "nothing"
            return Reply(key, None, f"{self.where} answered without a choice: {said}")
        self.served = True
        return Reply(key, answer, None)

    def _refusal(self, error: APIStatusError) -> str:
        """What the server answered; an error where no other request can fare better."""
        status, said = error.status_code, self._redact(error.response.text)
        what = f"{self.where} answered {status}: {said}"
        if status in (401, 403):
            raise WRPOError(f"{what}; set {self.server.api_key_env} to a valid key") from None
        if status == 429 and "insufficient_quota" in said:
            raise WRPOError(f"{what}; the quota is used up, add to it") from None
        if status == 404 and not self.served:
            raise WRPOError(f"{what}; check the server's address and the model's name") from None
        return what

    def _redact(self, text: str) -> str:
        """At most 300 characters on one line, without the key or what looks like one."""
        if self.key != NO_KEY:
            text = text.replace(self.key, "***")
        text = re.sub(r"\b(sk|key|hf|gsk|xai)[-_][\w*.-]{6,}", "***", text)
        return " ".join(text.split())[:300]
