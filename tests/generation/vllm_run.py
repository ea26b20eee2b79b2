"""One vLLM engine on the tiny model, asked several things; run by ``test_vllm.py``.

The arguments are the model's folder and the file for the rows. vLLM needs an environment of its own
and takes half a minute to start, so it runs in one process for all of them.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from generation_rows import prompt_rows

from wrpo_lib.generation.request import Request, Sampling
from wrpo_lib.generation.vllm_engine import VLLMEngine

GREEDY = Sampling(n=1, temperature=0.0, max_tokens=4096)  # more than the context has room for
NARROW = Sampling(n=1, temperature=0.8, top_p=1e-6, max_tokens=16)  # only the likeliest is left
SAMPLED = Sampling(n=2, max_tokens=8)


def ask(n: int, sampling: Sampling) -> list[Request]:
    return [Request(r["prompt_id"], r["prompt"], sampling) for r in prompt_rows(n)]


def of_length(tokens: int, key: str) -> Request:
    """A prompt of about so many tokens."""
    return Request(key, [{"role": "user", "content": "a " * tokens}], SAMPLED)


def main(folder: str, out: Path) -> None:
    engine = VLLMEngine(folder, dtype="float32", enforce_eager=True, window=3)
    sampled = ask(7, SAMPLED)
    made: dict[str, Any] = {
        "context": engine.context,
        "sampled": list(engine([*sampled, of_length(400, "long"), of_length(250, "near")])),
        "greedy": list(engine(ask(12, GREEDY))),
        "narrow": list(engine(ask(6, NARROW))),
    }
    engine.window = 100
    made["again"] = list(engine([Request(r.key, r.messages, SAMPLED, (1,)) for r in sampled[::-1]]))
    out.write_text(json.dumps(made, default=asdict))


if __name__ == "__main__":  # vLLM's own processes import this file
    main(sys.argv[1], Path(sys.argv[2]))
