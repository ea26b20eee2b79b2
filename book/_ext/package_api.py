"""Sphinx extension: ``.. autopackage:: wrpo_lib.training`` documents each module of a package.

The pages of the library follow the code by themselves: a new module appears, a removed one goes.
"""

from __future__ import annotations

import importlib
import pkgutil
from typing import Any

from docutils import nodes
from docutils.parsers.rst import Directive
from docutils.statemachine import StringList

LONGEST_SIGNATURE = 2000  # characters; the training configurations take every option of TRL's


class AutoPackage(Directive):
    """The docstring of a package, then the public members of each of its public modules."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """One ``automodule`` a module, in alphabetical order."""
        name = self.arguments[0]
        package = importlib.import_module(name)
        modules = [
            f"{name}.{found.name}"
            for found in pkgutil.iter_modules(package.__path__)
            if not found.ispkg and not found.name.startswith("_")
        ]
        lines = [f".. automodule:: {name}", *([] if modules else ["   :members:"])]
        for module in modules:
            lines += ["", f".. rubric:: {module}", "", f".. automodule:: {module}", "   :members:"]
        parent = nodes.container()
        self.state.nested_parse(StringList(lines, source=name), self.content_offset, parent)
        return parent.children


def short_signature(*event: Any) -> tuple[str, str | None] | None:
    """Leave out a signature that nobody reads."""
    signature, returns = event[-2:]
    return ("(**fields)", returns) if len(signature or "") > LONGEST_SIGNATURE else None


def setup(app: Any) -> dict[str, bool]:
    """Register the directive and the hook."""
    app.setup_extension("sphinx.ext.autodoc")
    app.add_directive("autopackage", AutoPackage)
    app.connect("autodoc-process-signature", short_signature)
    return {"parallel_read_safe": True}
