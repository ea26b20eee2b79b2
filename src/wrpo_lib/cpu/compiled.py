"""Code in C for a step's work other than large products, compiled for the processor it runs on.

The files beside this one are built by the machine's C compiler at first use, in seconds, and kept
in the cache folder. Where there is none, a line in the log says so, and torch does the work.
"""

from __future__ import annotations

import ctypes
import hashlib
import logging
import os
import shlex
import subprocess
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from wrpo_lib.cache import cache_dir
from wrpo_lib.cpu.products import processor

logger = logging.getLogger(__name__)

SOURCES = sorted(Path(__file__).parent.glob("*.[ch]"))
QUERIES, KEYS = 48, 64
"""Of a tile and of a block of attention."""
FLAGS = ("-O3", "-march=native", "-ffp-contract=fast", "-fno-math-errno", "-fno-trapping-math",
         "-fopenmp", "-shared", "-fPIC", f"-DQUERIES={QUERIES}", f"-DKEYS={KEYS}")  # fmt: skip
LANES = 16
"""Numbers in the widest vector of any processor: sizes that the code takes are multiples of it."""
FUNCTIONS = ("attend", "gradients", "gated", "gated_gradients", "norm", "norm_gradients", "rotated")
SHARING = 16
"""Threads, at most, that make gradients of attention: each has those of all keys and values of its
own until they are added."""


# --- building -----------------------------------------------------------------------------------


@cache
def loaded() -> Any:
    """The shared library; None, with a line in the log, where it cannot be had."""
    try:
        path = build(cache_dir() / "compiled")
        try:
            found = ctypes.CDLL(str(path))
        except OSError:  # damaged: once more
            path.unlink(missing_ok=True)
            found = ctypes.CDLL(str(build(path.parent)))
        for name in FUNCTIONS:
            getattr(found, name).restype = None
    except (
        OSError, subprocess.CalledProcessError,
        ValueError, RuntimeError, AttributeError,  # CC, the home folder, the library's names
    ) as error:  # fmt: skip
        told = (getattr(error, "stderr", None) or str(error)).strip()
        logger.warning("training on this CPU is slower than it could be: its code was not compiled "
                       "(%s); it needs GCC, found as gcc or named by CC, and a cache folder to "
                       "write to", told[-500:])  # fmt: skip
        return None
    return found


def build(folder: Path) -> Path:
    """Compile the code into ``folder`` unless what it would be is there; the shared library.

    Its name tells code, compiler and processor, so that a folder can serve several machines.

    :raises OSError: the compiler is not there, or the folder cannot be written.
    :raises subprocess.CalledProcessError: the compiler failed; ``stderr`` says why.
    :raises ValueError: CC is no command.
    """
    compiler = shlex.split(os.environ.get("CC") or "gcc")

    def run(*arguments: str) -> str:
        command = [*compiler, *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    able = processor(fields=("vendor_id", "model name", "flags", "Features"))
    about = "\n".join(
        [*(s.read_text("utf-8") for s in SOURCES), *compiler, *FLAGS, run("--version"), able]
    )
    path = folder / f"wrpo-{hashlib.sha256(about.encode()).hexdigest()[:16]}.so"
    if not path.is_file():
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)  # code is run from here
        with tempfile.TemporaryDirectory(dir=folder) as scratch:  # several processes may be at it
            made = Path(scratch) / path.name
            run(*FLAGS, "-o", str(made), *(str(s) for s in SOURCES if s.suffix == ".c"), "-lm")
            made.replace(path)
    return path


def usable(*tensors: Tensor) -> bool:
    """Can compiled code work on these, which have numbers in them, and is it there?"""
    real = all(type(t) in (Tensor, torch.nn.Parameter) for t in tensors)
    return real and loaded() is not None


def start(tensor: Tensor) -> ctypes.c_void_p:
    """Where a tensor's numbers are, as the code takes it. The tensor must outlive the call."""
    return ctypes.c_void_p(tensor.data_ptr())
