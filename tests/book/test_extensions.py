"""Our Sphinx extensions, on a book of two pages."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

EXTENSIONS = Path(__file__).resolve().parents[2] / "book" / "_ext"
CONFIGURATION = f"""
import sys
sys.path.insert(0, {str(EXTENSIONS)!r})
extensions = ["myst_nb", "fresh_results", "figure_links", "run_here", "lean_site"]
root_doc, nb_execution_mode, html_theme = "index", "cache", "sphinx_book_theme"
myst_enable_extensions = ["colon_fence"]
exclude_patterns = ["_build"]
html_theme_options = {{}}
"""
PAGE = """\
---
file_format: mystnb
kernelspec: {name: python3, display_name: Python 3}
---
# A page

PROSE

```{code-cell}
import time
from pathlib import Path

print("result", Path("results/score.csv").read_text(), "at", time.time_ns())
```

```{figure} picture.png
:name: figure-1
The caption.
```

```{toctree}
notebook
```
"""
NOTEBOOK = {
    "cells": [
        {"cell_type": "markdown", "id": "a", "metadata": {}, "source": "# A notebook"},
        {"cell_type": "markdown", "id": "b", "metadata": {}, "source": "Its text."},
    ],
    "metadata": {"kernelspec": {"name": "python3", "display_name": "Python 3"}},
    "nbformat": 4,
    "nbformat_minor": 5,
}


FILES = {
    "conf.py": CONFIGURATION,
    "index.md": PAGE,
    "notebook.ipynb": json.dumps(NOTEBOOK),
    "picture.png": "",
    "results/score.csv": "0.25",
    "results/figure_map.csv": "figure,function\nfigure_1,wrpo_lib.figures.training.draw\n",
    "_build/figures/figure_1.svg": "<svg/>",
    "_build/figures/figure_1.csv": "x\n",
}


class Build(NamedTuple):
    """Both pages as they were after a build, the first one's result and when its cell ran."""

    index: str
    notebook: str
    result: str
    ran_at: str


def build(book: Path, changed: dict[str, str], **environment: str) -> Build:
    """Write files and build the book over what is there."""
    for name, text in changed.items():
        path = book / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    command = [sys.executable, "-m", "sphinx", "-q", "-d", "_build/.doctrees", ".", "_build/html"]
    settings = os.environ | environment
    done = subprocess.run(command, cwd=book, capture_output=True, text=True, env=settings)
    assert done.returncode == 0, done.stderr
    pages = [(book / f"_build/html/{name}.html").read_text() for name in ("index", "notebook")]
    found = re.search(r"result (\S+) at (\d+)", pages[0])
    assert found, pages[0]
    return Build(*pages, *found.groups())


@pytest.fixture(scope="module")
def book(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the book."""
    return tmp_path_factory.mktemp("book")


@pytest.fixture(scope="module")
def builds(book: Path) -> list[Build]:
    """From nothing; with other prose and an address of the repository; with another result."""
    return [
        build(book, FILES),
        build(
            book,
            {"index.md": PAGE.replace("PROSE", "Other words.")},
            WRPO_REPOSITORY="https://github.com/owner/name/",
        ),
        build(book, {"results/score.csv": "0.75"}),
    ]


def test_a_changed_result_never_shows_an_old_number_and_prose_runs_nothing(
    builds: list[Build],
) -> None:
    first, prose, result = builds
    assert "Other words." in prose.index
    assert (prose.result, prose.ran_at) == (first.result, first.ran_at)
    assert (first.result, result.result) == ("0.25", "0.75")


def test_a_caption_leads_to_code_data_and_pictures(book: Path, builds: list[Build]) -> None:
    links = re.findall(r'class="reference internal" href="([^"]*)">(\w+)</a>', builds[0].index)
    assert links == [
        ("_modules/wrpo_lib/figures/training.html#draw", "Code"),
        ("_downloads/figures/figure_1.csv", "Data"),
        ("_downloads/figures/figure_1.svg", "SVG"),
    ]
    assert all((book / "_build" / "html" / address).is_file() for address, _ in links[1:])


def test_a_notebook_says_how_to_run_it(builds: list[Build]) -> None:
    first, addressed = (re.sub("<[^>]*>", "", b.notebook) for b in builds[:2])
    assert "jupyter lab notebooks/notebook.ipynb" in first
    assert "git clone" not in first
    assert "git clone https://github.com/owner/name wrpo" in addressed
    assert "https://colab.research.google.com/github/owner/name/" in builds[1].notebook


@pytest.mark.usefixtures("builds")
def test_the_site_carries_only_what_it_uses_of_its_tools(book: Path) -> None:
    static = book / "_build" / "html" / "_static"
    assert {path.name for path in (static / "mathjax").iterdir()} == {"tex-chtml.js", "output"}
    assert not list(static.rglob("*.map"))
    assert sum(path.stat().st_size for path in static.rglob("*")) < 6e6
