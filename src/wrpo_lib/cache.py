"""Where things are kept that can be had again: downloads, compiled code."""

from __future__ import annotations

import os
from pathlib import Path


def cache_dir() -> Path:
    """``~/.cache/wrpo`` (``XDG_CACHE_HOME`` moves it); it may not exist yet."""
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "wrpo"
