"""Sphinx extension: mends what Sphinx writes against the rules of HTML and of screen readers."""

from __future__ import annotations

import re
from typing import Any

# A signature over several lines is a definition list without terms, inside a term.
LINES = re.compile(r'<dl>\n((?:<dd><em class="sig-param">.*?</dd>\n)+)</dl>')
# Entries of a bibliography are not items of a list.
REFERENCES = '<div role="list" class="citation-list">'


def sig_lines(found: re.Match[str]) -> str:
    """The parameters as lines."""
    lines = found[1].replace("<dd>", '<span class="sig-line">').replace("</dd>", "</span>")
    return f'<span class="sig-lines">{lines}</span>'


def mend(_app: Any, _page: str, _template: str, context: dict[str, Any], _tree: Any) -> None:
    """Rewrite the body of one page."""
    if body := context.get("body"):
        body = LINES.sub(sig_lines, body)
        context["body"] = body.replace(REFERENCES, '<div class="citation-list">')


def setup(app: Any) -> dict[str, bool]:
    """Register the hook."""
    app.connect("html-page-context", mend)
    return {"parallel_read_safe": True}
