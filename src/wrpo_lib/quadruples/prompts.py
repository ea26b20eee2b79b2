"""Prompts: read from files, split into the SFT third and the rest, compared with benchmarks'.

The split is the paper's (section 4.1). It does not say whether its prompts were checked against the
benchmarks; one overlaps here when it holds at least 70 % of a benchmark prompt's 8-grams of words
(the rule of PaLM's contamination analysis). A benchmark prompt of fewer than eight words must be
the whole prompt, since a few common words prove nothing.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from wrpo_lib.chat import Messages, as_messages
from wrpo_lib.errors import WRPOError
from wrpo_lib.io import Row, iter_rows, parse_row
from wrpo_lib.quadruples.schema import as_turns, require

N, SHARE = 8, 0.7  # words of an n-gram, and how many of a benchmark prompt's must be found


def read_prompts(path: str | Path) -> Iterator[tuple[str, Messages]]:
    """(prompt_id, messages) of every row, one at a time; other fields are ignored.

    ``prompt`` may be messages or text, which is then one user turn; text that went through a chat
    template already is refused, since every model has a template of its own. A repeated id is an
    error, but in a file of responses (which has a ``sample`` field) the prompt may repeat with it.
    """
    seen: dict[str, Messages] = {}
    for number, row in enumerate(iter_rows(path), 1):
        require(row, number, "prompts", str(path))
        messages = as_messages(row.get("prompt"), f"{path}, row {number}")
        first = seen.setdefault(row["prompt_id"], messages)
        if first is messages:
            yield row["prompt_id"], messages
        elif "sample" not in row or first != messages:
            what = f"{row['prompt_id']!r} stands in an earlier row already; make ids unique"
            raise WRPOError(f"{path}, row {number}, field 'prompt_id': {what}")


@dataclass(frozen=True)
class Split:
    """Which prompts serve SFT and which preference optimisation, and how that was drawn."""

    seed: int
    share: float
    sft: list[str]
    preference: list[str]

    def part(self, name: str) -> list[str]:
        """The prompt ids of ``sft``, ``preference`` or ``all``."""
        return self.sft + self.preference if name == "all" else list(getattr(self, name))


def make_split(prompt_ids: Iterable[str], seed: int, share: float = 1 / 3) -> Split:
    """A random ``share`` for SFT and the rest for preference optimisation.

    The draw depends on the set of ids and the seed alone, never on the order of a file; both parts
    come in the order drawn. The paper states the third, not its seed.
    """
    if not 0 <= share <= 1:
        raise WRPOError(f"the share for SFT is {share}; give one from 0 to 1")
    ids = sorted(set(prompt_ids))
    drawn = [ids[i] for i in np.random.default_rng(seed).permutation(len(ids))]
    cut = round(len(ids) * share)
    return Split(seed, share, drawn[:cut], drawn[cut:])


def read_split(path: Path) -> Split:
    """A recorded split; a file that is none is named."""
    try:
        return Split(**parse_row(path.read_bytes(), str(path)))
    except (OSError, TypeError) as error:
        raise WRPOError(f"{path} is no recorded split ({error}); draw one") from error


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
        turns = as_turns(row.get("instruction") or row.get("turns") or row.get("prompt"))
        asked = next((turn["content"] for turn in turns if turn["role"] != "system"), None)
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
