"""Prompts that overlap with benchmark prompts (the paper does not say whether its were checked).

One is reported when it holds at least 70 % of a benchmark prompt's 8-grams of words (the rule of
PaLM's contamination analysis). A benchmark prompt of fewer than eight words counts as found only
when the whole prompt is the same, since a few common words prove nothing.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from pathlib import Path

from wrpo_lib.errors import WRPOError
from wrpo_lib.io import Row, iter_rows

N, SHARE = 8, 0.7


def words(text: str) -> list[str]:
    """The words of a text in lower case, without punctuation."""
    return re.findall(r"\w+", text.lower())


def ngrams(text: str) -> set[tuple[str, ...]]:
    """All n-grams of words; the whole text as one if it has fewer than n words."""
    found = words(text)
    return {tuple(found[i : i + N]) for i in range(max(len(found) - N + 1, 1))} - {()}


def first_turns(path: Path) -> dict[str, str]:
    """Id (or row number from 0) -> question, from ``instruction``, ``turns`` or ``prompt``."""
    found = {}
    for number, row in enumerate(iter_rows(path)):
        asked = row.get("instruction") or row.get("turns") or row.get("prompt")
        if isinstance(asked, list):
            turns = [t if isinstance(t, dict) else {"content": t} for t in asked]
            asked = next((t.get("content") for t in turns if t.get("role") != "system"), None)
        if not isinstance(asked, str):
            raise WRPOError(f"{path}, row {number + 1}: no instruction, turns or prompt; add it")
        found[str(row.get("question_id", row.get("prompt_id", number)))] = asked
    return found


def find_overlap(file: Path, benchmarks: list[Path]) -> list[Row]:
    """A row for each prompt of ``file`` and benchmark prompt that overlap."""
    holders: dict[tuple[str, ...], list[tuple[str, str, int]]] = defaultdict(list)
    for path in benchmarks:
        for question_id, text in first_turns(path).items():
            grams = ngrams(text)
            for gram in grams:
                holders[gram].append((path.name.split(".")[0], question_id, len(grams)))
    found = []
    for prompt_id, text in first_turns(file).items():
        held = Counter(known for gram in ngrams(text) for known in holders.get(gram, ()))
        for (benchmark, question_id, size), n in held.items():
            match = {"prompt_id": prompt_id, "benchmark": benchmark, "question_id": question_id}
            if n >= SHARE * size:
                found.append({**match, "ngram_share": n / size})
    return found
