"""Prompts that overlap with the prompts of a benchmark: by word n-grams and as near-duplicates.

The paper does not say whether its prompts were checked; the rules are ours, with common values. A
prompt is reported when it holds at least 70 % of a benchmark prompt's 8-grams of words (the rule of
PaLM's contamination analysis), or when the Jaccard similarity of both prompts' 5-grams of
characters is at least 0.7. A benchmark prompt of fewer than eight words counts as found by n-grams
only when the whole prompt is the same, since a few common words prove nothing.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from wrpo_lib.errors import WRPOError
from wrpo_lib.io import iter_rows

WORDS, CHARACTERS = 8, 5
SHARE, SIMILARITY = 0.7, 0.7
PERMUTATIONS = 128
_WORD = re.compile(r"\w+")


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
    return _WORD.findall(text.lower())


def _word_ngrams(text: str) -> set[str]:
    """All n-grams of words; the whole text as one if it has fewer than n words."""
    found = words(text)
    if len(found) < WORDS:
        return {"^ " + " ".join(found) + " $"} if found else set()
    return {" ".join(found[i : i + WORDS]) for i in range(len(found) - WORDS + 1)}


def _shingles(text: str) -> np.ndarray:
    """Hashes of all n-grams of characters, each once (uint32)."""
    clean = " ".join(words(text))
    codes = np.frombuffer(clean.encode("utf-32-le"), np.uint32).astype(np.uint64)
    if len(codes) < CHARACTERS:
        codes = np.pad(codes, (0, CHARACTERS - len(codes)))
    found = np.zeros(len(codes) - CHARACTERS + 1, np.uint64)
    for k in range(CHARACTERS):
        found = found * np.uint64(1_000_003) + codes[k : len(found) + k]
    found ^= found >> np.uint64(29)
    found *= np.uint64(0xBF58476D1CE4E5B9)  # splitmix64's finaliser spreads the polynomial
    return np.unique((found >> np.uint64(32)).astype(np.uint32))


def jaccard(a: np.ndarray, b: np.ndarray) -> float:
    """Size of the intersection over that of the union of two sorted sets."""
    common = len(np.intersect1d(a, b, assume_unique=True))
    return common / (len(a) + len(b) - common)


class Benchmarks:
    """An index of benchmark prompts that finds the prompts overlapping with them."""

    def __init__(self, prompts: list[BenchmarkPrompt]) -> None:
        from datasketch import MinHash, MinHashLSH

        self.prompts = prompts
        self.grams = [_word_ngrams(p.text) for p in prompts]
        self.shingles = [_shingles(p.text) for p in prompts]
        self.holders: dict[str, list[int]] = defaultdict(list)
        for k, grams in enumerate(self.grams):
            for gram in grams:
                self.holders[gram].append(k)
        # candidates only: exact similarity decides, so the index may be more generous
        self.blank = MinHash(num_perm=PERMUTATIONS, seed=1, hashfunc=int)
        self.index = MinHashLSH(threshold=SIMILARITY - 0.1, num_perm=PERMUTATIONS)
        for k, shingles in enumerate(self.shingles):
            self.index.insert(k, self._minhash(shingles))

    def matches(self, prompt_id: str, text: str) -> Iterator[Match]:
        """All benchmark prompts that ``text`` overlaps with."""
        grams, shingles = _word_ngrams(text), _shingles(text)
        if not grams:
            return
        shared = Counter(k for gram in grams for k in self.holders.get(gram, ()))
        similar = set(self.index.query(self._minhash(shingles)))
        for k in sorted(similar | set(shared)):
            share = shared[k] / max(len(self.grams[k]), 1)
            similarity = jaccard(shingles, self.shingles[k])
            by = ["n-grams"] * (share >= SHARE) + ["near-duplicate"] * (similarity >= SIMILARITY)
            if by:
                found = self.prompts[k]
                yield Match(prompt_id, found.benchmark, found.question_id,
                            round(share, 4), round(similarity, 4), " and ".join(by))  # fmt: skip

    def _minhash(self, shingles: np.ndarray) -> Any:
        made = self.blank.copy()  # the permutations are drawn once
        made.update_batch(shingles.tolist())
        return made


def find_overlap(
    rows: Iterable[dict[str, Any]], benchmarks: Benchmarks, where: str
) -> tuple[list[Match], int]:
    """The overlaps of the prompts in ``rows`` (each prompt_id once), and the number of prompts."""
    seen: set[str] = set()
    found: list[Match] = []
    for number, row in enumerate(rows, 1):
        prompt_id, text = row.get("prompt_id"), prompt_text(row)
        for name, value in (("prompt_id", prompt_id), ("prompt", text)):
            if not isinstance(value, str):
                raise WRPOError(f"{where}, row {number}, field {name!r}: missing; add it")
        if prompt_id in seen:
            continue
        seen.add(str(prompt_id))
        found += benchmarks.matches(str(prompt_id), str(text))
    return found, len(seen)
