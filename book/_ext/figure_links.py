"""Sphinx extension: the caption of every drawn figure ends in a link to the map of figures.

From there it is one step to the function that draws it and to its data.
"""

from __future__ import annotations

from typing import Any

from docutils import nodes

MAP, ANCHOR = "book/claims", "figure-map"


def link_captions(app: Any, doctree: nodes.document, page: str) -> None:
    """Append the link to each caption, once all references are resolved."""
    for caption in doctree.findall(nodes.caption):
        if isinstance(caption.parent, nodes.figure):
            address = f"{app.builder.get_relative_uri(page, MAP)}#{ANCHOR}"
            link = nodes.reference("", "Code and data", refuri=address, internal=True)
            caption += [nodes.Text(" "), link, nodes.Text(".")]


def setup(app: Any) -> dict[str, bool]:
    """Register the hook."""
    app.connect("doctree-resolved", link_captions)
    return {"parallel_read_safe": True}
