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

import yaml

from wrpo_lib.errors import WRPOError
from wrpo_lib.io import open_binary

MIRROR = "WRPO_ASSETS"
CACHE = "wrpo"  # in the user's cache folder, which XDG_CACHE_HOME moves


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
    mirror: str
    package: str | None = None


@cache
def manifest() -> dict[str, Asset]:
    """All assets by name."""
    rows = yaml.safe_load(Path(__file__).with_name("assets.yaml").read_text(encoding="utf-8"))
    found = {}
    for name, row in rows.items():
        url = row.pop("url").format(revision=row["revision"])
        found[name] = Asset(name=name, url=url, **{"mirror": name, **row})
    return found


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


def _candidates(asset: Asset) -> Iterator[Path]:
    """Where a local copy may lie, best first: mirror, installed package, cache."""
    import pooch

    if root := os.environ.get(MIRROR):
        yield Path(root) / asset.mirror
        yield Path(root) / f"{asset.mirror}.gz"
    if asset.package:
        top, rest = asset.package.split("/", 1)
        spec = importlib.util.find_spec(top)  # found without importing it
        for folder in (spec.submodule_search_locations or []) if spec else []:
            yield Path(folder) / rest
    yield pooch.os_cache(CACHE) / asset.name


def fetch(name: str) -> Path:
    """The path of an asset; pooch downloads it, hash checked, if there is no local copy."""
    import pooch

    if path := local(name):
        return path
    asset = manifest()[name]
    if os.environ.get("HF_HUB_OFFLINE") == "1":
        raise WRPOError(
            f"{name} is not on this machine and HF_HUB_OFFLINE=1 forbids fetching it; set {MIRROR} "
            "to a folder that has it, or unset HF_HUB_OFFLINE and run `wrpo assets fetch`"
        )
    pooch.get_logger().setLevel("WARNING")
    target = pooch.os_cache(CACHE) / name
    try:
        pooch.retrieve(asset.url, f"sha256:{asset.sha256}", target.name, target.parent)
    except (OSError, ValueError) as error:  # no connection; a wrong hash
        reason = "its content has changed" if isinstance(error, ValueError) else "no connection"
        raise WRPOError(
            f"{name} could not be fetched from {asset.url} ({reason}); fetch it elsewhere and set "
            f"{MIRROR} to the folder that holds {asset.mirror}"
        ) from error
    return target
