"""The benchmarks' files by name and hash, as ``assets.yaml`` lists them.

A file is taken, in this order, from the mirror that ``WRPO_ASSETS`` names, from an installed
package that carries it, from the cache, from upstream; its hash is checked.
"""

import gzip
import hashlib
import importlib.util
import os
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pooch
import yaml

from wrpo_lib.errors import WRPOError
from wrpo_lib.io import open_binary

MIRROR = "WRPO_ASSETS"


@cache
def manifest() -> dict[str, dict[str, str]]:
    """All assets by name, with the fields that ``assets.yaml`` explains."""
    rows: dict[str, dict[str, str]] = yaml.safe_load(
        Path(__file__).with_name("assets.yaml").read_text(encoding="utf-8")
    )
    return {name: row | {"url": row["url"].format(**row)} for name, row in rows.items()}


def _copies(name: str, asset: dict[str, str]) -> Iterator[Path]:
    """Where a copy of others may lie: in the mirror, in an installed package."""
    if root := os.environ.get(MIRROR):
        for inside in (asset.get("mirror", name), name):
            yield from (Path(root, inside), Path(root, f"{inside}.gz"))
    top, _, rest = asset.get("package", "").partition("/")
    spec = importlib.util.find_spec(top) if top else None  # found without importing it
    for folder in (spec and spec.submodule_search_locations) or []:
        yield Path(folder, rest)


def fetch(name: str) -> Path:
    """The path of an asset; pooch downloads it, hash checked, if there is no copy."""
    if name not in manifest():
        raise WRPOError(f"unknown asset {name!r}; choose one of {', '.join(manifest())}")
    asset, cached = manifest()[name], Path(pooch.os_cache("wrpo"), name)
    for path in filter(Path.is_file, _copies(name, asset)):
        if _hash(path) != asset["sha256"]:
            what = f"{path} is not {name} (its sha256 is another)"
            raise WRPOError(f"{what}; delete it, fetch it again")
        return path
    try:
        if os.environ.get("HF_HUB_OFFLINE") == "1" and not cached.is_file():
            raise OSError("HF_HUB_OFFLINE=1 forbids it")
        pooch.get_logger().setLevel("WARNING")
        pooch.retrieve(asset["url"], f"sha256:{asset['sha256']}", cached.name, cached.parent)
    except (OSError, ValueError) as error:  # ValueError: a wrong hash
        reason = "its content has changed" if isinstance(error, ValueError) else error
        what = f"{name} could not be fetched from {asset['url']} ({reason})"
        remedy = f"fetch it elsewhere and set {MIRROR} to a folder that holds {name}"
        raise WRPOError(f"{what}; {remedy}") from error
    return cached


def _hash(path: Path) -> str:
    try:
        with open_binary(path) as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except (EOFError, gzip.BadGzipFile):
        return "that of a file cut short"
