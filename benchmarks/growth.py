"""How the cost of a step grows with the number of responses, the prompt and the batch.

A small random model and random tokens, all responses equally long, so that one thing changes at a
time. The official way and ours take turns.
"""

from __future__ import annotations

import copy
import tempfile
import time
from pathlib import Path
from typing import Any

import pandas as pd
import variants
import workloads

from wrpo_lib.planner import footprint

BASE = {"responses": 3, "prompt": 128, "batch": 2}
VARIED = {
    "responses": (3, 4, 6, 11),  # K sources, the target's two: 1, 2, 4, 9 sources
    "prompt": (32, 128, 512, 1024),
    "batch": (1, 2, 4, 8),
}
RESPONSE = 128
"""Tokens of each response."""


def run(quick: bool) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Measure; one row a setting, way and turn."""
    hidden, layers, vocabulary, turns = (64, 2, 512, 1) if quick else (256, 6, 8192, 5)
    model, tokenizer = workloads.small_model(hidden, layers, vocabulary)
    found = []
    for varied, values in VARIED.items():
        for value in values[:2] if quick else values:
            setting = {**BASE, varied: value}
            for row in _time(model, tokenizer, setting, vocabulary, turns):
                found.append({"varied": varied, **setting, **row})
            print(f"growth: {varied} {value}", flush=True)
    record = {"hidden": hidden, "layers": layers, "vocabulary": vocabulary,
              "response_tokens": RESPONSE, "turns": turns}  # fmt: skip
    return pd.DataFrame(found), record


def _time(
    model: Any, tokenizer: Any, setting: dict[str, int], vocabulary: int, turns: int
) -> list[dict[str, Any]]:
    """Seconds of forward and backward pass of both ways, and the tokens each puts through."""
    n = setting["responses"]
    rows = workloads.random_rows(setting["batch"], setting["prompt"], (RESPONSE,) * n, vocabulary,
                                 spread=0.0)  # fmt: skip
    names = ["source_chosen", *(f"source_chosen_{k}" for k in range(2, n - 1))]
    shares = {name: 1 / len(names) for name in names}
    reference = copy.deepcopy(model).requires_grad_(False)
    switch = variants.Switch(model, reference)
    with tempfile.TemporaryDirectory() as folder:
        ways = {
            "official": variants.Official(model, reference, 0, shares=shares),
            "ours": variants.Ours(
                model, reference, tokenizer, rows, Path(folder), share_prompt="true",
                source_weights=shares,
            ),
        }  # fmt: skip
        found = []
        for turn in range(turns + 1):
            for way, compute in ways.items():
                switch(compute.layers)
                model.zero_grad(set_to_none=True)
                start = time.perf_counter()
                compute(rows).backward()
                seconds = time.perf_counter() - start
                if turn:  # the first warms up
                    found.append({"way": way, "turn": turn, "seconds": seconds})
    switch(False)  # the model goes on to the next setting
    examples = [(setting["prompt"], (RESPONSE,) * n)] * setting["batch"]
    for row in found:
        row["tokens"] = footprint.tokens(examples, row["way"] == "ours")
    return found
