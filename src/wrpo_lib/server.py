"""Many requests to any OpenAI-compatible server: concurrent, with retries, careful with the key.

Retries and waits are the OpenAI client's own. The key reaches neither a file nor a message.
"""

import json
import os
import re
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass
from itertools import islice
from typing import Any
from urllib.parse import quote

import openai
from anyio.from_thread import start_blocking_portal

from wrpo_lib.errors import WRPOError
from wrpo_lib.replies import LIKE_A_KEY

URL = r"(https?://)(?:[^/@]*@)?([^/?:]+|\[[\da-f:]+\])(:\d+)?(/[^?]*)?(?:\?.*)?"
SECRET = re.compile(
    r'("[^"]*(?:key|token|secret|password|authorization)[^"]*": )"(?:[^"\\]|\\.)*"', re.IGNORECASE
)
REMEDIES = {  # of a status that stops everything; of 429, only a used-up quota does
    **dict.fromkeys((301, 302, 303, 307, 308), "give that as --base-url if you trust it"),
    **dict.fromkeys((401, 403), "set the variable that holds the key to a valid one"),
    404: "check the server's address and the model's name",
    429: "the quota is exhausted, add to it",
}


@dataclass(frozen=True)
class Server:
    """Where to send requests, and how many at a time.

    ``api_key_env``: the environment variable with the key; ``timeout``: seconds of silence in one
    attempt; ``retries``: attempts after the first.
    """

    base_url: str
    api_key_env: str = "OPENAI_API_KEY"
    connections: int = 64
    timeout: float = 120.0
    retries: int = 10

    def __post_init__(self) -> None:
        if not re.fullmatch(URL, self.base_url):
            raise WRPOError("--base-url is not a URL; use, for example, http://localhost:8000/v1")

    @property
    def address(self) -> str:
        """The address without any password or query in it, fit to be shown and recorded."""
        return re.sub(URL, r"\1\2\3\4", self.base_url)


Reply = tuple[Any, dict[str, Any] | None, str | None]
"""The key of a request, the body that came as it came, or the error in one sentence."""


def complete(
    server: Server,
    requests: Iterable[tuple[Any, dict[str, Any]]],
    stop: Callable[[], bool] = lambda: False,
) -> Iterator[Reply]:
    """Send each (key, body) to ``/chat/completions``; yield replies as they arrive, unordered.

    At most ``server.connections`` are under way; after ``stop()`` no more are sent.

    :raises WRPOError: at once, for what no retry can fix: no server at the address at the start, a
        refused key, a redirect, an unknown model; for an exhausted quota, after all retries.
    """
    client, source, under_way = _Client(server), iter(requests), set[Future[Reply]]()
    checked = False
    # a loop in a thread of its own, since a notebook has one already
    with start_blocking_portal() as portal, portal.wrap_async_context_manager(client.openai):
        while True:
            free = 0 if stop() else server.connections - len(under_way)
            for key, body in islice(source, free):
                checked = checked or portal.call(client.check)
                under_way.add(portal.start_task_soon(client.reply, key, body))
            if not under_way:
                return
            done, under_way = wait(under_way, return_when=FIRST_COMPLETED)
            for future in done:
                yield future.result()


class _Client:
    """One request at a time into a :data:`Reply`."""

    def __init__(self, server: Server) -> None:
        # local servers ask for no key, but the client insists on a text
        key = os.environ.get(server.api_key_env, "").strip() or "none"
        self.address = server.address
        if not key.isascii() or not key.isprintable():
            raise WRPOError(f"{server.api_key_env} holds unusual characters; set it to a valid key")
        spelt = (key, json.dumps(key)[1:-1], quote(key), quote(key, safe=""))
        # fewer than 8 characters are a placeholder such as EMPTY, no secret
        self.echo = re.compile("|".join(map(re.escape, spelt)) if len(key) >= 8 else r"(?!)")
        self.openai = openai.AsyncOpenAI(
            base_url=server.base_url,
            api_key=key,
            max_retries=server.retries,
            timeout=server.timeout,
            http_client=openai.DefaultAsyncHttpxClient(follow_redirects=False),
        )

    async def check(self) -> bool:
        """True, or an error where nobody answers, before all retries are spent on it."""
        try:
            await self.openai.with_options(max_retries=0).get("/models", cast_to=str)
        except openai.OpenAIError as error:
            if type(error.__cause__).__name__ == "ConnectError":
                what = f"does not answer ({error.__cause__}); start it or correct its address"
                raise WRPOError(self._said(what)) from None
        return True

    async def reply(self, key: Any, body: dict[str, Any]) -> Reply:
        """The reply to one request, after all retries."""
        # lone surrogates, which some servers send for half an emoji, cannot be sent back
        body = json.loads(json.dumps(body, ensure_ascii=False).encode("utf-8", "replace"))
        try:
            text = await self.openai.post("/chat/completions", cast_to=str, body=body)
            answer = json.loads(self.echo.sub("***", text))
            if not isinstance(answer, dict):
                raise ValueError("no JSON object")
            return key, answer, None
        except openai.APIStatusError as error:
            status = error.status_code
            said = error.response.headers.get("location", error.response.text)
            what = self._said(f"answered {status}: {said}")
            if status in REMEDIES and (status != 429 or "insufficient_quota" in said):
                raise WRPOError(f"{what}; {REMEDIES[status]}") from None
            hint = "; --extra-body can leave out a parameter that it refuses"
            return key, None, what + hint if status == 400 else what
        except (openai.APIConnectionError, ValueError) as error:  # no answer in time, or no JSON
            what = f"{error} {error.__cause__ or ''}".strip()
            return key, None, self._said(f"gave no answer ({what})")

    def _said(self, what: str) -> str:
        """What the server did, on one line, without the key or what looks like one."""
        what = LIKE_A_KEY.sub("***", self.echo.sub("***", what))
        return f"{self.address} {' '.join(what.split())[:300]}"


def without_secrets(value: Any) -> Any:
    """A JSON value fit to be recorded: texts that are named or look like keys are ``***``."""
    return json.loads(LIKE_A_KEY.sub("***", SECRET.sub(r'\1"***"', json.dumps(value))))
