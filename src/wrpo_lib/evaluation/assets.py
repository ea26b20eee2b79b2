"""The benchmarks' files by name and hash: questions, judge prompts, references, baselines.

``assets.yaml`` beside this module says for each file where upstream keeps it, which revision, its
sha256 and its licence. A file is taken, in this order, from the mirror that ``WRPO_ASSETS`` names,
from an installed package that carries it, from the cache, from upstream. Every copy is checked
against its hash before it is used; ``sha256: null`` marks the few that were never verified here.
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
MANIFEST = Path(__file__).with_name("assets.yaml")


@dataclass(frozen=True)
class Asset:
    """One file of upstream; ``sha256`` is of the uncompressed bytes, None if not verified here."""

    name: str
    what: str
    source: str
    url: str
    revision: str
    sha256: str | None
    licence: str
    mirror: str
    package: str | None = None


@cache
def manifest() -> dict[str, Asset]:
    """All assets by name."""
    rows = yaml.safe_load(MANIFEST.read_text(encoding="utf-8"))
    found = {}
    for name, row in rows.items():
        url = row.pop("url").format(revision=row["revision"])
        found[name] = Asset(name=name, url=url, **{"mirror": name, **row})
    return found


def find(name: str) -> Asset:
    """The asset called ``name``; an unknown name lists its neighbours."""
    assets = manifest()
    if name not in assets:
        folder = name.split("/")[0]
        near = [n for n in assets if n.split("/")[0] == folder] or sorted(assets)
        raise WRPOError(f"unknown asset {name!r}; choose one of {', '.join(near)}")
    return assets[name]


def content_hash(path: Path) -> str:
    """sha256 of a file's uncompressed bytes, read in pieces."""
    try:
        with open_binary(path) as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except (EOFError, gzip.BadGzipFile) as error:
        raise WRPOError(f"{path} is not a whole gzip file; delete it and fetch it again") from error


def candidates(asset: Asset) -> Iterator[Path]:
    """Where a local copy may lie, best first: mirror, installed package, cache."""
    import pooch

    if root := os.environ.get(MIRROR):
        for suffix in ("", ".gz"):
            yield Path(root) / f"{asset.mirror}{suffix}"
    if asset.package:
        top, rest = asset.package.split("/", 1)
        spec = importlib.util.find_spec(top)  # found without importing it
        for folder in (spec.submodule_search_locations or []) if spec else []:
            yield Path(folder) / rest
    yield pooch.os_cache(CACHE) / asset.name


def local(asset: Asset) -> Path | None:
    """The first local copy, None if there is none; one with another hash is an error."""
    path = next((path for path in candidates(asset) if path.is_file()), None)
    if path is not None and asset.sha256 is not None and content_hash(path) != asset.sha256:
        raise WRPOError(
            f"{path} is not {asset.name} (its sha256 is not {asset.sha256[:12]}...); "
            "delete it and run `wrpo assets fetch` again"
        )
    return path


def fetch(name: str) -> Path:
    """The path of an asset, downloaded with pooch if there is no local copy."""
    asset = find(name)
    if path := local(asset):
        return path
    if os.environ.get("HF_HUB_OFFLINE") == "1":
        raise WRPOError(
            f"{name} is not on this machine and HF_HUB_OFFLINE=1 forbids fetching it; set {MIRROR} "
            "to a folder that has it, or unset HF_HUB_OFFLINE and run `wrpo assets fetch`"
        )
    return _download(asset)


def _download(asset: Asset) -> Path:
    """Download to the cache; pooch checks the hash and moves the file in only when it fits."""
    import pooch

    pooch.get_logger().setLevel("WARNING")
    target = pooch.os_cache(CACHE) / asset.name
    known = f"sha256:{asset.sha256}" if asset.sha256 else None
    try:
        pooch.retrieve(asset.url, known, target.name, target.parent)
    except (OSError, ValueError) as error:  # no connection; a wrong hash
        reason = "its content has changed" if isinstance(error, ValueError) else "no connection"
        raise WRPOError(
            f"{asset.name} could not be fetched from {asset.url} ({reason}); fetch it elsewhere "
            f"and set {MIRROR} to the folder that holds {asset.mirror}"
        ) from error
    return target
