"""The C library's handling of freed memory.

A training step frees gigabytes and asks for them again in the next. By default glibc hands such
memory back to the system, which clears it page by page when it is asked for again; on two cores
that takes up to a third of a step.
"""

from __future__ import annotations

import ctypes
import os
from typing import Any

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # malloc.h
MOST = 2**31 - 1


def keep_freed() -> None:
    """Keep freed memory for the process, whose size then stays at its peak.

    With glibc, and for what the main thread allocates; elsewhere nothing changes.
    """
    set_thresholds(mmap=MOST, trim=MOST)


def set_thresholds(*, mmap: int, trim: int) -> None:
    """From how many bytes on a request gets pages of its own, and free memory at the end goes back.

    What is free now goes back too. Without effect where the C library is not glibc.
    """
    library: Any = ctypes.CDLL(None) if os.name == "posix" else None
    if hasattr(library, "mallopt"):
        library.mallopt(M_MMAP_THRESHOLD, mmap)
        library.mallopt(M_TRIM_THRESHOLD, trim)
        library.malloc_trim(0)
