"""Tables of the benchmarks, kept as all tracked results are: hashes and provenance beside them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from wrpo_lib.errors import WRPOError
from wrpo_lib.figures.map import write_figure_map
from wrpo_lib.io import write_json
from wrpo_lib.records import read_results, read_run, results_dir, write_results

PROFILE = "benchmarks"
ABOUT = ("commit", "written", "python", "machine", "processor", "compiled", "versions")
"""Provenance of a part, beside its record."""


def save(
    tables: dict[str, pd.DataFrame],
    records: dict[str, dict[str, Any]],
    made: dict[str, Any],
    out: Path | None,
) -> Path:
    """Write tables and what was measured; a part that was not run now keeps its last run.

    Beside the tables: ``run.json`` with each part's record and provenance, ``train_step.json`` with
    the summary of the steps and the ratios from ``memory`` and ``steady``, and the figure map,
    which names them. ``made`` is the provenance as it was when the run began; ``out`` puts all but
    the map into another folder.
    """
    parts = {name: {**made, **record} for name, record in records.items()}
    if out is None:
        tables, parts = {**_kept_tables(tables), **tables}, {**_kept_parts(), **parts}
        folder = write_results(PROFILE, tables, {"parts": parts})
        write_figure_map(read_run("nano")["seeds"])
    else:
        folder = out
        folder.mkdir(parents=True, exist_ok=True)
        for name, table in tables.items():
            table.to_csv(folder / f"{name}.csv", index=False)
    if "steps" in parts:
        write_json(folder / "train_step.json", _summary(parts))
    return folder


def _summary(parts: dict[str, Any]) -> dict[str, Any]:
    """Provenance and record of the steps, with the numbers of memory and of steps in a row."""
    steps = parts["steps"]
    detail = {name: value for name, value in steps.items() if name not in ABOUT}
    for part in [name for name in ("memory", "steady") if name in parts]:
        found = parts[part].items()
        detail |= {k: v for k, v in found if isinstance(v, float) or k == "peak_gib"}
        detail[part] = parts[part]
    return {**{name: steps[name] for name in ABOUT if name in steps}, "detail": detail}


def _kept_parts() -> dict[str, Any]:
    try:
        return dict(read_run(PROFILE)["parts"])
    except WRPOError:
        return {}


def _kept_tables(new: dict[str, pd.DataFrame]) -> dict[str, pd.DataFrame]:
    names = [n for n in _kept_parts() if n not in new]
    return {n: read_results(PROFILE, n) for n in names if (results_dir(PROFILE)).is_dir()}
