"""Sphinx extension: the site is lean, and its pages keep the rules of HTML and screen readers.

MathJax comes from the package sphinx-mathjax-offline, whose own extension copies 24 MB. Source maps
are for those who change the theme. Every browser that runs the site's scripts reads fonts as WOFF2,
so the same fonts as TTF are left out; the theme's icons come from them, not from a script.
"""

import re
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from sphinx.util.fileutil import copy_asset

FONTS = "output/chtml/fonts/woff-v2"
# A signature over several lines is a definition list without terms, inside a term.
LINES = re.compile(r'<dl>\n((?:<dd><em class="sig-param">.*?</dd>\n)+)</dl>')


def sig_lines(found: re.Match[str]) -> str:
    """The parameters as lines."""
    lines = found[1].replace("<dd>", '<span class="sig-line">').replace("</dd>", "</span>")
    return f'<span class="sig-lines">{lines}</span>'


def mend(_app: Any, _page: str, _template: str, context: dict[str, Any], _tree: Any) -> None:
    """Rewrite the body of one page; the entries of a bibliography are not items of a list."""
    if body := context.get("body"):
        body = LINES.sub(sig_lines, body)
        role = '<div role="list" class="citation-list">'
        context["body"] = body.replace(role, '<div class="citation-list">')


def lean(app: Any, error: Exception | None) -> None:
    """Copy what is used of MathJax, and remove from ``_static`` what no page uses."""
    package = find_spec("sphinx-mathjax-offline")
    if error is not None or app.builder.format != "html" or package is None:
        return
    static = Path(app.outdir) / "_static"
    mathjax = Path(str(package.origin)).parent / "static" / "mathjax"
    copy_asset(str(mathjax / "tex-chtml.js"), str(static / "mathjax"))
    copy_asset(str(mathjax / FONTS), str(static / "mathjax" / FONTS))
    for path in [*static.rglob("*.map"), *static.rglob("*.ttf")]:
        path.unlink()
    icons = "// The icons come from the web fonts in vendor/fontawesome.\n"
    (static / "scripts" / "fontawesome.js").write_text(icons, encoding="utf-8")


def setup(app: Any) -> dict[str, bool]:
    """Register both hooks."""
    app.connect("html-page-context", mend)
    app.connect("build-finished", lean)
    return {"parallel_read_safe": True}
