"""The command line in the tests' own process, and waiting for one in a process of its own."""

import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import pytest

from wrpo_lib import cli

HANGS = 900.0  # seconds after which a child process hangs; no test asserts how long one takes


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


def wait_until(
    ready: Callable[[], bool], process: subprocess.Popen[Any], said: Callable[[], str] = str
) -> None:
    """Poll until ``ready()``; a process that ends before, or hangs, fails with what it ``said``."""
    give_up = time.monotonic() + HANGS
    while not ready():
        if process.poll() is not None or time.monotonic() > give_up:
            status = process.poll()
            process.kill()  # else reading what it said could wait for ever
            raise RuntimeError(f"the process ended or hangs (status {status}): {said()}")
        time.sleep(0.005)
