"""Templates without a system role, served models, and a real server."""

from __future__ import annotations

import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from commandline import wait_until, wrpo
from generation_rows import Tiny, ask, by_name, prompt_rows, write_rows
from local_server import Answer, LocalServer, said

from wrpo_lib.generation import Sampling, TransformersEngine
from wrpo_lib.generation.engines import ServerEngine
from wrpo_lib.generation.request import Request
from wrpo_lib.io import read_rows
from wrpo_lib.server import Server

SHORT = Sampling(n=2, max_tokens=8)
SYSTEM = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "copy : a b"}]
REFUSES = (
    "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('System role not "
    "supported') }}{% endif %}<{{ m.role }}>{{ m.content }}{% endfor %}<assistant>"
)
DROPS = (
    "{% for m in messages %}{% if m.role != 'system' %}<{{ m.role }}>{{ m.content }}{% endif %}"
    "{% endfor %}<assistant>"
)


def with_template(tiny: Tiny, template: str) -> Any:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny.folder)
    tokenizer.chat_template = template
    return tokenizer


@pytest.mark.parametrize("template", [REFUSES, DROPS], ids=["refuses", "drops"])
def test_a_system_turn_without_a_place_opens_the_user_turn(tiny: Tiny, template: str) -> None:
    engine = TransformersEngine(tiny.model, with_template(tiny, template))
    text = engine.tokenizer.decode(engine.renderer.ids(SYSTEM))
    assert text == "<user>be brief\n\ncopy : a b<assistant>"
    assert not next(engine([Request("p", SYSTEM[1:], SHORT)])).error
    assert engine.renderer.folded == 1


def test_a_conversation_that_no_template_takes_fails_alone(tiny: Tiny) -> None:
    template = REFUSES.replace("'system'", "'tool'")
    tool = [{"role": "tool", "content": "42"}, {"role": "user", "content": "q"}]
    engine = TransformersEngine(tiny.model, with_template(tiny, template))
    made = by_name(engine([Request("good", SYSTEM, SHORT), Request("bad", tool, SHORT)]))
    assert made["good", 0].error is None
    assert "cannot render the roles (tool, user)" in (made["bad", 0].error or "")


def served(n: int, **options: Any) -> tuple[list[Any], LocalServer]:
    async def handler(body: dict[str, Any]) -> Answer:
        if "empty" in body["messages"][-1]["content"]:
            parts = [{"type": "text", "text": "in "}, {"type": "text", "text": "parts"}]
            message = {"content": parts if body["seed"] % 2 else None}
            return Answer({"choices": [{"message": message, "finish_reason": "length"}]})
        return said(f"seed {body.get('seed')}")

    with LocalServer(handler) as local:
        engine = ServerEngine(Server(local.url, retries=0), "m", **options)
        made = list(engine(ask(n, SHORT, "e", "empty")))
    assert engine.folded == (2 * (n // 4) if options else 0)
    return made, local


def test_a_served_response_is_a_request_of_its_own() -> None:
    made, local = served(8)
    assert len(made) == len(local.requests) == 18
    for r in made:
        assert r.seed == SHORT.seed_of(r.key, r.sample)
        if r.key == "e":
            assert r.text == ("in parts" if r.seed % 2 else "")
            assert (r.n_tokens, r.finish_reason, r.error) == (None, "length", None)
        else:
            assert r.text == f"seed {r.seed}"
            assert (r.n_tokens, r.finish_reason, r.error) == (3, "stop", None)
    body = local.requests[0]
    assert set(body) == {"model", "messages", "temperature", "top_p", "max_tokens", "seed"}
    assert (body["temperature"], body["top_p"], body["max_tokens"]) == (0.8, 0.95, 8)


def test_served_options() -> None:
    _, local = served(
        8, fold_system=True, extra_body={"max_tokens": None, "max_completion_tokens": 9}
    )
    assert {m["role"] for body in local.requests for m in body["messages"]} == {"user"}
    assert all("max_tokens" not in b and b["max_completion_tokens"] == 9 for b in local.requests)


@pytest.fixture(scope="module")
def transformers_serve(tiny: Tiny) -> Iterator[str]:
    """``transformers serve`` with the tiny model: a real OpenAI-compatible server."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    code = "from transformers.cli.transformers import main; main()"
    where = ["--host", "127.0.0.1", "--port", str(port), "--device", "cpu"]
    command = [sys.executable, "-c", code, "serve", str(tiny.folder), *where]
    quiet = subprocess.DEVNULL
    with subprocess.Popen(command, stdout=quiet, stderr=subprocess.PIPE) as server:
        try:
            wait_until(
                lambda: answers(f"http://127.0.0.1:{port}/health"),
                server,
                lambda: server.communicate()[1].decode()[-2000:],
            )
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            server.kill()


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5):
            return True
    except (urllib.error.URLError, OSError):
        return False


def test_a_real_server_from_the_command_line(
    tiny: Tiny, transformers_serve: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same rows as in process: fields, ids, lengths; seeds honoured one request at a time."""
    asked = write_rows(tmp_path / "prompts.jsonl", prompt_rows(4))
    how = ["--engine", "server", "--base-url", transformers_serve, "--connections", 1]
    how += ["--model", tiny.folder, "--name", "tiny", "--n", 2, "--max-tokens", 10]
    made = []
    for name in ("a", "b"):
        out = tmp_path / f"{name}.jsonl"
        code, stdout, stderr = wrpo(capsys, "sample", asked, "--out", out, *how)
        assert code == 0, stderr
        assert "made 8 responses to 4 prompts" in stdout
        made.append({(r["prompt_id"], r["sample"]): r for r in read_rows(out)})
    assert made[0] == made[1], "the same seeds should give the same texts"
    sampling = Sampling(n=2, max_tokens=10)
    local = TransformersEngine(tiny.model, tiny.tokenizer)
    expected = {(r.key, r.sample): r.row() for r in local(ask(4, sampling))}
    assert made[0].keys() == expected.keys()
    for key, row in made[0].items():
        assert set(row) == {"prompt_id", "prompt", "model", *expected[key]}
        assert row["seed"] == sampling.seed_of(*key)
        assert 0 < row["n_tokens"] <= 10
        assert row["finish_reason"] == ("length" if row["n_tokens"] == 10 else "stop")
