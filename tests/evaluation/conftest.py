"""The benchmarks' real files, and upstream's package as oracle."""

import importlib
import logging
import warnings
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def assets(shared: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A mirror of the benchmarks' files."""
    monkeypatch.setenv("WRPO_ASSETS", str(shared))
    return shared


@pytest.fixture(scope="session")
def alpaca_package() -> Any:
    """The alpaca-eval package, which warns as it is imported and sets the root logger's level."""
    level = logging.getLogger().level
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = importlib.import_module("alpaca_eval")
    logging.getLogger().setLevel(level)
    return found
