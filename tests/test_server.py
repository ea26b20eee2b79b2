"""The client of OpenAI-compatible servers against one that misbehaves in every way; what in a
reply is an answer, a thought or a failure."""

import asyncio
import logging
import re
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import quote

import pytest
from local_server import Answer, LocalServer, said

from wrpo_lib.errors import WRPOError
from wrpo_lib.replies import Said, read_reply, split_thought
from wrpo_lib.server import Reply, Server, complete, without_secrets

KEY = 'test/9f8e"7d6+c5b4a'


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
    _, body, error = reply
    assert body is not None, error
    return str(body["choices"][0]["message"]["content"])


def echo(seconds: float = 0, only: str = "") -> Callable[..., Any]:
    """Answers that take their time, to one question or to all."""

    async def handler(body: dict[str, Any]) -> Answer:
        await asyncio.sleep(seconds if only in ("", question(body)) else 0)
        return said(f"answer to {question(body)}")

    return handler


def bad(answer: Answer, times: int = 100) -> Callable[..., Any]:
    """So many bad answers to each question before the good one."""
    seen: Counter[str] = Counter()

    async def handler(body: dict[str, Any]) -> Answer:
        seen[question(body)] += 1
        return answer if seen[question(body)] <= times else await echo()(body)

    return handler


def test_every_request_gets_its_own_reply() -> None:
    replies, local = ask(echo(0.02), 50, connections=8)
    assert {r[0]: text(r) for r in replies} == {f"r{k}": f"answer to q{k}" for k in range(50)}
    assert 1 < local.most_active <= 8
    assert f"Bearer {KEY}" in local.headers[0]


@pytest.mark.parametrize(
    ("answer", "sentence"),
    [
        (Answer(b'{"choices": [{"mess'), "gave no answer .Unterminated"),
        (Answer([1, 2]), "no JSON object"),
        (Answer({"error": "context is 8"}, 400), "answered 400: .*context is 8.*--extra-body can"),
    ],
)
def test_what_asking_again_does_not_mend_is_an_error_of_its_own(
    answer: Answer, sentence: str
) -> None:
    replies, local = ask(bad(answer), 3)
    assert all(re.search(sentence, error or "") for _, _, error in replies)
    assert len(replies) == len(local.requests) == 3


@pytest.mark.parametrize(
    "broken", [Answer(b"<html>no</html>", 502), Answer(b'{"choices": [{"mess', promised=500)]
)
def test_a_broken_answer_is_tried_again(broken: Answer) -> None:
    replies, local = ask(bad(broken, times=1))
    assert text(replies[0]) == "answer to q0"
    assert len(local.requests) == 2


def test_a_server_that_hangs() -> None:
    replies, local = ask(echo(60, only="q1"), 3, timeout=1.0, retries=1)
    errors = {key: error for key, _, error in replies}
    assert errors.pop("r1") == f"{local.url} gave no answer (Request timed out.)"
    assert errors == {"r0": None, "r2": None}


ELSEWHERE = {"Location": f"https://elsewhere.example/v1?key={quote(KEY)}"}


@pytest.mark.parametrize(
    ("answer", "sentence", "n"),
    [
        (Answer({"error": f"Incorrect API key provided: {KEY}"}, 401), "key to a valid one", 1),
        (Answer({"error": "no model m"}, 404), "the server's address and the model's name", 1),
        (Answer({}, 307, ELSEWHERE), r"/v1\?key=\*\*\*; give that as --base-url", 1),
        (Answer({"error": {"code": "insufficient_quota"}}, 429), "the quota is exhausted, add", 2),
    ],
)
def test_what_no_retry_can_mend_stops_everything(answer: Answer, sentence: str, n: int) -> None:
    with LocalServer(bad(answer)) as local:
        with pytest.raises(WRPOError, match=sentence) as stopped:
            list(complete(Server(local.url, connections=1, retries=1), requests(100)))
        assert KEY not in str(stopped.value)
        assert len(local.requests) == n


def test_nobody_there_is_said_at_once() -> None:
    with LocalServer(echo()) as local:
        url = local.url
    with pytest.raises(WRPOError, match=r"does not answer .*start it or correct its address"):
        list(complete(Server(url, retries=10**6), requests(5)))


@pytest.mark.parametrize("spelling", [KEY, quote(KEY), quote(KEY, safe="")])
def test_an_echo_of_the_key_is_struck_out(spelling: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    for status in (200, 400):
        ((_, body, error),), _ = ask(bad(Answer(said(f"I got {spelling}").body, status)))
        assert "I got ***" in str(body or error)
        assert spelling[4:-5] not in str(body or error)
    assert KEY not in caplog.text


def test_what_is_recorded_holds_no_secret_and_addresses_are_checked() -> None:
    assert Server("http://user:secret@host:99/v1?token=secret").address == "http://host:99/v1"
    given = {"max_tokens": 5, "api_key": "abc", "metadata": {"of": ["hf_abcdefgh", "fine"]}}
    kept = {"max_tokens": 5, "api_key": "***", "metadata": {"of": ["***", "fine"]}}
    assert without_secrets(given) == kept
    for url in ("localhost:8000/v1", "http://host:port/v1"):
        with pytest.raises(WRPOError, match="--base-url is not a URL"):
            Server(url)


@pytest.mark.parametrize(
    ("text", "thought", "answer"),
    [
        ("Blue lake.", "", "Blue lake."),
        ("<think>\nshort\n</think>\n\nBlue lake.", "short", "Blue lake."),
        ("Okay, [[3]]?\n</think>\n\nGood. [[8]]", "Okay, [[3]]?", "Good. [[8]]"),
        ("<think>never ends [[2]]", "never ends [[2]]", ""),
        ("Write `<think>` first.", "", "Write `<think>` first."),
    ],
)
def test_the_answer_is_what_follows_the_thought(text: str, thought: str, answer: str) -> None:
    assert split_thought(text) == (thought, answer)


def reply(content: Any, finish: Any = "stop", **message: Any) -> dict[str, Any]:
    choice = {"message": {"role": "assistant", "content": content, **message}}
    return {"choices": [{**choice, "finish_reason": finish}], "usage": {"completion_tokens": 5}}


THINKING = [{"type": "thinking", "thinking": [{"text": "[[2]]"}]}]
LIST = [*THINKING, {"type": "text", "text": "Blue "}, {"type": "text", "text": "lake."}]


@pytest.mark.parametrize(
    ("body", "found"),
    [
        (reply("Blue."), Said("Blue.", "", "stop", 5)),
        (reply(LIST), Said("Blue lake.", "", "stop", 5)),
        (reply("Blue.", "length", reasoning_content="hm"), Said("Blue.", "hm", "length", 5)),
        (reply(None, refusal="I cannot."), Said("I cannot.", "", "stop", 5)),
        ({**reply("Blue.", None), "usage": {"completion_tokens": "many"}}, Said("Blue.")),
    ],
)
def test_replies_are_read(body: dict[str, Any], found: Said) -> None:
    assert read_reply(body) == found


FAILED = {"code": 502, "message": "Upstream provider\nfailed"}


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        ({"choices": None, "error": {"code": 429, "message": "Slow"}}, r"failure: Slow \(429\)"),
        ({"choices": [{"message": {"content": ""}, "error": FAILED}]}, "Upstream provider failed"),
        (reply("", "content_filter"), "content_filter"),
        (reply(""), "an empty text"),
        (reply(" <think>\n", "length"), "nothing but a thought; raise max_tokens"),
        ({"error": {"message": "no key sk-abcdef123456"}}, r"failure: no key \*\*\*"),
        (reply(None, reasoning_content="hm"), "nothing but a thought"),
        ({"choices": [{"message": {"content": 7}}]}, "no chat completion"),
    ],
)
def test_a_failure_inside_200_is_a_failure(body: dict[str, Any], sentence: str) -> None:
    with pytest.raises(WRPOError, match=sentence):
        read_reply(body)
