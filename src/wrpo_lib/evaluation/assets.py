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
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pooch
import yaml

from wrpo_lib.errors import WRPOError
from wrpo_lib.io import open_binary

MIRROR = "WRPO_ASSETS"


@dataclass(frozen=True)
class Asset:
    """One file of upstream; ``sha256`` is of the uncompressed bytes."""

    name: str
    what: str
    source: str
    url: str
    revision: str
    sha256: str
    licence: str
    mirror: str = ""
    package: str = ""


@cache
def manifest() -> dict[str, Asset]:
    """All assets by name."""
    rows = yaml.safe_load(Path(__file__).with_name("assets.yaml").read_text(encoding="utf-8"))
    for row in rows.values():
        row["url"] = row["url"].format(revision=row["revision"])
    return {name: Asset(name, **row) for name, row in rows.items()}


def _cached(name: str) -> Path:
    return Path(pooch.os_cache("wrpo")) / name  # which XDG_CACHE_HOME moves


def _candidates(asset: Asset) -> Iterator[Path]:
    """Where a local copy may lie, best first: mirror, installed package, cache."""
    if root := os.environ.get(MIRROR):
        for name in filter(None, (asset.mirror, asset.name)):
            yield from (Path(root) / name, Path(root) / f"{name}.gz")
    if asset.package:
        top, rest = asset.package.split("/", 1)
        spec = importlib.util.find_spec(top)  # found without importing it
        for folder in (spec.submodule_search_locations or []) if spec else []:
            yield Path(folder) / rest
    yield _cached(asset.name)


def local(name: str) -> Path | None:
    """The first local copy of an asset, None if there is none; another hash is an error."""
    if name not in manifest():
        raise WRPOError(f"unknown asset {name!r}; choose one of {', '.join(manifest())}")
    asset = manifest()[name]
    path = next((path for path in _candidates(asset) if path.is_file()), None)
    if path is None:
        return None
    try:
        with open_binary(path) as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
    except (EOFError, gzip.BadGzipFile):
        found = "that of a file cut short"
    if found != asset.sha256:
        raise WRPOError(
            f"{path} is not {name} (its sha256 is not {asset.sha256[:12]}...); "
            "delete it and run `wrpo assets fetch` again"
        )
    return path


def fetch(name: str) -> Path:
    """The path of an asset; pooch downloads it, hash checked, if there is no local copy."""
    if path := local(name):
        return path
    asset, target = manifest()[name], _cached(name)
    tried = next(_candidates(asset))
    if os.environ.get("HF_HUB_OFFLINE") == "1":
        raise WRPOError(
            f"{name} is not on this machine ({tried} does not exist) and HF_HUB_OFFLINE=1 forbids "
            f"fetching it; set {MIRROR} to a folder that has it, or unset HF_HUB_OFFLINE and run "
            "`wrpo assets fetch`"
        )
    pooch.get_logger().setLevel("WARNING")
    try:
        pooch.retrieve(asset.url, f"sha256:{asset.sha256}", target.name, target.parent)
    except (OSError, ValueError) as error:  # no connection; a wrong hash
        reason = "its content has changed" if isinstance(error, ValueError) else "no connection"
        raise WRPOError(
            f"{name} is not at {tried} and could not be fetched from {asset.url} ({reason}); fetch "
            f"it elsewhere and set {MIRROR} to a folder that holds {asset.name}"
        ) from error
    return target
