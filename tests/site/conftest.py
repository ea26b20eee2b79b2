"""A browser over the built site, with the network off."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, BrowserContext, Error, sync_playwright
from visits import Visit

CHROMIUMS = ("chromium", "chromium-browser", "google-chrome")


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """One Chromium a worker: the machine's, or the one that `playwright install` fetched."""
    found = next(filter(None, map(shutil.which, CHROMIUMS)), None)
    with sync_playwright() as playwright:
        try:
            chromium = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        except Error as error:
            pytest.skip(f"needs Chromium (apt-get install chromium): {error}")
        yield chromium
        chromium.close()


@pytest.fixture
def context(browser: Browser) -> Iterator[BrowserContext]:
    """A fresh profile without a network."""
    context = browser.new_context(offline=True, viewport={"width": 1280, "height": 800})
    yield context
    context.close()


@pytest.fixture
def visit(context: BrowserContext) -> Visit:
    """A page whose console errors and requests beyond the site's files are faults."""
    visit = Visit(context.new_page(), [])

    def note_request(address: str) -> None:
        if not address.startswith(("file:", "data:", "blob:")):
            visit.faults.append(f"asked for {address}")

    def note_message(kind: str, text: str) -> None:
        if kind in {"error", "warning"}:
            visit.faults.append(f"{kind}: {text}")

    visit.page.on("request", lambda request: note_request(request.url))
    visit.page.on("requestfailed", lambda request: visit.faults.append(f"failed: {request.url}"))
    visit.page.on("pageerror", lambda error: visit.faults.append(str(error)))
    visit.page.on("console", lambda message: note_message(message.type, message.text))
    return visit
