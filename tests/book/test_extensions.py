"""Our Sphinx extensions, on a book of two pages."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

EXTENSIONS = Path(__file__).resolve().parents[2] / "book" / "_ext"
CONFIGURATION = f"""
import sys
sys.path.insert(0, {str(EXTENSIONS)!r})
extensions = ["myst_nb", "fresh_results", "figure_links", "run_here", "built_site"]
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
CELL = {"cell_type": "markdown", "metadata": {}}
NOTEBOOK = {
    "cells": [
        {**CELL, "id": "a", "source": "# A notebook"},
        {**CELL, "id": "b", "source": "Its text."},
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


@pytest.fixture(scope="module")
def book(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the book."""
    return tmp_path_factory.mktemp("book")


def build(book: Path, changed: dict[str, str], **environment: str) -> tuple[str, str]:
    """Both pages after a build over what is there, with some files changed."""
    for name, text in changed.items():
        (book / name).parent.mkdir(parents=True, exist_ok=True)
        (book / name).write_text(text, encoding="utf-8")
    command = [sys.executable, "-m", "sphinx", "-q", "-d", "_build/.doctrees", ".", "_build/html"]
    settings = os.environ | environment
    done = subprocess.run(command, cwd=book, capture_output=True, text=True, env=settings)
    assert done.returncode == 0, done.stderr
    index, notebook = ((book / f"_build/html/{n}.html").read_text() for n in ("index", "notebook"))
    return index, notebook


@pytest.fixture(scope="module")
def builds(book: Path) -> list[tuple[str, str]]:
    """From nothing; with other prose and an address of the repository; with another result."""
    prose, address = PAGE.replace("PROSE", "Other words."), "https://github.com/owner/name/"
    return [
        build(book, FILES),
        build(book, {"index.md": prose}, WRPO_REPOSITORY=address),
        build(book, {"results/score.csv": "0.75"}),
    ]


def test_a_changed_result_never_shows_an_old_number_and_prose_runs_nothing(
    builds: list[tuple[str, str]],
) -> None:
    (first,), (prose,), (result,) = (re.findall(r"result (\S+) at (\d+)", b[0]) for b in builds)
    assert "Other words." in builds[1][0]
    assert prose == first  # also the time at which the cell ran
    assert (first[0], result[0]) == ("0.25", "0.75")


def test_a_caption_leads_to_code_data_and_pictures(
    book: Path, builds: list[tuple[str, str]]
) -> None:
    links = re.findall(r'class="reference internal" href="([^"]*)">(\w+)</a>', builds[0][0])
    assert links == [
        ("_modules/wrpo_lib/figures/training.html#draw", "Code"),
        ("_downloads/figures/figure_1.csv", "Data"),
        ("_downloads/figures/figure_1.svg", "SVG"),
    ]
    assert all((book / "_build" / "html" / address).is_file() for address, _ in links[1:])


def test_a_notebook_says_how_to_run_it(builds: list[tuple[str, str]]) -> None:
    first, addressed = (re.sub("<[^>]*>", "", notebook) for _, notebook in builds[:2])
    assert "jupyter lab notebooks/notebook.ipynb" in first
    assert "git clone" not in first
    assert "git clone https://github.com/owner/name wrpo" in addressed
    assert "https://colab.research.google.com/github/owner/name/" in builds[1][1]


@pytest.mark.usefixtures("builds")
def test_the_site_carries_only_what_it_uses_of_its_tools(book: Path) -> None:
    static = book / "_build" / "html" / "_static"
    assert {path.name for path in (static / "mathjax").iterdir()} == {"tex-chtml.js", "output"}
    assert not list(static.rglob("*.map"))
    assert sum(path.stat().st_size for path in static.rglob("*")) < 6e6
