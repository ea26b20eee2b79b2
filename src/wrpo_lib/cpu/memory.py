"""The C library's handling of freed memory.

A training step frees gigabytes and asks for them again in the next. By default glibc hands such
memory back to the system, which clears it page by page when it is asked for again; on two cores
that takes up to a third of a step.
"""

from __future__ import annotations

import ctypes
import os
from typing import Any

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_MMAP_MAX = -1, -3, -4  # malloc.h


def keep_freed() -> None:
    """Keep freed memory for the process, whose size then stays at its peak.

    Where steps differ in length the peak goes on growing for a while, by gaps into which nothing
    fits. With glibc, and for what the main thread allocates; elsewhere nothing changes.
    """
    _set({M_MMAP_MAX: 0, M_TRIM_THRESHOLD: -1})  # nothing gets pages of its own; never trim


def give_back() -> None:
    """Let glibc hand freed memory back, as its own rule does once large tensors were freed.

    From 32 MiB on a request has pages of its own, which go back when it is freed, and so do 64 MiB
    that are free at the end. What is free now goes back too.
    """
    library = _set({M_MMAP_MAX: 2**16, M_MMAP_THRESHOLD: 2**25, M_TRIM_THRESHOLD: 2**26})
    if library is not None:
        library.malloc_trim(0)


def _set(options: dict[int, int]) -> Any:
    """Set options of ``mallopt``; the C library, or None where it is not glibc."""
    library: Any = ctypes.CDLL(None) if os.name == "posix" else None
    if not hasattr(library, "mallopt"):
        return None
    for option, value in options.items():
        library.mallopt(option, value)
    return library
