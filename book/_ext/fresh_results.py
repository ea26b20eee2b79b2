"""Sphinx extension: pages execute and are read side by side, once per state of code and results.

jupyter-cache recognises a page by its code cells alone and would keep the numbers of old results.
So its folder is named after a hash of all that the cells read, and a new hash rereads every page.

Importing the library takes a page longer than most of its cells. So Sphinx imports it once
(:mod:`library_pages`), and a page's kernel is a fork of that process, not a new interpreter.
"""

import asyncio
import hashlib
import logging
import os
import sys
from functools import partial
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

from ipykernel.kernelapp import IPKernelApp
from jupyter_cache import get_cache
from jupyter_cache.executors import load_executor
from jupyter_client.provisioning import KernelProvisionerFactory, LocalProvisioner
from myst_nb.core.read import is_myst_markdown_notebook

from wrpo_lib.io import file_hash

READ_BY_CELLS = ("src/wrpo_lib", "results", "recipes", "requirements.lock")
READ_BY_SPHINX = ("book/_ext", "book/references.bib")
READ_BY_IMPORTS = {  # what a kernel, and the notebooks that train, set before they import
    "MPLBACKEND": "module://matplotlib_inline.backend_inline",
    "TQDM_DISABLE": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
    "TRANSFORMERS_VERBOSITY": "error",
}
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
    os.environ |= READ_BY_IMPORTS
    app.parallel = os.cpu_count()  # jupyter-book has no option for it
    for extension in app.extensions.values():  # none that is silent keeps anything between pages
        if extension.parallel_read_safe is None:
            extension.parallel_read_safe = True


class ForkedKernel(LocalProvisioner):
    """Starts a kernel as a fork of this process, with every module that is imported here."""

    async def launch_kernel(self, cmd: list[str], **kwargs: Any) -> Any:
        """Run what ``cmd`` would, ``python -m ipykernel_launcher ARGUMENTS``."""
        # what runs before a child starts its program need not come back
        run = partial(run_kernel, cmd[3:], kwargs["env"])
        return await super().launch_kernel(cmd, preexec_fn=run, **kwargs)


def run_kernel(arguments: list[str], environment: dict[str, str]) -> None:
    """Be a kernel until it is shut down; in the child, whose parent waits for file 3 to close."""
    os.closerange(3, os.sysconf("SC_OPEN_MAX"))
    asyncio.set_event_loop(asyncio.new_event_loop())
    os.environ.update(environment)
    try:
        IPKernelApp.launch_instance([*arguments, f"--IPKernelApp.parent_handle={os.getppid()}"])
    finally:
        sys.stderr.flush()
        os._exit(0)


def turn(page: str) -> int:
    """When a page is executed, from the first to the last."""
    turns = {"04_wrpo_training": 0, "01_distribution_deviation": 3, "02_building_quadruples": 3}
    folder, _, name = page.rpartition("/")
    return turns.get(name, 1 if folder == "notebooks" else 2)


def execute(_app: Any, env: Any, pages: list[str]) -> None:
    """Execute all pages that will be read and are not in the cache, a page a core.

    What takes longest goes first, so that no core is left waiting for it at the end; what takes up
    the target that 04 trains goes last.
    """
    cache = get_cache(env.mystnb_config.execution_cache_path)
    for path in (Path(env.doc2path(page)) for page in sorted(pages, key=turn)):
        if path.suffix == ".ipynb":
            cache.add_nb_to_project(str(path))
        elif is_myst_markdown_notebook(path.read_text(encoding="utf-8")):
            reader = {"name": "myst_nb_md", "type": "plugin"}
            cache.add_nb_to_project(str(path), read_data=reader)
    # a page that fails is not cached; myst-nb then runs it again and reports the cell
    factory = KernelProvisionerFactory.instance()
    factory.provisioners["fork"] = EntryPoint("fork", f"{__name__}:ForkedKernel", "")
    factory.default_provisioner_name = "fork"
    executor = load_executor("local-parallel", cache, LOGGER)
    executor.run_and_cache(timeout=env.mystnb_config.execution_timeout)


def setup(app: Any) -> dict[str, bool]:
    """Register the hash, on whose change Sphinx reads every page, and both hooks."""
    app.add_config_value("book_inputs", "", "env", str)
    app.connect("config-inited", name_cache)
    app.connect("env-before-read-docs", execute)
    return {"parallel_read_safe": True}
