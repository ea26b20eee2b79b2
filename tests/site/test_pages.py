"""Every page of the built site, as a reader without a network meets it."""

import os
import re
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page

SITE = (Path(__file__).resolve().parents[2] / os.environ.get("WRPO_SITE", "no-site")).resolve()
pytestmark = pytest.mark.skipif(
    not SITE.is_dir(), reason="needs a built site: `make site-test` builds it and sets WRPO_SITE"
)

# each page but the listings of code, which are all alike, and the first, which leads to book/index
PAGES = [path for path in SITE.glob("*.html") if path.name != "index.html"]
PAGES += [*SITE.glob("book/**/*.html"), *SITE.glob("notebooks/*.html")]
OPTIONS = {"resultTypes": ["violations"], "preload": False}  # of axe; it cannot fetch from file://
# code, formulas, signatures and contents are thousands of parts that look alike everywhere: axe
# reads them on two pages only, which have all of them
ALIKE = ".highlight, mjx-container, .sig, .bd-sidebar-primary"
READ_WHOLE = ("03_internal_reward_dynamics.html", "generation.html")
COLOURS = ("color-contrast", "link-in-text-block")  # the rules that differ from theme to theme
THEMES = ("light", "dark")
LAYOUTS = [("light", 1100), *product(THEMES, (360, 1280))]

# what reaches over the right edge and is not inside something that scrolls or folds
WIDE = """() => [...document.querySelectorAll('body *')].filter((node) => {
    const box = node.getBoundingClientRect();
    if (!box.width || box.right <= innerWidth + 1) return false;
    for (let at = node; at !== document.body; at = at.parentElement) {
        const { overflowX, position } = getComputedStyle(at);
        if ((at !== node && overflowX !== 'visible') || position === 'fixed') return false;
    }
    return true;
}).map((node) => `${node.tagName} ${node.className}`)"""
CLIPPED = """() => [...document.querySelectorAll('.bd-article pre')]
    .filter((pre) => pre.scrollWidth > pre.clientWidth + 1).map((pre) => pre.innerText)"""
UNSET = """() => [...document.querySelectorAll('.bd-article .math')]
    .filter((math) => !math.querySelector('mjx-container') || math.querySelector('mjx-merror'))
    .map((math) => math.innerText)"""
# of the texts that have colours, ground and size in common, axe judges the colours of the first
MARK_KINDS = """() => {
    const seen = new Set();
    for (const node of document.querySelectorAll('body *')) {
        node.removeAttribute('data-kind');
        const texts = [...node.childNodes].filter((child) => child.nodeType === 3);
        const shown = node.checkVisibility() && node.offsetWidth > 1;
        if (!shown || !texts.some((text) => text.data.trim())) continue;
        const { color, fontSize, fontWeight } = getComputedStyle(node);
        const around = getComputedStyle(node.parentNode).color;
        const look = new Set([color, fontSize, fontWeight, around]);
        for (let at = node; at !== document.body; at = at.parentNode) {
            const { opacity, background, backgroundColor } = getComputedStyle(at);
            look.add(opacity + background);
            if (backgroundColor.startsWith('rgb(')) break;
        }
        const kind = [...look].join();
        if (!seen.has(kind)) node.setAttribute('data-kind', '');
        seen.add(kind);
    }
}"""
# scripts and frames that a cell displayed; data of widgets is neither
ACTIVE = ".cell_output :is(script:not([type*='json']), iframe, [onerror])"


def names(path: Path) -> str:
    return str(path.relative_to(SITE))


def show(page: Page, theme: str, width: int) -> None:
    page.evaluate("(theme) => { document.documentElement.dataset.theme = theme; }", theme)
    page.set_viewport_size({"width": width, "height": 800})


def grave(page: Page, where: dict[str, Any] | None, rules: dict[str, Any]) -> list[tuple[str, str]]:
    """The serious faults that axe finds, each with the first part of the page that has it."""
    found = Axe().run(page, where, OPTIONS | rules).response["violations"]
    found = [fault for fault in found if fault["impact"] in {"serious", "critical"}]
    return [(fault["id"], fault["nodes"][0]["html"]) for fault in found]


@pytest.mark.parametrize("path", PAGES, ids=names)
def test_a_page_is_whole_at_all_widths_in_both_themes_and_its_sliders_move(
    path: Path, visit: Callable[..., Page], faults: list[str]
) -> None:
    page = visit(path)
    assert page.evaluate(UNSET) == []
    assert page.locator(ACTIVE).count() == 0
    for theme, width in LAYOUTS:
        show(page, theme, width)
        assert page.evaluate(WIDE) == [], f"{theme}, {width} px"
        assert page.evaluate(CLIPPED) == [], f"{theme}, {width} px"
    for place in page.locator("[data-widget]").all():
        for slider in place.locator("input[type=range]").all():
            before = place.inner_html()
            slider.press("End")
            slider.press("ArrowLeft")
            assert place.inner_html() != before
    if path.name not in READ_WHOLE:
        page.add_style_tag(content=f":is({ALIKE}) {{ display: none !important; }}")
    for theme in THEMES:
        show(page, theme, 1280)
        page.evaluate(MARK_KINDS)
        kinds = {"include": [["[data-kind]"]]}
        assert grave(page, kinds, {"runOnly": COLOURS}) == [], theme
    others = {"rules": {rule: {"enabled": False} for rule in COLOURS}}
    assert grave(page, None, others) == []
    assert faults == []


def test_every_link_within_the_site_leads_somewhere() -> None:
    broken = []
    for path in PAGES:
        text = path.read_text(encoding="utf-8")
        assert text.count("<figcaption") == text.count('class="figure-links"'), path
        linked = text.count(">SVG</a>") + text.count(">Code and data</a>")
        assert linked == text.count('class="figure-links"'), path
        for address in re.findall(r'(?:href|src)="([^"#?]+)[^"]*"', text):
            if not re.match(r"[a-z]+:", address) and not (path.parent / unquote(address)).exists():
                broken.append(f"{names(path)}: {address}")
    assert broken == []


def test_the_site_is_small_and_no_page_waits_for_much() -> None:
    files = [path for path in SITE.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 15e6
    for path in PAGES:
        text = path.read_text(encoding="utf-8")
        loads = re.findall(
            r'<(?:script|link|img)[^>]*(?:src|href)="([^"#?:]+\.(?:js|css|png|svg))', text
        )
        sizes = {load: (path.parent / load).stat().st_size for load in loads}
        assert sum(sizes.values()) + len(text) < 4e6, (names(path), sizes)


def test_search_finds_the_fusion_coefficient(visit: Callable[..., Page], faults: list[str]) -> None:
    page = visit(SITE / "search.html", "?q=fusion+coefficient")
    page.wait_for_selector("#search-results p.search-summary:has-text('found')")
    found = page.locator("#search-results li a").evaluate_all("links => links.map((a) => a.href)")
    pages = {address.partition("#")[0].partition("?")[0].rpartition("/")[2] for address in found}
    assert {"method.html", "glossary.html"} <= pages
    # the excerpts beside the results are fetched, which a browser allows on a server only
    assert [fault for fault in faults if fault.startswith("asked for")] == []


def test_without_scripts_and_in_print_nothing_is_lost(browser: Browser) -> None:
    context = browser.new_context(java_script_enabled=False, offline=True)
    page = context.new_page()
    page.goto((SITE / "book" / "claims.html").as_uri())
    page.emulate_media(media="print")
    assert page.locator(".bd-article table").first.is_visible()
    assert not page.locator(".bd-sidebar-primary").is_visible()
    context.close()
