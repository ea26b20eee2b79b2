"""The SFT third and the preference rest of the prompts, recorded in a file (paper section 4.1)."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from wrpo_lib.errors import WRPOError
from wrpo_lib.io import write_json

SHARE = 1 / 3


@dataclass(frozen=True)
class Split:
    """Which prompts serve SFT and which preference optimisation, and how that was drawn."""

    seed: int
    share: float
    sft: list[str]
    preference: list[str]

    def part(self, name: str) -> list[str]:
        """The prompt ids of ``sft``, ``preference`` or ``all``."""
        parts = {"sft": self.sft, "preference": self.preference, "all": self.sft + self.preference}
        if name not in parts:
            raise WRPOError(f"unknown part {name!r}; choose one of {', '.join(parts)}")
        return parts[name]

    def write(self, path: Path) -> None:
        """Record the split as JSON, atomically."""
        write_json(path, asdict(self))


def split_prompts(
    prompt_ids: Iterable[str], seed: int, share: float = SHARE
) -> tuple[list[str], list[str]]:
    """A random ``share`` for SFT and the rest for preference optimisation.

    The draw depends on the set of ids and the seed alone, never on the order of a file; both parts
    come in the order drawn. The paper states the third, not its seed.
    """
    if not 0 <= share <= 1:
        raise WRPOError(f"the share for SFT is {share}; give one from 0 to 1")
    ids = sorted(set(prompt_ids))
    order = np.random.default_rng(seed).permutation(len(ids))
    cut = round(len(ids) * share)
    return [ids[i] for i in order[:cut]], [ids[i] for i in order[cut:]]


def make_split(prompt_ids: Iterable[str], seed: int, share: float = SHARE) -> Split:
    """:func:`split_prompts` with the record of how it was drawn."""
    return Split(seed, share, *split_prompts(prompt_ids, seed, share))


def read_split(path: Path) -> Split:
    """A recorded split; a file that is none is named."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        split = Split(**values)
    except (json.JSONDecodeError, TypeError) as error:
        raise WRPOError(f"{path} is no recorded split ({error}); make it again") from error
    for name in ("sft", "preference"):
        ids = getattr(split, name)
        if not isinstance(ids, list) or not all(isinstance(i, str) for i in ids):
            raise WRPOError(f"{path}, field {name!r}: not a list of prompt ids; make it again")
    if both := sorted(set(split.sft) & set(split.preference)):
        raise WRPOError(f"{path}: {both[0]!r} stands in both parts; make the split again")
    return split
