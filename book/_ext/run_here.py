"""Sphinx extension: every notebook says how to run it.

The address of the repository comes from ``WRPO_REPOSITORY``, which CI sets; without it there are no
buttons that need it, and no address that could be wrong.
"""

import json
import os
from pathlib import Path
from typing import Any

BOX = """\
:::{{admonition}} Run this notebook
:class: run-here dropdown
Download it as {{download}}`{name} <{name}>`, or run it in place; the first command sets up `.venv`.

```bash
{clone}make env
.venv/bin/jupyter lab notebooks/{name}
```
{colab}
:::
"""
COLAB = """
On Colab (the rocket above), run this first: `%pip install -q git+{address}`, then \
`!git clone -q {address} wrpo` and `%cd wrpo/notebooks`.
"""


def add_buttons(_app: Any, config: Any) -> None:
    """Turn on the theme's buttons that lead to the repository and to Colab."""
    if address := config.wrpo_repository:
        config.html_theme_options |= {"repository_url": address, "repository_branch": "main"}
        config.html_theme_options |= {"use_repository_button": True, "use_issues_button": True}
        colab = {"colab_url": "https://colab.research.google.com"}
        config.html_theme_options["launch_buttons"] = colab


def add_box(app: Any, page: str, source: list[str]) -> None:
    """Put the box behind the first cell of a notebook, which holds title and overview."""
    path = Path(app.env.doc2path(page))
    if path.suffix != ".ipynb":
        return
    address = app.config.wrpo_repository
    box = BOX.format(
        name=path.name,
        clone=f"git clone {address} wrpo && cd wrpo\n" if address else "",
        colab=COLAB.format(address=address) if address else "",
    )
    notebook = json.loads(source[0])
    cell = {"cell_type": "markdown", "id": "run-here", "metadata": {}, "source": box}
    notebook["cells"].insert(1, cell)
    source[0] = json.dumps(notebook)


def setup(app: Any) -> dict[str, bool]:
    """Register the address, on whose change Sphinx reads every page, and both hooks."""
    address = os.environ.get("WRPO_REPOSITORY", "").rstrip("/")
    app.add_config_value("wrpo_repository", address, "env", str)
    app.connect("config-inited", add_buttons)
    app.connect("source-read", add_box)
    return {"parallel_read_safe": True}
