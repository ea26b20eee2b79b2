"""Our Sphinx extensions, on a book of two pages."""

import os
import re
import subprocess
import sys
from pathlib import Path

import nbformat

EXTENSIONS = Path(__file__).resolve().parents[2] / "book" / "_ext"
CONFIGURATION = f"""
import sys
sys.path.insert(0, {str(EXTENSIONS)!r})
extensions = ["myst_nb", "fresh_results", "site_pages"]
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
CELLS = [nbformat.v4.new_markdown_cell(text) for text in ("# A notebook", "Its text.")]
KERNEL = {"kernelspec": {"name": "python3", "display_name": "Python 3"}}
FILES = {
    "conf.py": CONFIGURATION,
    "index.md": PAGE,
    "notebook.ipynb": nbformat.writes(nbformat.v4.new_notebook(cells=CELLS, metadata=KERNEL)),
    "picture.png": "",
    "results/score.csv": "0.25",
    "results/figure_map.csv": "figure,function\nfigure_1,wrpo_lib.figures.training.draw\n",
    "_build/figures/figure_1.svg": "<svg/>",
    "_build/figures/figure_1.csv": "x\n",
}


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


def test_the_pages_of_a_book_that_changes(tmp_path: Path) -> None:
    """Built from nothing; with other prose and an address; with another result."""
    prose, site = PAGE.replace("PROSE", "Other words."), tmp_path / "_build" / "html"
    index, notebook = build(tmp_path, FILES)
    # a caption leads to code, data and pictures
    links = re.findall(r'class="reference internal" href="([^"]*)">(\w+)</a>', index)
    assert links == [
        ("_modules/wrpo_lib/figures/training.html#draw", "Code"),
        ("_downloads/figures/figure_1.csv", "Data"),
        ("_downloads/figures/figure_1.svg", "SVG"),
    ]
    assert all((site / address).is_file() for address, _ in links[1:])
    # the site carries only what it uses of its tools
    static = site / "_static"
    assert {path.name for path in (static / "mathjax").iterdir()} == {"tex-chtml.js", "output"}
    assert not list(static.rglob("*.map"))
    assert sum(path.stat().st_size for path in static.rglob("*")) < 6e6
    # a changed result never shows an old number, and prose runs nothing
    address = "https://github.com/owner/name/"
    reworded, addressed = build(tmp_path, {"index.md": prose}, WRPO_REPOSITORY=address)
    changed, _ = build(tmp_path, {"results/score.csv": "0.75"})
    pages = (index, reworded, changed)
    first, same, result = (re.findall(r"result (\S+) at (\d+)", page) for page in pages)
    assert "Other words." in reworded
    assert same == first  # also the time at which the cell ran
    assert (first[0][0], result[0][0]) == ("0.25", "0.75")
    # a notebook says how to run it
    assert "https://colab.research.google.com/github/owner/name/" in addressed
    notebook, addressed = (re.sub("<[^>]*>", "", page) for page in (notebook, addressed))
    assert "jupyter lab notebooks/notebook.ipynb" in notebook
    assert "git clone" not in notebook
    assert "git clone https://github.com/owner/name wrpo" in addressed
