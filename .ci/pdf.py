"""Print a page of the book, all of it on one page, with Chromium: `python .ci/pdf.py PAGE PDF`."""

import shutil
import sys
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
FOOTER = (
    '<div style="width:100%;font:8px sans-serif;text-align:center;color:#666">'
    '<span class="pageNumber"></span></div>'
)
MARGIN = {"top": "18mm", "bottom": "18mm", "left": "16mm", "right": "16mm"}
OPEN = "document.querySelectorAll('details').forEach((part) => { part.open = true; })"
# the library's pages are for looking up, not for reading, and are half of the paper
LEAVE_OUT = "document.querySelectorAll('dl.py').forEach((part) => part.closest('section').remove())"


def make_ready(page: Page, address: str) -> None:
    """Open a page as it is to be printed: mathematics set, folded parts open."""
    page.goto(address)
    page.wait_for_function("window.MathJax?.startup?.promise")
    page.evaluate("MathJax.startup.promise")
    page.evaluate(OPEN)
    page.evaluate(LEAVE_OUT)


def main(source: str, target: str) -> None:
    """Print ``source`` into ``target`` with page numbers and an outline."""
    # the Chromium of this machine; without one, Playwright looks for its own
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=browser, args=["--no-sandbox"])
        page = chromium.new_page(color_scheme="light")
        make_ready(page, Path(source).resolve().as_uri())
        page.pdf(
            path=target,
            format="A4",
            margin=MARGIN,
            display_header_footer=True,
            header_template="<span></span>",
            footer_template=FOOTER,
            outline=True,
            tagged=True,
        )
        chromium.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
