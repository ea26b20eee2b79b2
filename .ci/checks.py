"""Checks of the tree and of the built site that need nothing but the standard library.

    python .ci/checks.py notebooks          no notebook holds outputs
    python .ci/checks.py results            every file the figure map names is there
    python .ci/checks.py slots              no page still has an open slot
    python .ci/checks.py offline SITE       no page of the built site loads anything from a network
    python .ci/checks.py drawn SITE         every figure that a cell names is drawn on its page

Each prints what is wrong, one line a fault, and exits 1.
"""

from __future__ import annotations

import csv
import json
import re
import sys
from html.parser import HTMLParser
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FIGURE_MAP = Path("results/figure_map.csv")

# (tag, attribute) pairs whose address a browser fetches by itself; `a href` waits for a click
LOADING = {
    ("script", "src"),
    ("img", "src"),
    ("img", "srcset"),
    ("source", "src"),
    ("source", "srcset"),
    ("iframe", "src"),
    ("embed", "src"),
    ("object", "data"),
    ("video", "src"),
    ("video", "poster"),
    ("audio", "src"),
    ("image", "href"),
    ("image", "xlink:href"),
    ("use", "href"),
}
LOADING_RELS = {"stylesheet", "preload", "prefetch", "modulepreload", "icon", "preconnect"}
REMOTE = re.compile(r"^\s*(https?:)?//", re.IGNORECASE)
CSS_REMOTE = re.compile(r"""(?:@import\s+(?:url\()?|url\()\s*["']?((?:https?:)?//[^"')\s]+)""")
# what a script can do to load something while the page is read
JS_REMOTE = re.compile(
    r"""(?:import\s*\(\s*|\bfrom\s*|importScripts\s*\(\s*|fetch\s*\(\s*|\.src\s*=\s*)"""
    r"""["'`]((?:https?:)?//[^"'`\s]+)"""
)


def notebook_faults(root: Path) -> list[str]:
    """Code cells with outputs or an execution count, one line a notebook."""
    faults = []
    for path in sorted((root / "notebooks").rglob("*.ipynb")):
        if ".ipynb_checkpoints" in path.parts:
            continue
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        kept = sum(bool(c.get("outputs") or c.get("execution_count")) for c in cells)
        if kept:
            name = path.relative_to(root)
            faults.append(f"{name}: {kept} cells keep outputs or counts; clear them and save again")
    return faults


def result_faults(root: Path) -> list[str]:
    """Data files that results/figure_map.csv names but the tree lacks, or that are empty."""
    figure_map = root / FIGURE_MAP
    if not figure_map.is_file():
        return [f"{FIGURE_MAP}: missing; every figure names its data there"]
    with figure_map.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    if not rows or "data_file" not in rows[0]:
        return [f"{FIGURE_MAP}: has no rows or no column data_file"]
    faults = []
    for number, row in enumerate(rows, start=2):
        data = root / row["data_file"]
        if not data.is_file() or not data.stat().st_size:
            faults.append(f"{FIGURE_MAP} line {number}: {row['data_file']} is missing or empty")
    return faults


def slot_faults(root: Path) -> list[str]:
    """Pages that still hold a comment `SLOT(name): what belongs here`."""
    pages = [root / "README.md", *sorted((root / "book").rglob("*.md"))]
    pages += sorted((root / "notebooks").rglob("*.ipynb"))
    faults = []
    for page in pages:
        for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), start=1):
            if "SLOT(" in line:
                faults.append(f"{page.relative_to(root)} line {number}: {line.strip()}")
    return faults


class _Loads(HTMLParser):
    """Collects the remote addresses that a browser fetches when it opens a page."""

    def __init__(self) -> None:
        super().__init__()
        self.remote: list[str] = []
        self._inline: str | None = None

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        self._inline = tag if tag in ("style", "script") and "src" not in values else None
        for name, value in values.items():
            if (tag, name) in LOADING and REMOTE.match(value):
                self.remote.append(value)
        loads = tag == "link" and LOADING_RELS & set(values.get("rel", "").lower().split())
        if loads and REMOTE.match(values.get("href", "")):
            self.remote.append(values["href"])
        self.remote += CSS_REMOTE.findall(values.get("style", ""))

    def handle_data(self, data: str) -> None:
        if self._inline == "style":
            self.remote += CSS_REMOTE.findall(data)
        elif self._inline == "script":
            self.remote += JS_REMOTE.findall(data)

    def handle_endtag(self, tag: str) -> None:
        self._inline = None


def remote_loads(path: Path) -> list[str]:
    """Remote addresses that one built file makes a browser fetch."""
    text = path.read_text(encoding="utf-8", errors="replace")
    if path.suffix == ".html":
        parser = _Loads()
        parser.feed(text)
        return parser.remote
    return (CSS_REMOTE if path.suffix == ".css" else JS_REMOTE).findall(text)


def offline_faults(site: Path) -> list[str]:
    """Everything under a built site that would need a network to be read."""
    if not (site / "index.html").is_file():
        return [f"{site}: no index.html; build the book first"]
    faults = []
    for path in sorted(site.rglob("*")):
        if path.suffix in {".html", ".css", ".js"} and "_sources" not in path.parts:
            found = sorted(set(remote_loads(path)))
            faults += [f"{path.relative_to(site)}: loads {address}" for address in found]
    return faults


def drawn_faults(site: Path, root: Path) -> list[str]:
    """Figures that a cell's ``mystnb`` metadata names but the built page lacks."""
    faults = []
    for page in [*(root / "notebooks").glob("*.ipynb"), *(root / "book").glob("*.md")]:
        text = page.read_text(encoding="utf-8")
        if page.suffix == ".ipynb":
            found = [c["metadata"].get("mystnb", {}) for c in json.loads(text)["cells"]]
            names = [m["figure"]["name"] for m in found if "figure" in m]
        else:
            names = re.findall(r"^    name: (\S+)$", text, flags=re.MULTILINE)
        built = (site / page.relative_to(root).with_suffix(".html")).read_text(encoding="utf-8")
        for name in names:
            figure = re.search(rf'<figure[^>]* id="{name}".*?</figure>', built, flags=re.DOTALL)
            if figure is None or "<img" not in figure.group():
                faults.append(f"{page.relative_to(root)}: the figure {name!r} is not drawn")
    return faults


def main(arguments: list[str]) -> int:
    """Run the one named check."""
    tree_checks = {"notebooks": notebook_faults, "results": result_faults, "slots": slot_faults}
    match arguments:
        case [name] if name in tree_checks:
            faults = tree_checks[name](ROOT)
        case ["offline", site]:
            faults = offline_faults(Path(site))
        case ["drawn", site]:
            faults = drawn_faults(Path(site), ROOT)
        case _:
            print(__doc__, file=sys.stderr)
            return 2
    for fault in faults:
        print(f"{arguments[0]}: {fault}", file=sys.stderr)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
