"""Many requests to any OpenAI-compatible server: concurrent, with retries, careful with the key.

Retries and waits are the OpenAI client's own; the key comes from the environment and reaches
neither a file nor a message, however a server spells it.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import threading
from base64 import b64encode
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass
from itertools import islice
from typing import Any, NamedTuple

import openai

from wrpo_lib.errors import WRPOError
from wrpo_lib.replies import checked

URL = r"(https?://)([^/@]*@)?([^/?:]+|\[[\da-f:]+\])(:\d+)?(/[^?]*)?(\?.*)?"
NO_KEY = "none"  # local servers ask for no key, but the client insists on a text
LIKE_A_KEY = re.compile(r"\b(sk|key|hf|gsk|xai)[-_][\w*.-]{6,}")
SECRET = re.compile(
    r'("[^"]*(?:key|token|secret|password|authorization)[^"]*": )"(?:[^"\\]|\\.)*"', re.IGNORECASE
)


@dataclass(frozen=True)
class Server:
    """Where to send requests, and how many at a time.

    ``api_key_env``: the environment variable with the key (unset: none is sent); ``timeout``: how
    many seconds the server may be silent in one attempt; ``retries``: attempts after the first.
    """

    base_url: str
    api_key_env: str = "OPENAI_API_KEY"
    connections: int = 64
    timeout: float = 120.0
    retries: int = 10

    def __post_init__(self) -> None:
        if not (self.connections > 0 and self.timeout > 0 and self.retries >= 0):
            raise WRPOError("connections and timeout are above 0, retries 0 or more; correct them")

    @property
    def address(self) -> str:
        """The address without any password or query in it, fit to be shown and recorded."""
        found = re.fullmatch(URL, self.base_url)
        if found is None:
            raise WRPOError("--base-url is no web address, such as http://localhost:8000/v1")
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
    One that fails after all retries, or whose reply is a failure (:mod:`wrpo_lib.replies`), is a
    :class:`Reply` with ``error``. After ``stop()`` those under way are still yielded.

    :raises WRPOError: at once, for what no retry can mend: a refused key, a used-up quota, a
        redirect and, before any success, nobody at the address or an unknown model.
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


class _Hopeless(BaseException):
    """What no retry can mend; no ``Exception``, since the OpenAI client tries again after those."""


class _Http(openai.DefaultAsyncHttpxClient):
    """Follows no redirect, and gives up at the first answer that settles all requests."""

    served = False

    async def send(self, request: Any, **options: Any) -> Any:
        """The response to one attempt."""
        try:
            response = await super().send(request, **options)
        except Exception as error:
            if self.served or type(error).__name__ != "ConnectError":
                raise
            raise _Hopeless(f"does not answer ({error}); start it or correct its address") from None
        status, said = response.status_code, (await response.aread()).decode(errors="replace")
        remedies = dict.fromkeys((401, 403), "set the variable that holds the key to a valid one")
        self.served |= response.is_success
        if response.is_redirect:
            said = f"go to {response.headers.get('location')}"
            remedies[status] = "give that as --base-url if you trust it"
        if status == 429 and "insufficient_quota" in said:
            remedies[status] = "the quota is used up, add to it"
        if status == 404 and not self.served:
            remedies[status] = "check the server's address and the model's name"
        if status in remedies:
            raise _Hopeless(
                f"answered {status} ({' '.join(said.split())[:300]}); {remedies[status]}"
            )
        return response


class _Client:
    """One request at a time into a :class:`Reply`; all of its methods run in the loop's thread."""

    def __init__(self, server: Server) -> None:
        self.server, self.where = server, server.address
        key = os.environ.get(server.api_key_env, "").strip() or NO_KEY
        if not key.isascii() or not key.isprintable():
            raise WRPOError(f"{server.api_key_env} holds unusual characters, so no key; set it")
        self.echo = spellings(key)
        self.client = openai.AsyncOpenAI(
            base_url=server.base_url,
            api_key=key,
            max_retries=server.retries,
            timeout=server.timeout,
            http_client=_Http(follow_redirects=False),
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
        # lone surrogates, which some servers send for half an emoji, cannot be sent back
        body = json.loads(json.dumps(body, ensure_ascii=False).encode("utf-8", "replace"))
        try:
            text = await self.client.post("/chat/completions", cast_to=str, body=body)
            answer = json.loads(self.echo.sub("***", text))
            checked(answer)
            return Reply(key, answer, None)
        except _Hopeless as error:
            raise WRPOError(self._said(str(error), 600)) from None
        except openai.APITimeoutError:
            what = f"gave no answer in {self.server.timeout:g} s"
        except openai.APIConnectionError as error:
            what = f"broke the connection ({error.__cause__})"
        except openai.APIStatusError as error:
            what = f"answered {error.status_code}: {error.response.text}"
        except ValueError as error:  # no JSON, or a failure with status 200
            what = f"gave no answer ({error}): {text}"
        return Reply(key, None, self._said(what))

    def _said(self, what: str, most: int = 300) -> str:
        """What the server did, on one line, without the key or what looks like one."""
        what = LIKE_A_KEY.sub("***", self.echo.sub("***", what))
        return f"{self.where} {' '.join(what.split())[:most]}"


def spellings(key: str) -> re.Pattern[str]:
    """Finds a key as it is, escaped for JSON or an address, and inside base64.

    Fewer than 8 characters are a placeholder such as EMPTY, no secret.
    """
    forms = [key] if len(key) >= 8 else []
    for shift in range(3 * len(forms)):
        raw = b" " * shift + key.encode()
        whole = b64encode(raw).decode().rstrip("=")
        # the letters at both ends hold bits of what stands around the key
        forms.append(whole[(0, 2, 3)[shift] : len(whole) - bool(len(raw) % 3)])
    forms += [form.replace("+", "-").replace("/", "_") for form in forms[1:]]
    return re.compile("|".join("".join(map(_spelt, form)) for form in forms) or r"(?!)")


def _spelt(letter: str) -> str:
    number = f"{ord(letter):02x}"
    return rf"(?:\\*{re.escape(letter)}|(?i:%(?:25)*{number}|\\+u00{number}))"


def without_secrets(value: Any) -> Any:
    """A JSON value fit to be recorded: texts that are named or look like keys are ``***``."""
    return json.loads(LIKE_A_KEY.sub("***", SECRET.sub(r'\1"***"', json.dumps(value))))
