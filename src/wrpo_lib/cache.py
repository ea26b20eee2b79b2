"""Where things are kept that can be had again: downloads, compiled code."""

from __future__ import annotations

import os
from pathlib import Path


def cache_dir() -> Path:
    """``~/.cache/wrpo`` (``XDG_CACHE_HOME``, if absolute, moves it); it may not exist yet."""
    named = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    return (named if named.is_absolute() else Path.home() / ".cache") / "wrpo"
