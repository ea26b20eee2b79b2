"""Sampling, scoring and pairing of many rows with a trivial engine, and the memory each stage took.

Arguments: a folder, the number of prompts. Five responses of each of two models to every prompt.
"""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from wrpo_lib.generation.request import Request, Response, Sampling
from wrpo_lib.generation.stage import sample_responses, score_responses
from wrpo_lib.io import iter_rows
from wrpo_lib.nano.tasks import ALPHABET
from wrpo_lib.quadruples import Pairing, read_responses, write_pairs

MODELS = ("source", "target")
FILLER = "so it is said , " * 100


def peak() -> float:
    """Peak memory of this process so far, in MiB."""
    status = Path("/proc/self/status").read_text()
    found = re.search(r"VmHWM:\s+(\d+) kB", status)
    return int(found.group(1)) / 1024 if found else 0.0


def prompts(n: int) -> Iterator[tuple[str, list[dict[str, str]]]]:
    """Tasks of the nano testbed, one after another."""
    for k in range(n):
        letters = "".join(ALPHABET[int(d)] for d in f"{k:07d}")
        yield f"copy-{letters}", [{"role": "user", "content": f"copy : {' '.join(letters)}"}]


def engine(requests: Iterable[Request]) -> Iterator[Response]:
    """Answers of about 1,600 characters at once."""
    for request in requests:
        for k in request.wanted:
            seed = request.sampling.seed_of(request.key, k)
            text = f"answer : {request.key[-7:][: k + 3]} . {FILLER}"
            yield Response(request.key, k, text, 400, "stop", seed)


def scorer(rows: list[dict[str, str]]) -> Iterator[tuple[int, float]]:
    """The sample's seed as a reward."""
    for k, row in enumerate(rows):
        yield k, float(row["seed"]) / 2**31


def main() -> None:
    """All three stages; a line of JSON with seconds and peak memory after each."""
    folder, n = Path(sys.argv[1]), int(sys.argv[2])
    before = {"stage": "start", "peak": peak(), "seconds": 0.0}
    print(json.dumps(before))
    for stage in ("sample", "score", "pair"):
        start = time.perf_counter()
        if stage == "sample":
            for model in MODELS:
                sample_responses(prompts(n), engine, model, Sampling(max_tokens=400),
                                 folder / f"{model}.jsonl")  # fmt: skip
        elif stage == "score":
            for model in MODELS:
                score_responses(iter_rows(folder / f"{model}.jsonl"), scorer, "trivial",
                                folder / f"{model}-rewards.jsonl")  # fmt: skip
        else:
            table = read_responses([folder / f"{model}-rewards.jsonl" for model in MODELS])
            write_pairs(table, folder / "q.jsonl", Pairing(target="target"))
        seconds = time.perf_counter() - start
        print(json.dumps({"stage": stage, "peak": peak(), "seconds": seconds}))


if __name__ == "__main__":
    main()
