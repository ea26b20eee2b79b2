"""vLLM itself, on a CPU: in process and as an OpenAI-compatible server, with the tiny model.

vLLM asks for older versions of some packages, so it has an environment of its own (``make
vllm-env``), whose interpreter ``WRPO_VLLM_PYTHON`` names.
"""

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from generation_rows import Tiny, ask, by_name
from local_server import serving
from vllm_run import GREEDY, SAMPLED

from wrpo_lib.errors import WRPOError
from wrpo_lib.generation import TransformersEngine
from wrpo_lib.generation.engines import ServerEngine
from wrpo_lib.generation.stage import Response
from wrpo_lib.server import Server

HERE = Path(__file__).parent
INCOMPLETE = "\N{REPLACEMENT CHARACTER}"  # half a character at the end, which vLLM leaves out
AS_TRAINED = {"top_k": -1}  # else vLLM's server takes the model's own top-k
ONE_PROCESS = {"VLLM_ENABLE_V1_MULTIPROCESSING": "0"}  # importing vLLM again takes 15 seconds


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
    places = [HERE.parents[1] / "src", HERE, HERE.parent]
    here = {"PYTHONPATH": os.pathsep.join(map(str, places)), "VLLM_CPU_KVCACHE_SPACE": "1"}
    return os.environ | here | {"VLLM_NO_USAGE_STATS": "1", "OMP_NUM_THREADS": "1"} | more


@pytest.fixture(scope="module")
def offline(
    python: str, tiny: Tiny, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, dict[tuple[str, int], Response]]:
    """What ``vllm_run.py`` made, by key and sample."""
    out = tmp_path_factory.mktemp("vllm") / "made.json"
    command = [python, str(HERE / "vllm_run.py"), str(tiny.folder), str(out)]
    done = subprocess.run(command, env=environment(**ONE_PROCESS), capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    made = json.loads(out.read_text())
    return {name: by_name(Response(**row) for row in rows) for name, rows in made.items()}


def test_greedy_texts_are_those_of_transformers(offline: Any, tiny: Tiny) -> None:
    """To the end of the context; half a character at the end is left out of vLLM's text."""
    local = by_name(TransformersEngine(tiny.model, tiny.tokenizer)(ask(12, GREEDY)))
    assert offline["greedy"].keys() == local.keys()
    for name, made in offline["greedy"].items():
        own = local[name]
        assert made.text.rstrip(INCOMPLETE) == own.text.rstrip(INCOMPLETE)
        assert (made.n_tokens, made.finish_reason) == (own.n_tokens, own.finish_reason)
    for name, made in offline["narrow"].items():
        assert local[name].text.startswith(made.text), "top_p was not heeded"


def test_a_response_depends_on_its_seed_alone(offline: Any) -> None:
    sampled, again = offline["sampled"], offline["again"]
    assert again == {name: sampled[name] for name in again}, "other order, batch and company"
    assert len(again) == 7
    fine = {name: r for name, r in sampled.items() if not r.error}
    assert len({r.text for r in fine.values()}) == len(fine) == 14
    for name, r in fine.items():
        assert r.seed == SAMPLED.seed_of(*name)
        assert r.finish_reason == ("stop" if r.n_tokens < 8 else "length")
    failed = {r.error for r in sampled.values() if r.error}
    assert failed == {"the prompt has 403 tokens, the context 256"}
    assert offline["near"]["near", 0].n_tokens == 3  # the room that was left


@pytest.fixture(scope="module")
def served(python: str, tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of vLLM's own server with the tiny model."""
    command = [python, "-m", "vllm.entrypoints.openai.api_server", "--model", str(tiny.folder)]
    command += ["--served-model-name", "tiny", "--dtype", "float32", "--enforce-eager"]
    command.append("--no-enable-chunked-prefill")
    with serving(command, tmp_path_factory.mktemp("served"), "/v1/models", environment()) as url:
        yield url


def test_the_server_gives_the_same_texts_and_refuses_the_rest(served: str, offline: Any) -> None:
    """Concurrent, in any order: the rows that vLLM makes in process, seed for seed."""
    engine = ServerEngine(Server(served, connections=8), "tiny", extra_body=AS_TRAINED)
    made = by_name(engine(ask(7, SAMPLED)))
    assert made == {name: r for name, r in offline["sampled"].items() if name[0].startswith("p")}
    own = by_name(ServerEngine(Server(served), "tiny")(ask(7, SAMPLED)))
    assert own.keys() == made.keys()
    assert own != made, "without it the server adds the model's own top-k"
    made = engine(ask(2, SAMPLED, "long", "a " * 400))
    (sentence,) = {r.error for r in made if r.error}
    assert "answered 400: " in sentence
    assert "maximum context length is 256 tokens" in sentence
    with pytest.raises(WRPOError, match="check the server's address and the model's name"):
        list(ServerEngine(Server(served), "another")(ask(1, SAMPLED)))
