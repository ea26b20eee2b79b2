"""Fixtures of the data stages."""

from collections.abc import Callable
from functools import partial

import pytest
from commandline import wrpo as run

Wrpo = Callable[..., tuple[int, str, str]]


@pytest.fixture
def wrpo(capsys: pytest.CaptureFixture[str]) -> Wrpo:
    """Exit status, stdout and stderr of ``wrpo ...``."""
    return partial(run, capsys)
