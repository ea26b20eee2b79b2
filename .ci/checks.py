"""Checks of the tree and of the built site that need nothing but the standard library.

    python .ci/checks.py notebooks          no notebook holds outputs
    python .ci/checks.py offline SITE       no page of the built site loads anything from a network
    python .ci/checks.py drawn SITE         every figure that a cell names is drawn on its page

Each prints what is wrong, one line a fault, and exits 1.
"""

import json
import re
import sys
from html.parser import HTMLParser
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

# attributes whose address a browser fetches by itself, except on `a`, which waits for a click
LOADING = ("src", "srcset", "poster", "data", "href", "xlink:href")
LOADING_RELS = {"stylesheet", "preload", "prefetch", "modulepreload", "icon", "preconnect"}
REMOTE = re.compile(r"^\s*(https?:)?//", re.IGNORECASE)
CSS_REMOTE = re.compile(r"""(?:@import\s+(?:url\()?|url\()\s*["']?((?:https?:)?//[^"')\s]+)""")
JS_REMOTE = re.compile(  # what a script can do to load something while the page is read
    r"""(?:import\s*\(\s*|\bfrom\s*|importScripts\s*\(\s*|fetch\s*\(\s*|\.src\s*=\s*)"""
    r"""["'`]((?:https?:)?//[^"'`\s]+)"""
)


def notebook_faults(root: Path) -> list[str]:
    """Notebooks with code cells that hold outputs or an execution count."""
    faults = []
    for path in sorted((root / "notebooks").glob("*.ipynb")):
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        if kept := sum(bool(c.get("outputs") or c.get("execution_count")) for c in cells):
            name = path.relative_to(root)
            faults.append(f"{name}: {kept} cells keep outputs or counts; clear them and save again")
    return faults


class _Loads(HTMLParser):
    """Collects the remote addresses that a browser fetches when it opens a page."""

    def __init__(self) -> None:
        super().__init__()
        self.remote: list[str] = []
        self._inline = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        self._inline = tag if "src" not in values else ""
        waits = tag == "link" and not LOADING_RELS & set(values.get("rel", "").lower().split())
        if tag != "a" and not waits:
            self.remote += [v for n, v in values.items() if n in LOADING and REMOTE.match(v)]
        self.remote += CSS_REMOTE.findall(values.get("style", ""))

    def handle_data(self, data: str) -> None:
        patterns = {"style": CSS_REMOTE, "script": JS_REMOTE}
        if self._inline in patterns:
            self.remote += patterns[self._inline].findall(data)

    def handle_endtag(self, tag: str) -> None:
        self._inline = ""


def remote_loads(path: Path) -> list[str]:
    """Remote addresses that one built file makes a browser fetch."""
    text = path.read_text(encoding="utf-8", errors="replace")
    if path.suffix != ".html":
        return (CSS_REMOTE if path.suffix == ".css" else JS_REMOTE).findall(text)
    parser = _Loads()
    parser.feed(text)
    return parser.remote


def offline_faults(site: Path) -> list[str]:
    """Everything under a built site that would need a network to be read."""
    if not (site / "index.html").is_file():
        return [f"{site}: no index.html; build the book first"]
    return [
        f"{path.relative_to(site)}: loads {address}"
        for path in sorted(site.rglob("*"))
        if path.suffix in {".html", ".css", ".js"} and "_sources" not in path.parts
        for address in sorted(set(remote_loads(path)))
    ]


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


def main(name: str = "", site: str = "") -> int:
    """Run the one named check."""
    checks = {
        "notebooks": lambda: notebook_faults(ROOT),
        "offline": lambda: offline_faults(Path(site)),
        "drawn": lambda: drawn_faults(Path(site), ROOT),
    }
    if name not in checks:
        print(__doc__, file=sys.stderr)
        return 2
    faults = checks[name]()
    for fault in faults:
        print(f"{name}: {fault}", file=sys.stderr)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
