"""Sphinx extension: docstrings may use mathematics as people write it.

``|y|`` and ``a*b`` are markup in reStructuredText. In our docstrings they are a length and a
product, so outside double backticks and roles they are escaped before Sphinx reads them.
"""

from __future__ import annotations

import re
from typing import Any

MARKED_UP = re.compile(r"(``.+?``|:[a-z:]+:`.+?`)")
SPECIAL = re.compile(r"([|*])")


def escape(line: str) -> str:
    """Escape bars and stars in the parts of a line that are neither literal nor a role."""
    parts = MARKED_UP.split(line)
    parts[::2] = [SPECIAL.sub(r"\\\1", part) for part in parts[::2]]
    return "".join(parts)


def escape_docstring(*event: Any) -> None:
    """Rewrite the docstring lines, the event's last argument, in place."""
    lines = event[-1]
    lines[:] = [escape(line) for line in lines]


def skip_field_alias(_app: Any, _what: str, _name: str, obj: Any, *_rest: Any) -> bool | None:
    """Leave out what NamedTuple writes on its fields; the class's docstring describes them."""
    return True if str(obj.__doc__).startswith("Alias for field number") else None


def setup(app: Any) -> dict[str, bool]:
    """Register both hooks before napoleon adds markup of its own."""
    app.setup_extension("sphinx.ext.autodoc")
    app.connect("autodoc-process-docstring", escape_docstring, priority=400)
    app.connect("autodoc-skip-member", skip_field_alias)
    return {"parallel_read_safe": True}
