"""The command line, run in the tests' own process."""

from __future__ import annotations

import sys
from typing import Any

import pytest

from wrpo_lib import cli


def wrpo(capsys: pytest.CaptureFixture[str], *arguments: Any) -> tuple[int, str, str]:
    """Exit status, stdout and stderr of `wrpo ...`."""
    old, sys.argv = sys.argv, ["wrpo", *map(str, arguments)]
    try:
        cli.main()
        code = 0
    except SystemExit as stop:
        code = int(stop.code or 0)
    finally:
        sys.argv = old
    out = capsys.readouterr()
    return code, out.out, out.err
