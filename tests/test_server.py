"""The client of OpenAI-compatible servers against a real one that misbehaves in every way."""

from __future__ import annotations

import asyncio
import logging
import re
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from commandline import HANGS
from local_server import Answer, LocalServer, said

from wrpo_lib.errors import WRPOError
from wrpo_lib.server import Reply, Server, complete

KEY = "sk-test-9f8e7d6c5b4a"


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)


def requests(n: int) -> Iterator[tuple[str, dict[str, Any]]]:
    for k in range(n):
        yield f"r{k}", {"model": "m", "messages": [{"role": "user", "content": f"q{k}"}]}


def question(body: dict[str, Any]) -> str:
    return str(body["messages"][-1]["content"])


def ask(handler: Callable[..., Any], n: int = 1, **options: Any) -> tuple[list[Reply], LocalServer]:
    with LocalServer(handler) as local:
        server = Server(local.url, **{"timeout": 20.0, "retries": 2, **options})
        return list(complete(server, requests(n))), local


def text(reply: Reply) -> str:
    assert reply.body is not None, reply.error
    return str(reply.body["choices"][0]["message"]["content"])


async def echo(body: dict[str, Any]) -> Answer:
    return said(f"answer to {question(body)}")


def after(seconds: float, only: str = "") -> Callable[..., Any]:
    """An echo that takes its time, for one question or for all."""

    async def handler(body: dict[str, Any]) -> Answer:
        await asyncio.sleep(seconds if only in ("", question(body)) else 0)
        return await echo(body)

    return handler


def bad(answer: Answer, times: int = 100, only: str = "") -> Callable[..., Any]:
    """So many bad answers to each question, or to one, before the good one."""
    seen: Counter[str] = Counter()

    async def handler(body: dict[str, Any]) -> Answer:
        seen[question(body)] += 1
        wrong = only in ("", question(body)) and seen[question(body)] <= times
        return answer if wrong else await echo(body)

    return handler


def test_every_request_gets_its_own_reply() -> None:
    replies, local = ask(after(0.02), 50, connections=8)
    assert {r.key: text(r) for r in replies} == {f"r{k}": f"answer to q{k}" for k in range(50)}
    assert local.requests[0]["model"] == "m"
    assert 1 < local.most_active <= 8
    assert f"Bearer {KEY}" in local.headers[0]


def test_without_a_key_local_servers_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY")
    assert text(ask(echo)[0][0]) == "answer to q0"


CONTEXT = Answer({"error": {"message": "maximum context length is 8"}}, 400)
NOT_REPEATED = {
    "JSON cut short": (Answer(b'{"choices": [{"mess'), "answered without a choice"),
    "no choices": (Answer({"choices": []}), "answered without a choice"),
    "error and status 200": (Answer({"error": {"message": "upstream"}}), "upstream"),
    "a choice that is an error": (Answer({"choices": [{"finish_reason": "error"}]}), "error"),
    "not an object": (Answer([1, 2]), "answered without a choice"),
    "nothing": (Answer(b""), "answered without a choice"),
    "bad request": (CONTEXT, "answered 400: .*maximum context length is 8"),
}


@pytest.mark.parametrize(("answer", "sentence"), NOT_REPEATED.values(), ids=NOT_REPEATED)
def test_what_asking_again_does_not_mend_is_an_error_of_its_own(
    answer: Answer, sentence: str
) -> None:
    replies, local = ask(bad(answer), 3)
    assert all(re.search(sentence, r.error or "") for r in replies)
    assert len(replies) == len(local.requests) == 3


BROKEN = {
    "server error": Answer({"error": "oops"}, 500),
    "bad gateway, not JSON": Answer(b"<html>bad gateway</html>", 502),
    "half an answer": Answer(b'{"choices": [{"mess', promised=500),
}


@pytest.mark.parametrize("broken", BROKEN.values(), ids=BROKEN)
def test_a_broken_answer_is_tried_again(broken: Answer) -> None:
    replies, local = ask(bad(broken, times=1))
    assert text(replies[0]) == "answer to q0"
    assert len(local.requests) == 2


def test_a_server_that_hangs() -> None:
    replies, local = ask(after(60, only="q1"), 3, timeout=1.0, retries=1)
    errors = {r.key: r.error for r in replies}
    assert errors.pop("r1") == f"{local.url} gave no answer in 1 s"
    assert errors == {"r0": None, "r2": None}


@pytest.mark.parametrize("status", [429, 503])
def test_only_so_many_retries_and_the_others_go_on(status: int) -> None:
    broke = Answer({"error": "it broke"}, status, {"Retry-After": "0.01"})
    replies, local = ask(bad(broke, only="q3"), 6, retries=2)
    (failed,) = [r for r in replies if r.error]
    assert (failed.key, failed.body) == ("r3", None)
    assert re.search(f"answered {status}: .*it broke", failed.error or "")
    assert sum(question(b) == "q3" for b in local.requests) == 3


FATAL = [
    (401, {"message": f"Incorrect API key provided: {KEY}"}, "set OPENAI_API_KEY to a valid key"),
    (403, {}, "set OPENAI_API_KEY to a valid key"),
    (429, {"code": "insufficient_quota"}, "the quota is used up"),
    (404, {"message": "model m does not exist"}, "check the server's address and the model's name"),
]


@pytest.mark.parametrize(("status", "error", "sentence"), FATAL)
def test_what_no_retry_can_mend_stops_everything(
    status: int, error: dict[str, str], sentence: str
) -> None:
    with LocalServer(bad(Answer({"error": error}, status, {"Retry-After": "0.01"}))) as local:
        with pytest.raises(WRPOError, match=sentence) as stopped:
            list(complete(Server(local.url, connections=4, retries=1), requests(100)))
        assert KEY not in str(stopped.value)
        assert len(local.requests) <= 12


def test_the_key_reaches_no_message_and_no_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    replies, local = ask(bad(Answer({"error": f"bad {KEY} and sk-other-123456789"}, 400)))
    assert KEY in local.headers[0]
    assert replies[0].error is not None
    assert "sk-" not in replies[0].error
    assert KEY not in caplog.text
    assert KEY not in repr(Server(local.url))
    hidden = Server("http://user:secret@host:99/v1?token=secret")
    assert hidden.address == "http://host:99/v1"


def test_an_impossible_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "schlüssel")
    with pytest.raises(WRPOError, match="OPENAI_API_KEY holds unusual characters") as error:
        list(complete(Server("http://127.0.0.1:9/v1"), requests(1)))
    assert "schlüssel" not in str(error.value)


@pytest.mark.parametrize("url", ["localhost:8000/v1", "http://host:port/v1", "", "ftp://x/v1"])
def test_an_impossible_address(url: str) -> None:
    with pytest.raises(WRPOError, match="--base-url is no web address"):
        list(complete(Server(url), requests(1)))


def test_nobody_there() -> None:
    with LocalServer(echo) as local:
        url = local.url
    with pytest.raises(WRPOError, match=r"connection to .* failed .*start the server or correct"):
        list(complete(Server(url, retries=0), requests(5)))


def test_requests_are_drawn_lazily() -> None:
    drawn = 0

    def endless() -> Iterator[tuple[str, dict[str, Any]]]:
        nonlocal drawn
        while True:
            drawn += 1
            yield next(requests(1))

    with LocalServer(echo) as local:
        replies = complete(Server(local.url, connections=4), endless())
        for _ in range(20):
            next(replies)
        replies.close()  # type: ignore[attr-defined]
    assert drawn <= 24


def test_stop_sends_no_more_but_keeps_what_was_sent() -> None:
    found: list[Reply] = []
    with LocalServer(after(0.3)) as local:
        server = Server(local.url, connections=4)
        for reply in complete(server, requests(100), stop=lambda: len(found) >= 3):
            found.append(reply)
        assert len(found) == len(local.requests) <= 8


def test_an_error_in_the_requests_closes_everything() -> None:
    def broken() -> Iterator[tuple[str, dict[str, Any]]]:
        yield from requests(2)
        raise WRPOError("row 3 is bad")

    with LocalServer(echo) as local, pytest.raises(WRPOError, match="row 3 is bad"):
        list(complete(Server(local.url), broken()))


def test_it_works_where_an_event_loop_runs_already() -> None:
    async def notebook_cell(url: str) -> list[Reply]:
        return list(complete(Server(url), requests(3)))

    with LocalServer(echo) as local:
        assert len(asyncio.run(notebook_cell(local.url))) == 3


SCRIPT = """
import sys
from wrpo_lib.server import Server, complete
try:
    for reply in complete(Server(sys.argv[1], connections=8), (("r", {}) for _ in range(10**6))):
        print("reply", flush=True)
except KeyboardInterrupt:
    print("interrupted", flush=True)
"""


def test_ctrl_c_ends_it_cleanly() -> None:
    seen = 0

    async def handler(_: dict[str, Any]) -> Answer:
        nonlocal seen
        seen += 1
        await asyncio.sleep(600 if seen > 20 else 0)
        return said("a")

    with LocalServer(handler) as local:
        command = [sys.executable, "-W", "error", "-c", SCRIPT, local.url]
        pipe = subprocess.PIPE
        with subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True) as run:
            assert run.stdout is not None
            for _ in range(20):
                assert run.stdout.readline() == "reply\n"
            run.send_signal(signal.SIGINT)
            try:
                out, err = run.communicate(timeout=HANGS)
            finally:
                run.kill()  # or leaving it would wait for a process that went on
    assert (out, err, run.returncode) == ("interrupted\n", "", 0)
