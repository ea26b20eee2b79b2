"""How long the examples are: read from the data, or assumed."""

from __future__ import annotations

import math
import random
from typing import Any

Example = tuple[int, tuple[int, ...]]
"""Tokens of a prompt and of each of its responses."""


def data_lengths(
    rows: list[dict[str, Any]],
    fields: tuple[str, ...],
    tokenizer: Any,
    max_length: int | None,
    max_prompt_length: int | None,
) -> list[Example]:
    """Tokens of prompt and responses of each row, rendered and cut as training does.

    Without a ``tokenizer`` four characters count as a token.
    """
    from wrpo_lib.chat import render

    if tokenizer is None:
        return [_by_characters(row, fields, max_length) for row in rows]
    made = (
        render(tokenizer, r["prompt"], [r[f] for f in fields], max_length, max_prompt_length)
        for r in rows
    )
    return [(len(m.prompt_ids), tuple(map(len, m.response_ids))) for m in made]


def _by_characters(row: dict[str, Any], fields: tuple[str, ...], max_length: int | None) -> Example:
    limit = max_length or 10**9
    prompt = row["prompt"]
    text = prompt if isinstance(prompt, str) else "".join(m["content"] for m in prompt)
    x = min(len(text) // 4 + 1, limit - 1)
    return x, tuple(min(len(row[f]) // 4 + 1, limit - x) for f in fields)


def assumed_lengths(
    n_responses: int,
    prompt: int,
    response: int,
    max_length: int | None,
    *,
    spread: float = 0.6,
    n: int = 512,
) -> list[Example]:
    """Lengths for data that are not there: log-normal about the two means, seeded.

    ``spread`` is the standard deviation of the logarithm, about that of published responses.
    """
    draws = random.Random(0)
    limit = max_length or 10**9

    def draw(mean: int) -> int:
        return max(1, round(draws.lognormvariate(math.log(mean) - spread**2 / 2, spread)))

    found = []
    for _ in range(n):
        x = min(draw(prompt), limit - 1)
        found.append((x, tuple(min(draw(response), limit - x) for _ in range(n_responses))))
    return found


def in_blocks(examples: list[Example], count: int, block: int) -> tuple[list[Example], int]:
    """The same text packed into blocks of ``block`` tokens, as SFT does, and how many they are."""
    prompts = sum(prompt for prompt, _ in examples)
    total = prompts + sum(sum(lengths) for _, lengths in examples)
    prompt = block * prompts // total
    return [(prompt, (block - prompt,))], max(1, round(total / len(examples) * count / block))


def micro_batches(examples: list[Example], size: int) -> list[list[Example]]:
    """Random batches of the examples, seeded; what remains is left out unless it is all."""
    order = list(examples)
    random.Random(0).shuffle(order)
    batches = [order[i : i + size] for i in range(0, len(order), size)]
    return [b for b in batches if len(b) == size] or batches
