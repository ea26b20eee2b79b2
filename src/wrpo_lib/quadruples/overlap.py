"""Prompts that overlap with the prompts of a benchmark: by word n-grams and as near-duplicates.

The paper does not say whether its prompts were checked; the rules are ours, with common values. A
prompt is reported when it holds at least 70 % of a benchmark prompt's 8-grams of words (the rule of
PaLM's contamination analysis), or when the Jaccard similarity of both prompts' 5-grams of
characters is at least 0.7. A benchmark prompt of fewer than eight words counts as found by n-grams
only when the whole prompt is the same, since a few common words prove nothing.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from wrpo_lib.errors import WRPOError
from wrpo_lib.io import iter_rows

WORDS, CHARACTERS = 8, 5
SHARE, SIMILARITY = 0.7, 0.7
BLOCK = 1000  # prompts compared at a time


class BenchmarkPrompt(NamedTuple):
    """One prompt of a benchmark: its first turn."""

    benchmark: str
    question_id: str
    text: str


@dataclass(frozen=True)
class Match:
    """A prompt and the benchmark prompt it overlaps with.

    ``ngram_share`` is the share of the benchmark prompt's word n-grams that the prompt holds,
    ``similarity`` the Jaccard similarity of both, both exact and from 0 to 1.
    """

    prompt_id: str
    benchmark: str
    question_id: str
    ngram_share: float
    similarity: float
    found_by: str


def read_benchmark(path: Path) -> list[BenchmarkPrompt]:
    """The prompts of a benchmark file: alpaca_eval outputs, MT-Bench or Arena-Hard questions.

    Rows need ``instruction``, ``turns`` (texts or objects with ``content``) or ``prompt``; an id is
    taken from ``question_id`` or ``prompt_id``, otherwise it is the row number from 0, which is how
    AlpacaEval counts.
    """
    found = []
    name = path.name.split(".")[0]
    for number, row in enumerate(iter_rows(path)):
        text = prompt_text(row)
        if text is None:
            raise WRPOError(
                f"{path}, row {number + 1}: has no instruction, turns or prompt; name another file"
            )
        asked = row.get("question_id", row.get("prompt_id", number))
        found.append(BenchmarkPrompt(name, str(asked), text))
    if not found:
        raise WRPOError(f"{path} has no rows; name another benchmark file")
    return found


def prompt_text(row: dict[str, Any]) -> str | None:
    """What is asked first in a row of any of the known formats; None if nothing is."""
    if isinstance(row.get("instruction"), str):
        return str(row["instruction"])
    asked = row.get("turns") or row.get("prompt")
    if isinstance(asked, list) and asked:
        user = [m for m in asked if not isinstance(m, dict) or m.get("role", "user") == "user"]
        asked = user[0] if user else None
    if isinstance(asked, dict):
        asked = asked.get("content")
    return asked if isinstance(asked, str) else None


def words(text: str) -> list[str]:
    """The words of a text in lower case, without punctuation."""
    return re.findall(r"\w+", text.lower())


def word_ngrams(text: str) -> set[str]:
    """All n-grams of words; the whole text as one if it has fewer than n words."""
    found = words(text)
    if len(found) < WORDS:
        return {"^ " + " ".join(found) + " $"} if found else set()
    return {" ".join(found[i : i + WORDS]) for i in range(len(found) - WORDS + 1)}


def character_ngrams(text: str) -> set[str]:
    """All n-grams of the characters of a text's words."""
    clean = " ".join(words(text))
    return {clean[i : i + CHARACTERS] for i in range(max(len(clean) - CHARACTERS + 1, 1))}


class Benchmarks:
    """An index of benchmark prompts that finds the prompts overlapping with them."""

    def __init__(self, prompts: list[BenchmarkPrompt]) -> None:
        self.prompts = prompts
        texts = [prompt.text for prompt in prompts]
        self.words, self.characters = _Index(texts, word_ngrams), _Index(texts, character_ngrams)

    def matches(self, prompts: dict[str, str]) -> list[Match]:
        """All benchmark prompts that each of ``prompts``, by id, overlaps with."""
        ids, texts = list(prompts), list(prompts.values())
        (common, _), (shared, sizes) = self.words.shared(texts), self.characters.shared(texts)
        share = common / np.maximum(self.words.sizes, 1)
        similarity = shared / (sizes[:, None] + self.characters.sizes - shared)
        similarity[[not words(text) for text in texts]] = 0
        found = []
        for p, b in np.argwhere((share >= SHARE) | (similarity >= SIMILARITY)):
            ngrams, both = float(share[p, b]), float(similarity[p, b])
            by = ["n-grams"] * (ngrams >= SHARE) + ["near-duplicate"] * (both >= SIMILARITY)
            benchmark, question_id, _ = self.prompts[b]
            values = round(ngrams, 4), round(both, 4), " and ".join(by)
            found.append(Match(ids[p], benchmark, question_id, *values))
        return found


class _Index:
    """Which texts hold which n-grams."""

    def __init__(self, texts: list[str], ngrams: Callable[[str], set[str]]) -> None:
        from sklearn.feature_extraction.text import CountVectorizer

        self.ngrams = ngrams
        self.vectorizer = CountVectorizer(analyzer=lambda grams: grams)
        found = [ngrams(text) for text in texts]
        self.holders = self.vectorizer.fit_transform(found).T.tocsr()
        self.sizes = np.array([len(grams) for grams in found])

    def shared(self, texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
        """How many n-grams each of ``texts`` shares with each known text, and how many it has."""
        found = [self.ngrams(text) for text in texts]
        counts = (self.vectorizer.transform(found) @ self.holders).toarray()
        return counts, np.array([len(grams) for grams in found])


def find_overlap(
    rows: Iterable[dict[str, Any]], benchmarks: Benchmarks, where: str
) -> tuple[list[Match], int]:
    """The overlaps of the prompts in ``rows`` (each prompt_id once), and the number of prompts."""
    prompts: dict[str, str] = {}
    for number, row in enumerate(rows, 1):
        prompt_id, text = row.get("prompt_id"), prompt_text(row)
        for name, value in (("prompt_id", prompt_id), ("prompt", text)):
            if not isinstance(value, str):
                raise WRPOError(f"{where}, row {number}, field {name!r}: missing; add it")
        prompts.setdefault(str(prompt_id), str(text))
    found: list[Match] = []
    items = list(prompts.items())
    for start in range(0, len(items), BLOCK):
        found += benchmarks.matches(dict(items[start : start + BLOCK]))
    return found, len(prompts)
