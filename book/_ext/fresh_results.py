"""Sphinx extension: pages execute and are read side by side, once per state of code and results.

jupyter-cache recognises a page by its code cells alone and would keep the numbers of old results.
So its folder is named after a hash of all that the cells read, and a new hash rereads every page.
"""

import hashlib
import logging
import os
from pathlib import Path
from typing import Any

from jupyter_cache import get_cache
from jupyter_cache.executors import load_executor
from myst_nb.core.read import is_myst_markdown_notebook

from wrpo_lib.io import file_hash

READ_BY_CELLS = ("src/wrpo_lib", "results", "recipes", "requirements.lock")
READ_BY_SPHINX = ("book/_ext", "book/references.bib")
LOGGER = logging.getLogger(__name__)
LOGGER.setLevel(logging.WARNING)  # else the executor reports every process it starts


def tree_hash(root: Path, names: tuple[str, ...]) -> str:
    """SHA-256 over names and contents of the files and folders ``names`` under ``root``."""
    paths = (path for name in names for path in [root / name, *(root / name).rglob("*")])
    files = sorted({p for p in paths if p.is_file() and "__pycache__" not in p.parts})
    lines = [f"{path.relative_to(root)} {file_hash(path)}\n" for path in files]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def name_cache(app: Any, config: Any) -> None:
    """Choose the cache of this state; what lies under ``book/_ext`` only makes Sphinx read anew."""
    root = Path(app.srcdir)
    cells = tree_hash(root, READ_BY_CELLS)
    config.nb_execution_cache_path = str(root / "_build" / ".jupyter_cache" / cells[:16])
    config.book_inputs = cells + tree_hash(root, READ_BY_SPHINX)
    app.parallel = os.cpu_count()  # jupyter-book has no option for it
    for extension in app.extensions.values():  # none that is silent keeps anything between pages
        if extension.parallel_read_safe is None:
            extension.parallel_read_safe = True


def execute(_app: Any, env: Any, pages: list[str]) -> None:
    """Execute all pages that will be read and are not in the cache, a page a core.

    Notebooks take longest, so they go first and no core is left waiting for one at the end; the
    last of them first, since 01 and 02 take up the target that 04 trains.
    """
    cache = get_cache(env.mystnb_config.execution_cache_path)
    notebooks_first = sorted(pages, key=lambda page: page.startswith("notebooks/"))[::-1]
    for path in (Path(env.doc2path(page)) for page in notebooks_first):
        if path.suffix == ".ipynb":
            cache.add_nb_to_project(str(path))
        elif is_myst_markdown_notebook(path.read_text(encoding="utf-8")):
            reader = {"name": "myst_nb_md", "type": "plugin"}
            cache.add_nb_to_project(str(path), read_data=reader)
    # a page that fails is not cached; myst-nb then runs it again and reports the cell
    executor = load_executor("local-parallel", cache, LOGGER)
    executor.run_and_cache(timeout=env.mystnb_config.execution_timeout)


def setup(app: Any) -> dict[str, bool]:
    """Register the hash, on whose change Sphinx reads every page, and both hooks."""
    app.add_config_value("book_inputs", "", "env", str)
    app.connect("config-inited", name_cache)
    app.connect("env-before-read-docs", execute)
    return {"parallel_read_safe": True}
