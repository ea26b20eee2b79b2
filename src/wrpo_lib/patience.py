"""How long to wait before asking a server again, and how many requests may be under way."""

from __future__ import annotations

import asyncio
import random
import time
from typing import Any

FIRST_WAIT, LONGEST_WAIT = 0.5, 60.0  # seconds; the wait doubles with each try
LONGEST_ASKED = 600.0  # a Retry-After beyond this is shortened to it


class Pace:
    """How many requests may be under way now, for all connections together."""

    def __init__(self, most: int) -> None:
        self.most, self.limit = most, float(most)
        self.active = self.served = 0
        self.resume_at = self.last_cut = 0.0
        self.free = asyncio.Event()

    async def enter(self) -> None:
        """Wait for a turn."""
        while True:
            wait = self.resume_at - time.monotonic()
            if wait > 0:
                await asyncio.sleep(wait)
            elif self.active >= int(self.limit):
                self.free.clear()
                await self.free.wait()
            else:
                break
        self.active += 1

    def leave(self) -> None:
        """The turn is over, however it went."""
        self.active -= 1
        self.free.set()

    def success(self) -> None:
        """One request was served: one more may be under way for every ``limit`` of these."""
        self.served += 1
        self.limit = min(self.most, self.limit + 1 / self.limit)
        self.free.set()

    def slow_down(self, wait: float, began: float) -> None:
        """Everybody waits; the limit is halved once for all that were sent before the last cut."""
        now = time.monotonic()
        self.resume_at = max(self.resume_at, now + wait)
        if began >= self.last_cut:
            self.limit, self.last_cut = max(1.0, self.limit / 2), now


def backoff(tries: int) -> float:
    """Doubling wait in seconds, each up to a quarter shorter so that retries spread out."""
    wait: float = min(LONGEST_WAIT, FIRST_WAIT * 2 ** max(0, tries - 1))
    return wait * (1 - random.random() / 4)


def retry_after(headers: Any) -> float | None:
    """Seconds that a Retry-After header asks for, as a number or a date; at most ten minutes."""
    from email.utils import parsedate_to_datetime

    said = headers.get("retry-after")
    if said is None:
        return None
    try:
        return min(LONGEST_ASKED, max(0.0, float(said)))
    except ValueError:
        pass
    try:
        wait = parsedate_to_datetime(said).timestamp() - time.time()
    except ValueError:
        return None
    return min(LONGEST_ASKED, max(0.0, wait))
