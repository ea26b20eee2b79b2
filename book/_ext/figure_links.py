"""Sphinx extension: the caption of every drawn figure leads to its data, its code, SVG and PDF.

``make figures`` draws into ``_build/figures``; what lies there goes into the site. A figure of a
page finds its row of ``results/figure_map.csv`` by its name, in which ``-`` stands for ``_``.
"""

import csv
import shutil
from pathlib import Path
from typing import Any

from docutils import nodes

FOLDER = "_downloads/figures"
KINDS = {"csv": "Data", "svg": "SVG", "pdf": "PDF"}


def drawn(app: Any) -> Path:
    """Where ``make figures`` writes."""
    return Path(app.srcdir) / "_build" / "figures"


def key(name: str) -> str:
    """``figure-1``, ``figure_1`` and ``figure-1-figure`` are one name."""
    return name.replace("_", "-").removesuffix("-figure")


def links(app: Any, row: dict[str, str] | None) -> list[tuple[str, str]]:
    """Text and address, from the top of the site, of what there is for one figure."""
    if row is None:
        return [("Code and data", "book/claims.html#figure-map")]
    module, _, function = row["function"].rpartition(".")
    files = {text: f"{row['figure']}.{kind}" for kind, text in KINDS.items()}
    found = [(text, f"{FOLDER}/{f}") for text, f in files.items() if (drawn(app) / f).is_file()]
    return [("Code", f"_modules/{module.replace('.', '/')}.html#{function}"), *found]


def link_captions(app: Any, doctree: nodes.document, page: str) -> None:
    """Append the links to each caption, once all references are resolved."""
    with (Path(app.srcdir) / "results" / "figure_map.csv").open(encoding="utf-8") as file:
        rows = {key(row["figure"]): row for row in csv.DictReader(file)}
    for caption in doctree.findall(nodes.caption):
        if isinstance(caption.parent, nodes.figure):
            row = next(filter(None, map(rows.get, map(key, caption.parent["names"]))), None)
            line = nodes.inline(classes=["figure-links"])
            for text, address in links(app, row):
                address = "../" * page.count("/") + address
                line += nodes.reference("", text, refuri=address, internal=True)
            caption += [nodes.Text(" "), line]


def copy_pictures(app: Any, error: Exception | None) -> None:
    """Take what the captions lead to into the site."""
    if error is None and drawn(app).is_dir():
        unused = shutil.ignore_patterns("*.png", ".*")
        shutil.copytree(drawn(app), Path(app.outdir) / FOLDER, ignore=unused, dirs_exist_ok=True)


def setup(app: Any) -> dict[str, bool]:
    """Register both hooks."""
    app.connect("doctree-resolved", link_captions)
    app.connect("build-finished", copy_pictures)
    return {"parallel_read_safe": True}
