"""Run records and tracked results: where every reported number comes from.

``results/<profile>/`` holds small tables and a ``run.json`` with schema, seeds, versions, commit
and the hash of each table. Figures and pages read them through :func:`read_results` only.
"""

import os
import platform
import subprocess
from contextlib import suppress
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import pandas as pd

from wrpo_lib.errors import WRPOError, explained
from wrpo_lib.io import file_hash, parse_row, replacing, write_json

SCHEMA = 1
"""Version of the results' layout; raised when numbers stop being comparable."""

PACKAGES = "torch transformers trl peft datasets accelerate numpy pandas scikit-learn scipy"


def project_root() -> Path:
    """The checkout: ``WRPO_HOME``, else the nearest above the working folder or this file."""
    if home := os.environ.get("WRPO_HOME"):
        return Path(home).resolve()
    here = Path.cwd().resolve()
    for folder in (here, *here.parents, *Path(__file__).resolve().parents):
        if (folder / "recipes").is_dir() and (folder / "pyproject.toml").is_file():
            return folder
    what = "no checkout of the companion was found above the working directory"
    raise WRPOError(f"{what}; run from inside one or set WRPO_HOME to its path")


def provenance() -> dict[str, Any]:
    """Versions, machine and time of a run, and the checkout's commit (``-dirty`` if changed)."""
    command, commit = ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"], ""
    with suppress(OSError):  # no git
        done = subprocess.run(command, cwd=project_root(), capture_output=True, text=True)
        commit = done.stdout.strip()
    return {
        "commit": commit or "unknown",
        "written": datetime.now(UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "versions": {name: metadata.version(name) for name in PACKAGES.split()},
    }


def results_dir(profile: str) -> Path:
    """``results/<profile>`` of the checkout."""
    return project_root() / "results" / profile


def write_results(profile: str, tables: dict[str, pd.DataFrame], record: dict[str, Any]) -> Path:
    """Write all tables (``.csv`` unless their name ends otherwise) and, last, the ``run.json``."""
    record = {"schema": SCHEMA, "profile": profile, **provenance(), **record}
    folder, files = results_dir(profile), {}
    for name, table in tables.items():
        path = folder / (name if "." in name else f"{name}.csv")
        with replacing(path) as part:
            if path.suffix == ".parquet":
                table.to_parquet(part, index=False, compression="zstd")
            else:  # the same bytes for the same table: an archive records no time
                packed: Any = {"method": "gzip", "mtime": 0} if path.suffix == ".gz" else None
                table.to_csv(part, index=False, compression=packed, float_format="%.6g")
        files[path.name] = {"rows": len(table), "sha256": file_hash(path)}
    write_json(folder / "run.json", record | {"files": files})
    return folder


def read_run(profile: str) -> dict[str, Any]:
    """The ``run.json`` of a profile; another schema version is an error."""
    path = results_dir(profile) / "run.json"
    with explained(f"no results for profile {profile!r}", "run `make results`"):
        record = parse_row(path.read_bytes(), str(path))
    if record.get("schema") != SCHEMA:
        what = f"has results schema {record.get('schema')}, this version reads {SCHEMA}"
        raise WRPOError(f"{path} {what}; run `make results` again")
    return record


def read_results(profile: str, name: str) -> pd.DataFrame:
    """The tracked table of this name, with or without suffix, if its hash is the recorded one."""
    files = read_run(profile)["files"]
    file = next((file for file in files if name in (file, file.partition(".")[0])), None)
    if file is None:
        raise WRPOError(f"profile {profile!r} has no table {name!r}; it has {', '.join(files)}")
    path = results_dir(profile) / file
    if not path.is_file() or file_hash(path) != files[file]["sha256"]:
        what = "differs from what its run.json records (missing, truncated or edited)"
        raise WRPOError(f"{path} {what}; run `make results` or check it out again")
    if path.suffix == ".parquet":
        return pd.read_parquet(path)
    return pd.read_csv(path, keep_default_na=False, na_values=[""])
