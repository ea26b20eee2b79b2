"""What every sampling engine is asked and what it answers.

An engine is any callable from requests to responses. It answers in any order, and fails one
response rather than a whole run.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

from wrpo_lib.chat import Messages
from wrpo_lib.errors import WRPOError


@dataclass(frozen=True)
class Sampling:
    """How to sample (paper section 4.1: five responses, temperature 0.8, top-p 0.95).

    ``max_tokens`` 4096 follows the SimPO pipeline (inferred; the paper is silent). Temperature 0
    is greedy, and then ``n`` is 1. All other seeds follow from ``seed`` and the requests' keys.
    """

    n: int = 5
    temperature: float = 0.8
    top_p: float = 0.95
    max_tokens: int = 4096
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.n, self.max_tokens) < 1 or self.temperature < 0 or not 0 < self.top_p <= 1:
            raise WRPOError(f"{self} is impossible: correct n, max_tokens, temperature or top_p")
        if self.temperature == 0 and self.n != 1:
            raise WRPOError(f"greedy decoding (temperature 0) gives one response, not {self.n}")

    def seed_of(self, key: str, sample: int) -> int:
        """The seed for sample number ``sample`` of ``key``, below 2**31."""
        digest = hashlib.sha256(f"{self.seed}|{sample}|{key}".encode("utf-8", "replace")).digest()
        return int.from_bytes(digest[:4], "big") >> 1


@dataclass(frozen=True)
class Request:
    """A response wanted to one conversation: number ``sample`` of those to ``key``."""

    key: str
    messages: Messages
    sampling: Sampling
    sample: int = 0

    @property
    def seed(self) -> int:
        """The seed of this response, where it gets one of its own."""
        return self.sampling.seed_of(self.key, self.sample)


@dataclass(frozen=True)
class Response:
    """One response, or why there is none (``error``).

    ``n_tokens`` counts the end token and those of a ``thought`` before the text (None: a server did
    not say); ``finish_reason`` is ``stop``, ``length`` (the token limit) or what a server says.
    """

    key: str
    sample: int
    text: str
    n_tokens: int | None
    finish_reason: str
    seed: int
    error: str | None = None
    thought: str = ""

    def row(self) -> dict[str, Any]:
        """The fields of a row of responses that are the response's own."""
        left_out = {"key", "error"} | (set() if self.thought else {"thought"})
        return {name: held for name, held in asdict(self).items() if name not in left_out}


Engine = Callable[[Iterable[Request]], Iterator[Response]]
