"""A browser over the built site, with the network off."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Error, Page, sync_playwright

CHROMIUMS = ("chromium", "chromium-browser", "google-chrome")


@pytest.fixture(scope="module")  # its event loop must be gone before other tests start theirs
def browser() -> Iterator[Browser]:
    """The Chromium of this machine, or the one that `playwright install` fetched."""
    found = next(filter(None, map(shutil.which, CHROMIUMS)), None)
    with sync_playwright() as playwright:
        try:
            chromium = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        except Error as error:
            pytest.skip(f"needs Chromium (apt-get install chromium): {error}")
        yield chromium
        chromium.close()


@pytest.fixture
def faults() -> list[str]:
    """What goes wrong while pages are read, and requests beyond the site's files."""
    return []


@pytest.fixture
def visit(browser: Browser, faults: list[str]) -> Iterator[Callable[..., Page]]:
    """Opens a file in a fresh profile, and waits for its scripts and its mathematics."""

    def note(when: bool, text: str) -> None:
        if when:
            faults.append(text)

    size = {"width": 1280, "height": 800}
    # colours change at once, not in a transition that axe would see the middle of
    context = browser.new_context(offline=True, viewport=size, reduced_motion="reduce")
    page, local = context.new_page(), ("file:", "data:", "blob:")
    page.on("request", lambda r: note(not r.url.startswith(local), f"asked for {r.url}"))
    page.on("requestfailed", lambda r: note(True, f"failed: {r.url}"))
    page.on("pageerror", lambda error: note(True, str(error)))
    page.on("console", lambda m: note(m.type in {"error", "warning"}, f"{m.type}: {m.text}"))

    def open_file(path: Path, query: str = "") -> Page:
        page.goto(path.as_uri() + query)
        page.evaluate("window.MathJax?.startup.promise")
        return page

    yield open_file
    context.close()
