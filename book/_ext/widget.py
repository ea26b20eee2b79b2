"""Sphinx extension: a picture with a slider, over data that the page carries.

    :::{widget} alpha
    :data: wrpo_lib.figures.method.rewards
    What stands here is shown without scripts and in print.
    :::

``data`` names a function of the library that takes nothing; what it returns becomes JSON in the
page. ``book/_static/widgets.js`` draws it and says what form each widget expects.
"""

from __future__ import annotations

import json
from typing import Any

from docutils import nodes
from docutils.parsers.rst import directives
from sphinx.util import import_object
from sphinx.util.docutils import SphinxDirective


class Widget(SphinxDirective):
    """A container with the data and, as its content, the picture that does not move."""

    required_arguments = 1
    has_content = True
    option_spec = {"data": directives.unchanged_required}

    def run(self) -> list[nodes.Node]:
        """The container; the script finds it by its class."""
        data = json.dumps(import_object(self.options["data"])()).replace("<", "\\u003c")
        script = f'<script type="application/json">{data}</script>'
        still = nodes.container(classes=["widget-still"])
        self.state.nested_parse(self.content, self.content_offset, still)
        box = nodes.container(classes=["widget", f"widget-{self.arguments[0]}"])
        box += [nodes.raw("", script, format="html"), still]
        return [box]


def setup(app: Any) -> dict[str, bool]:
    """Register the directive."""
    app.add_directive("widget", Widget)
    return {"parallel_read_safe": True}
