"""What every sampling engine is asked and what it answers.

An engine is any callable from requests to responses: it draws requests lazily, answers in any
order, and fails one response rather than a whole run. Text in, text out: tokenizer and chat
template are the engine's own business, so models that share neither can be sampled alike.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from wrpo_lib.chat import Messages
from wrpo_lib.errors import WRPOError

SIMPO_SEEDS = (13, 21, 42, 79, 100)
"""One seed per sample, the same for every prompt: princeton-nlp/SimPO, on_policy_data_gen."""


@dataclass(frozen=True)
class Sampling:
    """How to sample (paper section 4.1: five responses, temperature 0.8, top-p 0.95).

    ``max_tokens`` 4096 follows the SimPO pipeline (inferred; the paper is silent). Temperature 0
    is greedy, and then ``n`` is 1. ``seeds`` fixes the seed of each sample for all prompts, as
    :data:`SIMPO_SEEDS` does; without it seeds are derived from ``seed`` and the requests' keys.
    """

    n: int = 5
    temperature: float = 0.8
    top_p: float = 0.95
    max_tokens: int = 4096
    seed: int = 0
    seeds: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.n < 1 or self.max_tokens < 1:
            raise WRPOError(f"n {self.n} and max_tokens {self.max_tokens} must be at least 1")
        if self.temperature < 0 or not 0 < self.top_p <= 1:
            raise WRPOError(
                f"temperature {self.temperature} must not be negative, top_p {self.top_p} must be "
                "above 0 and at most 1"
            )
        if self.temperature == 0 and self.n != 1:
            raise WRPOError(f"greedy decoding (temperature 0) gives one response, not {self.n}")
        if 0 < len(self.seeds) < self.n:
            raise WRPOError(
                f"{len(self.seeds)} seeds for n = {self.n} samples; give one per sample"
            )

    def seed_of(self, key: str, sample: int) -> int:
        """The seed for sample number ``sample`` of ``key``, below 2**31."""
        if self.seeds:
            return self.seeds[sample]
        digest = hashlib.sha256(f"{self.seed}|{sample}|{key}".encode("utf-8", "replace")).digest()
        return int.from_bytes(digest[:4], "big") >> 1


@dataclass(frozen=True)
class Request:
    """Responses wanted to one conversation: the numbers in ``samples``, by default all ``n``."""

    key: str
    messages: Messages
    sampling: Sampling
    samples: tuple[int, ...] | None = None

    @property
    def wanted(self) -> tuple[int, ...]:
        """The numbers of the samples to make."""
        return tuple(range(self.sampling.n)) if self.samples is None else self.samples

    def failed(self, why: str) -> list[Response]:
        """Every response wanted, as failed for the reason ``why``."""
        seed_of = self.sampling.seed_of
        return [
            Response(self.key, k, "", 0, "error", seed_of(self.key, k), why) for k in self.wanted
        ]


@dataclass(frozen=True)
class Response:
    """One response, or why there is none (``error``).

    ``n_tokens`` counts the end token (None where a server does not say); ``finish_reason`` is
    ``stop``, or ``length`` at the token limit, or what a server says; ``seed`` is what the
    generator that made it was seeded with.
    """

    key: str
    sample: int
    text: str
    n_tokens: int | None
    finish_reason: str
    seed: int
    error: str | None = None

    def row(self) -> dict[str, Any]:
        """The fields of a row of responses that are the response's own."""
        names = ("sample", "text", "n_tokens", "finish_reason", "seed")
        return {name: getattr(self, name) for name in names}


Engine = Callable[[Iterable[Request]], Iterator[Response]]
