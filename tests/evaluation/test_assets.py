"""Assets: the manifest is whole, copies are checked, a mirror replaces the network."""

import gzip
import hashlib
import re
from pathlib import Path

import pytest

from wrpo_lib.errors import WRPOError
from wrpo_lib.evaluation import benchmarks as assets


@pytest.fixture
def mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A mirror that is not there yet, and an empty cache."""
    monkeypatch.setenv("WRPO_ASSETS", str(tmp_path / "mirror"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "mirror"


def test_every_asset_names_its_source_revision_hash_and_licence() -> None:
    found = assets.manifest()
    families = {name.split("/")[0] for name in found}
    assert families == {"alpaca_eval_2", "mt_bench", "arena_hard_v0.1"}
    for asset in found.values():
        assert asset["url"].startswith("https://")
        assert asset["revision"] in asset["url"]
        assert asset["licence"] in {"Apache-2.0", "CC BY-NC 4.0"}
        assert re.fullmatch("[0-9a-f]{64}", asset["sha256"])
        assert re.fullmatch("[0-9a-f]{40}|main", asset["revision"])


def test_copies_are_found_by_either_name_and_checked_by_content(
    mirror: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = b"a question\n" * 1000
    asset = {"sha256": hashlib.sha256(content).hexdigest(), "mirror": "f.jsonl", "url": "x"}
    monkeypatch.setattr(assets, "manifest", lambda: {"a/x": asset})
    with pytest.raises(WRPOError, match=r"a/x could not be fetched .*HF_HUB_OFFLINE"):
        assets.fetch("a/x")
    for name in ("a/x", "f.jsonl.gz"):  # its own name, and better the manifest's
        path = mirror / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(gzip.compress(content, mtime=0) if name.endswith(".gz") else content)
        assert assets.fetch("a/x") == path
    for wrong in (gzip.compress(content, mtime=0)[:-20], gzip.compress(b"{}")):
        path.write_bytes(wrong)
        with pytest.raises(WRPOError, match=r"f.jsonl.gz is not a/x"):
            assets.fetch("a/x")


@pytest.mark.usefixtures("mirror")
def test_fetching_downloads_checks_and_keeps(
    monkeypatch: pytest.MonkeyPatch, served_folder: tuple[Path, str]
) -> None:
    """pooch against a local HTTP server: a right file is kept, a wrong one never appears."""
    folder, url = served_folder
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    (folder / "right.txt").write_bytes(b"right")
    (folder / "wrong.txt").write_bytes(b"changed upstream")
    known = hashlib.sha256(b"right").hexdigest()
    found = {
        f"set/{name}": {"url": f"{at}/{name}", "sha256": known, "mirror": name}
        for name, at in (("right.txt", url), ("wrong.txt", url), ("gone", "http://127.0.0.1:9"))
    }
    monkeypatch.setattr(assets, "manifest", lambda: found)
    path = assets.fetch("set/right.txt")
    assert path.read_bytes() == b"right"
    (folder / "right.txt").unlink()
    assert assets.fetch("set/right.txt") == path  # from the cache
    with pytest.raises(WRPOError, match="its content has changed"):
        assets.fetch("set/wrong.txt")
    assert not path.with_name("wrong.txt").exists()
    with pytest.raises(WRPOError, match=r"could not be fetched from http://127.0.0.1:9"):
        assets.fetch("set/gone")
