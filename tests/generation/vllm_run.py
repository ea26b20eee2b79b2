"""One vLLM engine on the tiny model, asked several things; run by ``test_vllm.py``.

The arguments are the model's folder and the file for the rows. vLLM needs an environment of its own
and takes half a minute to start, so it runs in one process for all of them.
"""

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from generation_rows import ask

from wrpo_lib.generation.engines import VLLMEngine
from wrpo_lib.generation.stage import Sampling

GREEDY = Sampling(n=1, temperature=0.0, max_tokens=4096)  # more than the context has room for
NARROW = Sampling(n=1, temperature=0.8, top_p=1e-6, max_tokens=16)  # only the likeliest is left
SAMPLED = Sampling(n=2, max_tokens=8)


def main(folder: str, out: Path) -> None:
    on_a_cpu = {"enable_chunked_prefill": False}  # a seed and a split prompt stop vLLM there
    engine = VLLMEngine(folder, dtype="float32", enforce_eager=True, **on_a_cpu)
    engine.window = 3
    made: dict[str, Any] = {
        "sampled": list(engine(ask(7, SAMPLED, "long", "a " * 400))),
        "near": list(engine(ask(0, SAMPLED, "near", "a " * 250))),
        "greedy": list(engine(ask(12, GREEDY))),
        "narrow": list(engine(ask(6, NARROW))),
    }
    engine.window = 100
    made["again"] = list(engine(ask(7, SAMPLED, samples=[1])[::-1]))
    out.write_text(json.dumps(made, default=asdict))


if __name__ == "__main__":  # vLLM's own processes import this file
    main(sys.argv[1], Path(sys.argv[2]))
