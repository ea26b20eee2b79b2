"""vLLM itself, on a CPU with the tiny model.

vLLM asks for older versions of some packages, so it has an environment of its own (``make
vllm-env``), whose interpreter ``WRPO_VLLM_PYTHON`` names.
"""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from generation_rows import Tiny, ask, by_name
from vllm_run import GREEDY, SAMPLED

from wrpo_lib.generation.local import TransformersEngine
from wrpo_lib.generation.stage import Response

HERE = Path(__file__).parent
INCOMPLETE = "\N{REPLACEMENT CHARACTER}"  # half a character at the end, which vLLM leaves out


@pytest.fixture(scope="module")
def offline(
    tiny: Tiny, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, dict[tuple[str, int], Response]]:
    """What ``vllm_run.py`` made, by key and sample, with 1 GiB for the cache of keys and values."""
    here = importlib.util.find_spec("vllm")
    python = sys.executable if here else os.environ.get("WRPO_VLLM_PYTHON")
    if not python:
        pytest.skip("needs vLLM: run make vllm-env and set WRPO_VLLM_PYTHON=.venv-vllm/bin/python")
    out = tmp_path_factory.mktemp("vllm") / "made.json"
    command = [python, str(HERE / "vllm_run.py"), str(tiny.folder), str(out)]
    places = [HERE.parents[1] / "src", HERE, HERE.parent]
    env = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, places)), "OMP_NUM_THREADS": "1"}
    env |= {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_NO_USAGE_STATS": "1"}
    env |= {"VLLM_ENABLE_V1_MULTIPROCESSING": "0"}  # importing vLLM again takes 15 seconds
    done = subprocess.run(command, env=env, capture_output=True, text=True)
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
