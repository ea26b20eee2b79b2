"""The scripts under test lie beside the library."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest

from wrpo_lib.records import project_root


@pytest.fixture(scope="session", autouse=True)
def _scripts() -> Iterator[None]:
    folder = str(project_root() / "benchmarks")
    sys.path.insert(0, folder)
    yield
    sys.path.remove(folder)
