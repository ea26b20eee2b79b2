"""vLLM itself, on a CPU: in process and as an OpenAI-compatible server, with the tiny model.

vLLM asks for older versions of some packages, so it has an environment of its own (``make
vllm-env``), whose interpreter ``WRPO_VLLM_PYTHON`` names.
"""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from commandline import wait_until
from generation_rows import Tiny, prompt_rows, read_rows, write_rows
from test_engines import DROPS, with_template
from vllm_run import GREEDY, SAMPLED, ask

from wrpo_lib.generation import Request, Response, ServerEngine, TransformersEngine
from wrpo_lib.server import Server

HERE = Path(__file__).parent
SOURCE = HERE.parents[1] / "src"
INCOMPLETE = "\N{REPLACEMENT CHARACTER}"  # half a character at the end, which vLLM leaves out
AS_TRAINED = {"top_k": -1}  # else vLLM's server takes the model's own top-k


@pytest.fixture(scope="module")
def python() -> str:
    """An interpreter that has vLLM."""
    if importlib.util.find_spec("vllm"):
        return sys.executable
    if named := os.environ.get("WRPO_VLLM_PYTHON"):
        return named
    pytest.skip("needs vLLM: run make vllm-env and set WRPO_VLLM_PYTHON=.venv-vllm/bin/python")


def environment(**more: str) -> dict[str, str]:
    """For a process with vLLM: this checkout, 1 GiB for the cache of keys and values."""
    here = {"PYTHONPATH": f"{SOURCE}{os.pathsep}{HERE}", "VLLM_CPU_KVCACHE_SPACE": "1",
            "VLLM_NO_USAGE_STATS": "1", "OMP_NUM_THREADS": "1"}  # fmt: skip
    return os.environ | here | more


def by_name(rows: list[Response]) -> dict[tuple[str, int], Response]:
    return {(r.key, r.sample): r for r in rows}


@pytest.fixture(scope="module")
def offline(
    python: str, tiny: Tiny, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, dict[tuple[str, int], Response]]:
    """What ``vllm_run.py`` made, by key and sample."""
    out = tmp_path_factory.mktemp("vllm") / "made.json"
    command = [python, str(HERE / "vllm_run.py"), str(tiny.folder), str(out)]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    made = json.loads(out.read_text())
    assert made.pop("context") == 256
    return {name: by_name([Response(**row) for row in rows]) for name, rows in made.items()}


def test_greedy_texts_are_those_of_transformers(offline: Any, tiny: Tiny) -> None:
    """To the end of the context; half a character at the end is left out of vLLM's text."""
    local = by_name(list(TransformersEngine(tiny.model, tiny.tokenizer)(ask(12, GREEDY))))
    assert offline["greedy"].keys() == local.keys()
    for name, made in offline["greedy"].items():
        assert made.text.rstrip(INCOMPLETE) == local[name].text.rstrip(INCOMPLETE)
        assert (made.n_tokens, made.finish_reason) == (
            local[name].n_tokens,
            local[name].finish_reason,
        )
    assert all(r.n_tokens > 200 for r in local.values() if r.finish_reason == "length")
    for name, made in offline["narrow"].items():
        assert local[name].text.startswith(made.text), "top_p was not heeded"


def test_a_response_depends_on_its_seed_alone(offline: Any) -> None:
    sampled, again = offline["sampled"], offline["again"]
    assert again == {name: sampled[name] for name in again}, "other order, batch and company"
    assert len(again) == 7
    for (key, sample), made in sampled.items():
        assert made.seed == SAMPLED.seed_of(key, sample)
    fine = [r for r in sampled.values() if r.error is None]
    assert len({r.text for r in fine}) == len(fine)
    for r in fine:
        assert 0 < r.n_tokens <= 8
        assert r.finish_reason == ("stop" if r.n_tokens < 8 and r.key != "near" else "length")


def test_a_prompt_longer_than_the_context_fails_alone(offline: Any) -> None:
    failed = {name: r.error for name, r in offline["sampled"].items() if r.error}
    assert failed.keys() == {("long", 0), ("long", 1)}
    assert set(failed.values()) == {"the prompt has 403 tokens, the context 256"}
    assert offline["sampled"]["near", 0].n_tokens == 3  # the room that was left
    assert len(offline["sampled"]) == 18


def wrpo_sample(python: str, *arguments: Any) -> list[str]:
    return [python, "-m", "wrpo_lib.cli", "sample", *map(str, arguments)]


def lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


def kill(group: subprocess.Popen[Any]) -> None:
    """Kill a process and those it started (SIGKILL)."""
    os.killpg(group.pid, signal.SIGKILL)
    group.wait()


def test_wrpo_sample_killed_and_run_again(python: str, tiny: Tiny, tmp_path: Path) -> None:
    """A kill costs the window being made; the template has no system role."""
    model = tmp_path / "model"
    tiny.model.save_pretrained(model)
    with_template(tiny, DROPS).save_pretrained(model)
    total = 1024 + 256  # a whole window, and some
    asked = write_rows(tmp_path / "prompts.jsonl", prompt_rows(total))
    out, log = tmp_path / "made.jsonl", tmp_path / "log"
    command = wrpo_sample(python, asked, "--out", out, "--model", model, "--name", "tiny",
                          "--engine", "vllm", "--n", 1, "--max-tokens", 4, "--dtype", "float32",
                          "--enforce-eager", "--max-model-len", 128)  # fmt: skip
    env = environment(VLLM_ENABLE_V1_MULTIPROCESSING="0")  # one process starts faster than three
    with log.open("w") as file:
        run = subprocess.Popen(
            command, env=env, stdout=file, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            wait_until(lambda: bool(lines(out)), run, log.read_text)
        finally:
            kill(run)
    kept = out.read_bytes()
    kept = kept[: kept.rfind(b"\n") + 1]
    n = kept.count(b"\n")
    assert 0 < n <= 1024
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert f"made {total - n} responses to {total} prompts" in done.stdout
    folded = sum(r["prompt"][0]["role"] == "system" for r in prompt_rows(total)[n:])
    assert f"the system turn of {folded} prompts put into the user turn" in done.stdout
    assert f"{n} were there already" in done.stdout
    assert out.read_bytes().startswith(kept)
    rows = read_rows(out)
    assert len({r["prompt_id"] for r in rows}) == len(rows) == total
    assert set(rows[0]) == {"prompt_id", "prompt", "model", "sample", "text", "n_tokens",
                            "finish_reason", "seed"}  # fmt: skip


class Served:
    """vLLM's own server for the tiny model, started and killed at one address."""

    def __init__(self, python: str, folder: Path, log: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.url, self.log = f"http://127.0.0.1:{port}/v1", log
        self.command = [python, "-m", "vllm.entrypoints.openai.api_server", "--model", str(folder),
                        "--served-model-name", "tiny", "--dtype", "float32", "--enforce-eager",
                        "--no-enable-chunked-prefill",  # see VLLMEngine: seeds on a CPU
                        "--host", "127.0.0.1", "--port", str(port)]  # fmt: skip
        self.start()

    def start(self) -> None:
        with self.log.open("a") as file:
            self.run = subprocess.Popen(
                self.command, env=environment(), stdout=file, stderr=subprocess.STDOUT,
                start_new_session=True,
            )  # fmt: skip
        try:
            wait_until(self.answers, self.run, self.log.read_text)
        except BaseException:
            self.stop()
            raise

    def answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/models", timeout=5):
                return True
        except (urllib.error.URLError, OSError):
            return False

    def stop(self) -> None:
        if self.run.returncode is None:
            kill(self.run)


@pytest.fixture(scope="module")
def served(python: str, tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    server = Served(python, tiny.folder, tmp_path_factory.mktemp("served") / "log")
    yield server
    server.stop()


def test_the_server_gives_the_texts_of_the_same_seeds(served: Served, offline: Any) -> None:
    """Concurrent, in any order: the rows that vLLM makes in process, seed for seed."""
    engine = ServerEngine(Server(served.url, connections=8), "tiny", extra=AS_TRAINED)
    made = by_name(list(engine(ask(7, SAMPLED))))
    assert made == {name: r for name, r in offline["sampled"].items() if name[0].startswith("p")}
    own = by_name(list(ServerEngine(Server(served.url), "tiny")(ask(7, SAMPLED))))
    assert own.keys() == made.keys()
    assert own != made, "without it the server adds the model's own top-k"


def test_the_server_refuses_what_it_cannot_do(python: str, served: Served, tmp_path: Path) -> None:
    long = Request("long", [{"role": "user", "content": "a " * 400}], SAMPLED)
    engine = ServerEngine(Server(served.url, connections=2), "tiny")
    made = list(engine([long, *ask(2, SAMPLED)]))
    assert {r.key for r in made if r.error is None} == {"p0", "p1"}
    said = {r.error for r in made if r.error}
    assert len(said) == 1
    assert "answered 400: " in (sentence := said.pop())
    assert "maximum context length is 256 tokens" in sentence
    asked = write_rows(tmp_path / "prompts.jsonl", prompt_rows(3))
    command = wrpo_sample(sys.executable, asked, "--out", tmp_path / "out.jsonl", "--engine",
                          "server", "--base-url", served.url, "--model", "another")  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2
    assert "The model `another` does not exist" in done.stderr
    assert "check the server's address and the model's name" in done.stderr
