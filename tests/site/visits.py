"""The built site and a page of it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

from playwright.sync_api import Page

SITE = (Path(__file__).resolve().parents[2] / os.environ.get("WRPO_SITE", "no-site")).resolve()


class Visit(NamedTuple):
    """An open page and what went wrong while it was read."""

    page: Page
    faults: list[str]

    def open(self, path: Path, query: str = "") -> Page:
        """Open a file and wait for its scripts and its mathematics."""
        self.page.goto(path.as_uri() + query)
        self.page.evaluate("window.MathJax?.startup.promise")
        return self.page
