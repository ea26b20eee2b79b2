"""The benchmarks' files by name and hash, as ``assets.yaml`` lists them.

A file is taken, in this order, from the mirror that ``WRPO_ASSETS`` names, from an installed
package that carries it, from the cache, from upstream; its hash is checked.
"""

from __future__ import annotations

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


def _candidates(name: str) -> Iterator[Path]:
    """Where a local copy may lie, best first: mirror, installed package, cache."""
    asset = manifest()[name]
    if root := os.environ.get(MIRROR):
        for inside in (asset.get("mirror", name), name):
            yield from (Path(root) / inside, Path(root) / f"{inside}.gz")
    if "package" in asset:
        top, rest = asset["package"].split("/", 1)
        spec = importlib.util.find_spec(top)  # found without importing it
        for folder in (spec.submodule_search_locations or []) if spec else []:
            yield Path(folder) / rest
    yield Path(pooch.os_cache("wrpo")) / name  # which XDG_CACHE_HOME moves


def local(name: str) -> Path | None:
    """The first local copy of an asset, None if there is none; another hash is an error."""
    if name not in manifest():
        raise WRPOError(f"unknown asset {name!r}; choose one of {', '.join(manifest())}")
    path = next((path for path in _candidates(name) if path.is_file()), None)
    if path is None:
        return None
    try:
        with open_binary(path) as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
    except (EOFError, gzip.BadGzipFile):
        found = "that of a file cut short"
    if found != manifest()[name]["sha256"]:
        raise WRPOError(f"{path} is not {name} (its sha256 is another); delete it, fetch it again")
    return path


def fetch(name: str) -> Path:
    """The path of an asset; pooch downloads it, hash checked, if there is no local copy."""
    if path := local(name):
        return path
    asset, places = manifest()[name], list(_candidates(name))
    tried, target = places[0], places[-1]
    try:
        if os.environ.get("HF_HUB_OFFLINE") == "1":
            raise OSError("HF_HUB_OFFLINE=1 forbids it")
        pooch.get_logger().setLevel("WARNING")
        pooch.retrieve(asset["url"], f"sha256:{asset['sha256']}", target.name, target.parent)
    except (OSError, ValueError) as error:  # ValueError: a wrong hash
        reason = "its content has changed" if isinstance(error, ValueError) else error
        raise WRPOError(
            f"{name} is not at {tried} and could not be fetched from {asset['url']} ({reason}); "
            f"fetch it elsewhere and set {MIRROR} to a folder that holds {name}"
        ) from error
    return target
