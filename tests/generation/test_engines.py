"""Templates without a system role, served models, and a real server."""

from __future__ import annotations

import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from commandline import wait_until
from generation_rows import Tiny, prompt_rows, read_rows, write_rows
from local_server import Answer, LocalServer, said

from wrpo_lib.chat import Renderer
from wrpo_lib.errors import WRPOError
from wrpo_lib.generation import Request, Sampling, ServerEngine, TransformersEngine
from wrpo_lib.generation.vllm_engine import VLLMEngine
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
    tokenizer = with_template(tiny, template)
    renderer = Renderer(tokenizer)
    assert not renderer.takes_system
    text = tokenizer.decode(renderer.ids(SYSTEM))
    assert text == "<user>be brief\n\ncopy : a b<assistant>"
    renderer.ids(SYSTEM[1:])
    assert renderer.folded == 1
    engine = TransformersEngine(tiny.model, tokenizer)
    assert len(list(engine([Request("p", SYSTEM, SHORT)]))) == 2
    assert engine.folded == 1


def test_a_system_turn_with_a_place_stays(tiny: Tiny) -> None:
    renderer = Renderer(tiny.tokenizer)
    text = tiny.tokenizer.decode(renderer.ids(SYSTEM))
    assert "be brief" in text.split("<user>")[0]
    assert renderer.folded == 0
    assert SYSTEM[1]["content"] == "copy : a b", "the prompt itself is never changed"


def test_a_conversation_that_no_template_takes_fails_alone(tiny: Tiny) -> None:
    template = REFUSES.replace("'system'", "'tool'")
    tool = [{"role": "tool", "content": "42"}, {"role": "user", "content": "q"}]
    engine = TransformersEngine(tiny.model, with_template(tiny, template))
    made = list(engine([Request("good", SYSTEM, SHORT), Request("bad", tool, SHORT)]))
    assert {r.key for r in made if r.error} == {"bad"}
    assert "cannot render the roles (tool, user)" in next(r.error for r in made if r.error)


def served(n: int, **options: Any) -> tuple[list[Any], LocalServer]:
    async def handler(body: dict[str, Any]) -> Answer:
        if "empty" in body["messages"][-1]["content"]:
            return Answer({"choices": [{"message": {"content": None}, "finish_reason": "length"}]})
        return said(f"seed {body.get('seed')}")

    with LocalServer(handler) as local:
        engine = ServerEngine(Server(local.url, retries=0), "m", **options)
        prompts = [Request(r["prompt_id"], r["prompt"], SHORT) for r in prompt_rows(n)]
        prompts.append(Request("e", [{"role": "user", "content": "empty"}], SHORT, (1,)))
        made = list(engine(prompts))
    assert engine.folded == (2 * (n // 4) if options.get("fold") else 0)
    return made, local


def test_a_served_response_is_a_request_of_its_own() -> None:
    made, local = served(8)
    assert len(made) == len(local.requests) == 17
    for r in made:
        if r.key != "e":
            assert r.text == f"seed {r.seed}"
            assert (r.n_tokens, r.finish_reason, r.error) == (3, "stop", None)
            assert r.seed == SHORT.seed_of(r.key, r.sample)
    (empty,) = [r for r in made if r.key == "e"]
    assert (empty.sample, empty.text, empty.n_tokens, empty.finish_reason) == (
        1,
        "",
        None,
        "length",
    )
    body = local.requests[0]
    assert set(body) == {"model", "messages", "temperature", "top_p", "max_tokens", "seed"}
    assert (body["temperature"], body["top_p"], body["max_tokens"]) == (0.8, 0.95, 8)


def test_served_options() -> None:
    _, local = served(8, fold=True, extra={"max_tokens": None, "max_completion_tokens": 9})
    roles = {m["role"] for body in local.requests for m in body["messages"]}
    assert roles == {"user"}
    assert all("max_tokens" not in b and b["max_completion_tokens"] == 9 for b in local.requests)


def test_vllm_that_does_not_start_is_one_sentence(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a GPU with too little memory does; ``test_vllm.py`` runs vLLM itself."""
    asked: dict[str, Any] = {}

    def refuse(**options: Any) -> None:
        asked.update(options)
        raise RuntimeError("Engine core initialization failed.\nSee root cause above.")

    vllm, platforms = ModuleType("vllm"), ModuleType("vllm.platforms")
    vllm.LLM = refuse  # type: ignore[attr-defined]
    platforms.current_platform = SimpleNamespace(is_cpu=lambda: False)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "vllm", vllm)
    monkeypatch.setitem(sys.modules, "vllm.platforms", platforms)
    with pytest.raises(WRPOError, match=r"does not start with .* failed\. See root cause above"):
        VLLMEngine(str(tiny.folder), tensor_parallel_size=2, gpu_memory_utilization=0.5)
    assert (asked["tensor_parallel_size"], asked["gpu_memory_utilization"]) == (2, 0.5)
    assert asked["enable_chunked_prefill"] is None, "only a CPU goes without"


@pytest.fixture(scope="module")
def transformers_serve(tiny: Tiny) -> Iterator[str]:
    """``transformers serve`` with the tiny model: a real OpenAI-compatible server."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    code = "from transformers.cli.transformers import main; main()"
    command = [sys.executable, "-c", code, "serve", str(tiny.folder), "--port", str(port),
               "--host", "127.0.0.1", "--device", "cpu"]  # fmt: skip
    quiet = subprocess.DEVNULL
    with subprocess.Popen(command, stdout=quiet, stderr=subprocess.PIPE) as server:
        try:
            _wait_for(f"http://127.0.0.1:{port}/health", server)
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            server.kill()


def _wait_for(url: str, server: subprocess.Popen[bytes]) -> None:
    def answers() -> bool:
        try:
            with urllib.request.urlopen(url, timeout=5):
                return True
        except (urllib.error.URLError, OSError):
            return False

    wait_until(answers, server, lambda: server.communicate()[1].decode()[-2000:])


def test_a_real_server_from_the_command_line(
    tiny: Tiny, transformers_serve: str, tmp_path: Path
) -> None:
    """The same rows as in process: fields, ids, lengths; seeds honoured one request at a time."""
    asked = write_rows(tmp_path / "prompts.jsonl", prompt_rows(4))
    made = []
    for name in ("a", "b"):
        out = tmp_path / f"{name}.jsonl"
        command = [sys.executable, "-m", "wrpo_lib.cli", "sample", str(asked), "--out", str(out),
                   "--engine", "server", "--base-url", transformers_serve, "--model",
                   str(tiny.folder), "--name", "tiny", "--n", "2", "--max-tokens", "10",
                   "--connections", "1"]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert "made 8 responses to 4 prompts" in done.stdout
        made.append({(r["prompt_id"], r["sample"]): r for r in read_rows(out)})
    assert made[0] == made[1], "the same seeds should give the same texts"
    sampling = Sampling(n=2, max_tokens=10)
    local = TransformersEngine(tiny.model, tiny.tokenizer)
    requests = [Request(r["prompt_id"], r["prompt"], sampling) for r in prompt_rows(4)]
    expected = {(r.key, r.sample): r.row() for r in local(requests)}
    assert made[0].keys() == expected.keys()
    for key, row in made[0].items():
        assert set(row) == {"prompt_id", "prompt", "model", *expected[key]}
        assert row["seed"] == sampling.seed_of(*key)
        assert 0 < row["n_tokens"] <= 10
        assert row["finish_reason"] == ("length" if row["n_tokens"] == 10 else "stop")


def test_a_real_server_refuses_another_model(transformers_serve: str) -> None:
    engine = ServerEngine(Server(transformers_serve, retries=0), "another/model")
    made = list(engine([Request("p", SYSTEM, SHORT)]))
    assert all("answered" in (r.error or "") for r in made)
