"""The client of OpenAI-compatible servers against a real one that misbehaves in every way."""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest
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


def first_then(*bad: Answer, then: Callable[..., Any] = echo) -> Callable[..., Any]:
    """Each question gets the bad answers in turn before the good one."""
    seen: Counter[str] = Counter()

    async def handler(body: dict[str, Any]) -> Answer:
        k = seen[question(body)]
        seen[question(body)] += 1
        return bad[k] if k < len(bad) else await then(body)

    return handler


def test_the_local_server_closes_what_it_has_only_just_accepted() -> None:
    """Else some later test fails for the warning of an open socket."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(5):
            with LocalServer(echo) as local:
                address = local.listener.sockets[0].getsockname()
                clients = [socket.create_connection(address) for _ in range(20)]
            for client in clients:
                client.close()
        gc.collect()
    assert [str(w.message) for w in caught if w.category is ResourceWarning] == []


def test_every_request_gets_its_own_reply() -> None:
    async def handler(body: dict[str, Any]) -> Answer:
        await asyncio.sleep(0.02)
        return await echo(body)

    replies, local = ask(handler, 50, connections=8)
    assert {r.key: text(r) for r in replies} == {f"r{k}": f"answer to q{k}" for k in range(50)}
    assert local.requests[0]["model"] == "m"
    assert 1 < local.most_active <= 8
    assert f"Bearer {KEY}" in local.headers[0]


def test_without_a_key_local_servers_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY")
    assert text(ask(echo)[0][0]) == "answer to q0"


BROKEN = {
    "server error": Answer({"error": "oops"}, 500),
    "bad gateway, not JSON": Answer(b"<html>bad gateway</html>", 502),
    "half an answer": Answer(b'{"choices": [{"mess', promised=500),
    "JSON cut short": Answer(b'{"choices": [{"mess'),
    "no choices": Answer({"choices": []}),
    "an error with status 200": Answer({"error": {"message": "upstream failed"}}),
    "not an object": Answer([1, 2]),
}


@pytest.mark.parametrize("broken", BROKEN.values(), ids=BROKEN)
def test_a_broken_answer_is_tried_again(broken: Answer) -> None:
    replies, local = ask(first_then(broken))
    assert text(replies[0]) == "answer to q0"
    assert len(local.requests) == 2


def test_a_request_that_keeps_failing_does_not_stop_the_others() -> None:
    async def handler(body: dict[str, Any]) -> Answer:
        bad = question(body) == "q3"
        return Answer({"error": {"message": "it broke"}}, 500) if bad else await echo(body)

    replies, local = ask(handler, 6, retries=1)
    failed = [r for r in replies if r.error]
    assert [r.key for r in failed] == ["r3"]
    assert failed[0].body is None
    assert "answered 500" in failed[0].error
    assert "it broke" in failed[0].error
    assert sum(question(b) == "q3" for b in local.requests) == 2


def test_a_bad_request_is_not_repeated() -> None:
    long = Answer({"error": {"message": "maximum context length is 8"}}, 400)
    replies, local = ask(first_then(long, long))
    assert "answered 400" in (replies[0].error or "")
    assert "maximum context length" in (replies[0].error or "")
    assert len(local.requests) == 1


def test_a_server_that_hangs() -> None:
    async def handler(body: dict[str, Any]) -> Answer:
        if question(body) == "q1":
            await asyncio.sleep(60)
        return await echo(body)

    replies, local = ask(handler, 3, timeout=1.0, retries=1)
    errors = {r.key: r.error for r in replies}
    assert errors.pop("r1") == f"{local.url} gave no whole answer in 1 s"
    assert errors == {"r0": None, "r2": None}


def test_a_server_that_drips_is_cut_off() -> None:
    class Dripping(LocalServer):
        async def _connection(self, reader: Any, writer: Any) -> None:
            writer.write(b"HTTP/1.1 200 X\r\nContent-Length: 100000\r\n\r\n")
            try:
                while not writer.is_closing():
                    writer.write(b" ")
                    await asyncio.sleep(0.05)  # never long enough for a limit on single reads
            except (ConnectionError, asyncio.CancelledError):
                pass
            finally:
                writer.close()

    with Dripping(echo) as local:
        server = Server(local.url, timeout=1.0, retries=0)
        (reply,) = complete(server, requests(1))
    assert "no whole answer in 1 s" in (reply.error or "")


def test_busy_slows_every_connection_and_loses_nothing() -> None:
    """A server that allows 30 requests in each half second and says so."""
    window: list[float] = []
    refused: list[float] = []

    async def handler(body: dict[str, Any]) -> Answer:
        now = time.monotonic()
        window[:] = [t for t in window if now - t < 0.5]
        if len(window) >= 30:
            refused.append(now)
            return Answer({"error": "slow down"}, 429, {"Retry-After": "0.5"})
        window.append(now)
        return await echo(body)

    replies, _ = ask(handler, 150, connections=64, retries=2)
    assert sorted(r.key for r in replies if r.error is None) == sorted(f"r{k}" for k in range(150))
    # 64 connections that each learned alone would be refused 34 times a window at first
    assert len(refused) < 120


def test_a_pause_is_everybodys() -> None:
    times: dict[str, list[float]] = {}
    refusal = Answer({}, 429, {"Retry-After": "1"})

    async def handler(body: dict[str, Any]) -> Answer:
        times.setdefault(question(body), []).append(time.monotonic())
        if question(body) == "q0" and len(times["q0"]) == 1:
            return refusal
        await asyncio.sleep(0.2)
        return await echo(body)

    replies, _ = ask(handler, 12, connections=2)
    assert all(r.error is None for r in replies)
    told = times["q0"][0]
    later = [t - told for ts in times.values() for t in ts if t > told + 0.1]
    assert min(later) > 0.9, "another connection went on during the pause"


def test_only_refusals_end_a_request_in_the_end() -> None:
    busy = Answer({}, 429, {"Retry-After": "0.01"})
    replies, local = ask(first_then(*[busy] * 50), 1, retries=3)
    assert "answered 429" in (replies[0].error or "")
    assert len(local.requests) == 4


FATAL = {
    "refused key": (
        Answer({"error": {"message": f"Incorrect API key provided: {KEY}"}}, 401),
        "refused the key in OPENAI_API_KEY (status 401",
    ),
    "forbidden": (Answer({}, 403), "refused the key in OPENAI_API_KEY (status 403"),
    "no quota": (
        Answer({"error": {"code": "insufficient_quota"}}, 429),
        "the quota is used up",
    ),
    "no such model": (
        Answer({"error": {"message": "model m does not exist"}}, 404),
        "check the server's address and the model's name",
    ),
}


@pytest.mark.parametrize(("answer", "sentence"), FATAL.values(), ids=FATAL)
def test_what_no_retry_can_mend_stops_everything(answer: Answer, sentence: str) -> None:
    async def handler(_: dict[str, Any]) -> Answer:
        return answer

    with LocalServer(handler) as local:
        with pytest.raises(WRPOError) as error:
            list(complete(Server(local.url, connections=4), requests(100)))
        assert sentence in str(error.value)
        assert KEY not in str(error.value)
        assert len(local.requests) <= 8


def test_a_missing_key_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY")

    async def handler(_: dict[str, Any]) -> Answer:
        return Answer({"error": "who are you?"}, 401)

    with pytest.raises(WRPOError, match="refused a request without a key; set OPENAI_API_KEY"):
        ask(handler)


def test_the_key_reaches_no_message_and_no_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)

    async def handler(body: dict[str, Any]) -> Answer:
        return Answer({"error": f"bad {KEY} and sk-other-123456789"}, 400)

    replies, local = ask(handler)
    assert KEY in local.headers[0]
    assert replies[0].error is not None
    assert "sk-" not in replies[0].error
    assert KEY not in caplog.text
    assert KEY not in repr(Server(local.url))
    hidden = Server("http://user:secret@host:99/v1?token=secret")
    assert hidden.address == "http://host:99/v1"


@pytest.mark.parametrize(
    ("key", "sentence"), [("two words", "holds no valid key"), ("schlüssel", "holds no valid key")]
)
def test_an_impossible_key(monkeypatch: pytest.MonkeyPatch, key: str, sentence: str) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", key)
    with pytest.raises(WRPOError, match=sentence) as error:
        list(complete(Server("http://127.0.0.1:9/v1"), requests(1)))
    assert key not in str(error.value)


@pytest.mark.parametrize("url", ["localhost:8000/v1", "http://host:port/v1", "", "ftp://x/v1"])
def test_an_impossible_address(url: str) -> None:
    with pytest.raises(WRPOError, match="no address of a web server"):
        list(complete(Server(url), requests(1)))


def test_nobody_there() -> None:
    with LocalServer(echo) as local:
        url = local.url
    start = time.monotonic()
    with pytest.raises(WRPOError, match=r"connection to .* failed .*start the server or correct"):
        list(complete(Server(url), requests(5)))
    assert time.monotonic() - start < 15


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
    async def slow(body: dict[str, Any]) -> Answer:
        await asyncio.sleep(0.3)
        return await echo(body)

    found: list[Reply] = []
    with LocalServer(slow) as local:
        server = Server(local.url, connections=4)
        for reply in complete(server, requests(100), stop=lambda: len(found) >= 3):
            found.append(reply)
        assert len(found) == len(local.requests) <= 8


def test_stop_does_not_wait_for_a_long_pause() -> None:
    async def handler(body: dict[str, Any]) -> Answer:
        return Answer({}, 429, {"Retry-After": "500"})

    start = time.monotonic()
    with LocalServer(handler) as local:
        over = start + 1
        found = complete(Server(local.url), requests(9), stop=lambda: time.monotonic() > over)
        assert list(found) == []
    assert time.monotonic() - start < 30


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
import json, sys
from wrpo_lib.server import Server, complete
request = {"model": "m", "messages": [{"role": "user", "content": "q"}]}
try:
    requests = (("r", request) for _ in range(10**6))
    for reply in complete(Server(sys.argv[1], connections=8), requests):
        print("reply", flush=True)
except KeyboardInterrupt:
    print("interrupted", flush=True)
"""


def test_ctrl_c_ends_it_cleanly() -> None:
    seen = 0

    async def handler(body: dict[str, Any]) -> Answer:
        nonlocal seen
        seen += 1
        if seen > 20:
            await asyncio.sleep(600)
        return await echo(body)

    with LocalServer(handler) as local:
        command = [sys.executable, "-W", "error", "-c", SCRIPT, local.url]
        pipe = subprocess.PIPE
        with subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True) as run:
            assert run.stdout is not None
            for _ in range(20):
                assert run.stdout.readline() == "reply\n"
            run.send_signal(signal.SIGINT)
            try:
                out, err = run.communicate(timeout=60)
            finally:
                run.kill()  # or leaving it would wait for a process that went on
    assert (out, err, run.returncode) == ("interrupted\n", "", 0)


async def after_200_ms(body: dict[str, Any]) -> Answer:
    await asyncio.sleep(0.2)
    return await echo(body)


def serve(pipe: Any) -> None:
    """Answer after 200 ms until told to end; then say how many were answered at once."""
    with LocalServer(after_200_ms) as local:
        pipe.send(local.url)
        pipe.recv()
        pipe.send(local.most_active)


@pytest.fixture
def another_process() -> Iterator[tuple[str, Any]]:
    """The address of a server that does not share an interpreter with the client, and its pipe."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=serve, args=(theirs,), daemon=True)
    process.start()
    theirs.close()
    try:
        yield ours.recv(), ours
    finally:
        process.kill()
        process.join()
        ours.close()


def test_two_thousand_requests_at_200_ms(another_process: tuple[str, Any]) -> None:
    """Issue: 64 connections, 200 ms, under 10 s. Ideal is 6.25 s.

    Other work on the machine only ever adds time: the fastest of three attempts counts.
    """
    url, pipe = another_process
    seconds: list[float] = []
    while len(seconds) < 3 and min(seconds, default=10) >= 10:
        start = time.monotonic()
        replies = list(complete(Server(url, connections=64), requests(2000)))
        seconds.append(time.monotonic() - start)
        assert sum(r.error is None for r in replies) == 2000
    pipe.send("end")
    assert pipe.recv() == 64
    load = os.getloadavg()[0] / (os.cpu_count() or 1)
    assert min(seconds) < 10 * max(1.0, load), json.dumps({"seconds": seconds, "load": load})
