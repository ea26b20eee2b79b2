"""Prompts that overlap with the prompts of a benchmark.

A prompt is reported when it holds at least 70 % of a benchmark prompt's 8-grams of words (the rule
of PaLM's contamination analysis; the paper does not say whether its prompts were checked). A
benchmark prompt of fewer than eight words counts as found only when the whole prompt is the same,
since a few common words prove nothing.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterator
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


def first_turns(path: Path) -> Iterator[tuple[str, str]]:
    """Id (or row number from 0) and first question of every row: ``instruction``, ``turns``
    (texts or objects with ``content``) or ``prompt``.
    """
    for number, row in enumerate(iter_rows(path)):
        asked = row.get("instruction") or row.get("turns") or row.get("prompt")
        if isinstance(asked, list):
            turns = [t for t in asked if not isinstance(t, dict) or t.get("role") != "system"]
            asked = turns[0].get("content") if isinstance(turns[0], dict) else turns[0]
        if not isinstance(asked, str):
            raise WRPOError(f"{path}, row {number + 1}: no instruction, turns or prompt; add it")
        yield str(row.get("question_id", row.get("prompt_id", number))), asked


def find_overlap(file: Path, benchmarks: list[Path]) -> list[Row]:
    """A row for each prompt of ``file`` (each id once) and benchmark prompt that overlap."""
    known = [(b.name.split(".")[0], *turn) for b in benchmarks for turn in first_turns(b)]
    sizes, holders = [], defaultdict(list)
    for k, (*_, text) in enumerate(known):
        sizes.append(len(ngrams(text)))
        for gram in ngrams(text):
            holders[gram].append(k)
    found = []
    for prompt_id, text in dict(first_turns(file)).items():
        for k, n in Counter(k for gram in ngrams(text) for k in holders.get(gram, ())).items():
            if n >= SHARE * sizes[k]:
                match = {"prompt_id": prompt_id, "benchmark": known[k][0]}
                found.append({**match, "question_id": known[k][1], "ngram_share": n / sizes[k]})
    return found
