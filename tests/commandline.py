"""The command line in the tests' own process, and in processes of its own that tests stop."""

import multiprocessing
import os
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
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


FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["wrpo_lib.training.run", "wrpo_lib.generation"])


class Command(FORKS.Process):
    """`wrpo ...` in a process that is forked from one with torch and TRL imported already.

    What it says goes to the files ``stdout`` and ``stderr`` in ``folder``.
    """

    def __init__(
        self, folder: Path, *arguments: Any, main: Callable[[], None] = cli.main, **env: str
    ) -> None:
        words = ["wrpo", *map(str, arguments)]
        super().__init__(target=_command, args=(main, words, folder, env), daemon=True)
        self.folder = folder
        with pytest.MonkeyPatch.context() as patch:
            patch.delenv("TQDM_DISABLE", raising=False)  # users see progress
            self.start()

    @property
    def said(self) -> tuple[str, str]:
        """Its stdout and its stderr so far."""
        return (self.folder / "stdout").read_text(), (self.folder / "stderr").read_text()

    def poll(self) -> int | None:
        return self.exitcode

    def wait(self) -> int | None:
        """The exit status, minus the signal where one ended it."""
        self.join(HANGS)
        return self.exitcode

    def send(self, signal: int) -> int | None:
        """The exit status after a signal."""
        assert self.pid is not None
        with suppress(ProcessLookupError):  # it ended by itself
            os.kill(self.pid, signal)
        return self.wait()


def _command(main: Callable[[], None], words: list[str], folder: Path, env: dict[str, str]) -> None:
    os.environ.update(env)
    folder.mkdir(parents=True, exist_ok=True)
    for stream, name in ((sys.stdout, "stdout"), (sys.stderr, "stderr")):
        with (folder / name).open("w") as file:
            os.dup2(file.fileno(), stream.fileno())
    sys.argv = words
    main()


def wait_until(
    ready: Callable[[], bool],
    process: subprocess.Popen[Any] | Command,
    said: Callable[[], str] = str,
) -> None:
    """Poll until ``ready()``; a process that ends before, or hangs, fails with what it ``said``."""
    give_up = time.monotonic() + HANGS
    while not ready():
        if process.poll() is not None or time.monotonic() > give_up:
            status = process.poll()
            process.kill()  # else reading what it said could wait for ever
            raise RuntimeError(f"the process ended or hangs (status {status}): {said()}")
        time.sleep(0.005)
