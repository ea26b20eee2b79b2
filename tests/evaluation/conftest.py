"""Files over HTTP, and upstream's package as oracle."""

import functools
import http.server
import importlib
import logging
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def served_folder(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """A folder and the address it is served at."""
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield tmp_path, f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.fixture(scope="session")
def alpaca_package() -> Any:
    """The alpaca-eval package, which warns as it is imported and sets the root logger's level."""
    level = logging.getLogger().level
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = importlib.import_module("alpaca_eval")
    logging.getLogger().setLevel(level)
    return found
