"""Sphinx extension: ``.. autopackage:: wrpo_lib.training`` documents each module of a package.

The pages of the library follow the code by themselves: a new module appears, a removed one goes.
``|y|`` and ``a*b`` are markup in reStructuredText; in our docstrings they are a length and a
product, so outside double backticks and roles they are escaped before Sphinx reads them.
"""

import importlib
import pkgutil
import re
from typing import Any

from docutils import nodes
from docutils.parsers.rst import Directive
from docutils.statemachine import StringList

import wrpo_lib

LONGEST_SIGNATURE = 2000  # characters; the training configurations take every option of TRL's
MARKED_UP = re.compile(r"(``.+?``|:[a-z:]+:`.+?`)")


class AutoPackage(Directive):
    """The docstring of a package, then the public members of each of its public modules."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """One ``automodule`` a module, in alphabetical order."""
        name = self.arguments[0]
        modules = [
            f"{name}.{found.name}"
            for found in pkgutil.iter_modules(importlib.import_module(name).__path__)
            if not found.ispkg and not found.name.startswith("_")
        ]
        lines = [f".. automodule:: {name}", *([] if modules else ["   :members:"])]
        for module in modules:
            lines += ["", f".. rubric:: {module}", "", f".. automodule:: {module}", "   :members:"]
        parent = nodes.container()
        self.state.nested_parse(StringList(lines, source=name), self.content_offset, parent)
        return parent.children


def escape_docstring(*event: Any) -> None:
    """Escape bars and stars in the docstring's lines, the event's last argument, in place."""
    for number, line in enumerate(event[-1]):
        parts = MARKED_UP.split(line)  # literals and roles are every second one
        parts[::2] = [re.sub(r"([|*])", r"\\\1", part) for part in parts[::2]]
        event[-1][number] = "".join(parts)


def short_signature(*event: Any) -> tuple[str, str | None] | None:
    """Leave out a signature that nobody reads."""
    signature, returns = event[-2:]
    return ("(**fields)", returns) if len(signature or "") > LONGEST_SIGNATURE else None


def skip_field_alias(_app: Any, _what: str, _name: str, obj: Any, *_rest: Any) -> bool | None:
    """Leave out what NamedTuple writes on its fields; the class's docstring describes them."""
    return True if str(obj.__doc__).startswith("Alias for field number") else None


def import_library(_app: Any, _env: Any, pages: list[str]) -> None:
    """Import every module once, before pages are executed and read by processes of their own.

    Each that reads takes every third page: the library's pages, side by side, would fall to one.
    """
    for found in pkgutil.walk_packages(wrpo_lib.__path__, "wrpo_lib."):
        importlib.import_module(found.name)
    pages[:] = [*pages[::3], *pages[1::3], *pages[2::3]]


def setup(app: Any) -> dict[str, bool]:
    """Register the directive and the hooks, the escaping before napoleon adds its own markup."""
    app.setup_extension("sphinx.ext.autodoc")
    app.connect("env-before-read-docs", import_library, priority=100)  # before fresh_results
    app.add_directive("autopackage", AutoPackage)
    app.connect("autodoc-process-docstring", escape_docstring, priority=400)
    app.connect("autodoc-process-signature", short_signature)
    app.connect("autodoc-skip-member", skip_field_alias)
    return {"parallel_read_safe": True}
