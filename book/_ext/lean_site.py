"""Sphinx extension: the site carries the part of its tools that its pages use.

MathJax comes from the package sphinx-mathjax-offline, whose own extension copies 24 MB. Source maps
are for those who change the theme. Every browser that runs the site's scripts reads fonts as WOFF2,
so the same fonts as TTF are left out; the theme's icons come from them, not from a script.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

from sphinx.util.fileutil import copy_asset

FONTS = "output/chtml/fonts/woff-v2"


def lean(app: Any, error: Exception | None) -> None:
    """Copy what is used of MathJax, and remove from ``_static`` what no page uses."""
    package = find_spec("sphinx-mathjax-offline")
    if error is not None or app.builder.format != "html" or package is None:
        return
    static = Path(app.outdir) / "_static"
    mathjax = Path(str(package.origin)).parent / "static" / "mathjax"
    copy_asset(str(mathjax / "tex-chtml.js"), str(static / "mathjax"))
    copy_asset(str(mathjax / FONTS), str(static / "mathjax" / FONTS))
    for kind in ("map", "ttf"):
        for path in static.rglob(f"*.{kind}"):
            path.unlink()
    icons = "// The icons come from the web fonts in vendor/fontawesome.\n"
    (static / "scripts" / "fontawesome.js").write_text(icons, encoding="utf-8")


def setup(app: Any) -> dict[str, bool]:
    """Register the hook."""
    app.connect("build-finished", lean)
    return {"parallel_read_safe": True}
