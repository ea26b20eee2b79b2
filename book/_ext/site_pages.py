"""Sphinx extension: what our site has beyond the theme's, and what it leaves out.

The caption of every drawn figure leads to its data, its code, SVG and PDF. ``make figures`` draws
into ``_build/figures``; what lies there goes into the site. A figure of a page finds its row of
``results/figure_map.csv`` by its name, in which ``-`` stands for ``_``.

Every notebook says how to run it. The address of the repository comes from ``WRPO_REPOSITORY``,
which CI sets; without it there are no buttons that need it, and no address that could be wrong.

MathJax comes from the package sphinx-mathjax-offline, whose own extension copies 24 MB. Source maps
are for those who change the theme. Every browser that runs the site's scripts reads fonts as WOFF2,
so the same fonts as TTF are left out; the theme's icons come from them, not from a script.
"""

import csv
import json
import os
import re
import shutil
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.util.fileutil import copy_asset

PICTURES = "_downloads/figures"
KINDS = {"csv": "Data", "svg": "SVG", "pdf": "PDF"}
FONTS = "output/chtml/fonts/woff-v2"
# A signature over several lines is a definition list without terms, inside a term.
LINES = re.compile(r'<dl>\n((?:<dd><em class="sig-param">.*?</dd>\n)+)</dl>')
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


def drawn(app: Any) -> Path:
    """Where ``make figures`` writes."""
    return Path(app.srcdir) / "_build" / "figures"


def links(app: Any, row: dict[str, str] | None) -> list[tuple[str, str]]:
    """Text and address, from the top of the site, of what there is for one figure."""
    if row is None:
        return [("Code and data", "book/claims.html#figure-map")]
    module, _, function = row["function"].rpartition(".")
    files = {text: f"{row['figure']}.{kind}" for kind, text in KINDS.items()}
    found = [(text, f"{PICTURES}/{f}") for text, f in files.items() if (drawn(app) / f).is_file()]
    return [("Code", f"_modules/{module.replace('.', '/')}.html#{function}"), *found]


def link_captions(app: Any, doctree: nodes.document, page: str) -> None:
    """Append the links to each caption, once all references are resolved."""
    with (Path(app.srcdir) / "results" / "figure_map.csv").open(encoding="utf-8") as file:
        rows = {row["figure"].replace("_", "-"): row for row in csv.DictReader(file)}
    for figure in doctree.findall(nodes.figure):
        names = [name.replace("_", "-").removesuffix("-figure") for name in figure["names"]]
        row = next((rows[name] for name in names if name in rows), None)
        for caption in figure.findall(nodes.caption):
            line = nodes.inline(classes=["figure-links"])
            for text, address in links(app, row):
                address = "../" * page.count("/") + address
                line += nodes.reference("", text, refuri=address, internal=True)
            caption += [nodes.Text(" "), line]


def add_buttons(_app: Any, config: Any) -> None:
    """Turn on the theme's buttons that lead to the repository and to Colab."""
    if address := config.wrpo_repository:
        options = {"repository_url": address, "repository_branch": "main"}
        options |= {"use_repository_button": True, "use_issues_button": True}
        colab = {"launch_buttons": {"colab_url": "https://colab.research.google.com"}}
        config.html_theme_options |= options | colab


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


def mend(_app: Any, _page: str, _template: str, context: dict[str, Any], _tree: Any) -> None:
    """Rewrite the body of one page; the entries of a bibliography are not items of a list."""

    def as_lines(found: re.Match[str]) -> str:
        lines = found[1].replace("<dd>", '<span class="sig-line">').replace("</dd>", "</span>")
        return f'<span class="sig-lines">{lines}</span>'

    if body := context.get("body"):
        role = '<div role="list" class="citation-list">'
        context["body"] = LINES.sub(as_lines, body.replace(role, '<div class="citation-list">'))


def finish(app: Any, error: Exception | None) -> None:
    """Copy the figures and what is used of MathJax, and remove from ``_static`` the unused."""
    if error is None and drawn(app).is_dir():
        unused = shutil.ignore_patterns("*.png", ".*")
        shutil.copytree(drawn(app), Path(app.outdir) / PICTURES, ignore=unused, dirs_exist_ok=True)
    package = find_spec("sphinx-mathjax-offline")
    if error is not None or app.builder.format != "html" or package is None:
        return
    static = Path(app.outdir) / "_static"
    mathjax = Path(str(package.origin)).parent / "static" / "mathjax"
    copy_asset(str(mathjax / "tex-chtml.js"), str(static / "mathjax"))
    copy_asset(str(mathjax / FONTS), str(static / "mathjax" / FONTS))
    for path in [*static.rglob("*.map"), *static.rglob("*.ttf")]:
        path.unlink()
    icons = "// The icons come from the web fonts in vendor/fontawesome.\n"
    (static / "scripts" / "fontawesome.js").write_text(icons, encoding="utf-8")


def setup(app: Any) -> dict[str, bool]:
    """Register the address, on whose change Sphinx reads every page, and the hooks."""
    address = os.environ.get("WRPO_REPOSITORY", "").rstrip("/")
    app.add_config_value("wrpo_repository", address, "env", str)
    app.connect("config-inited", add_buttons)
    app.connect("source-read", add_box)
    app.connect("doctree-resolved", link_captions)
    app.connect("html-page-context", mend)
    app.connect("build-finished", finish)
    return {"parallel_read_safe": True}
