"""What ``benchmarks/train_step.py`` measured, as the tables of the page."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from wrpo_lib.errors import WRPOError
from wrpo_lib.records import results_dir

if TYPE_CHECKING:
    import pandas as pd


def measured() -> dict[str, Any]:
    """``results/benchmarks/train_step.json``: provenance, ``ratios`` and ``memory``."""
    path = results_dir("benchmarks") / "train_step.json"
    if not path.is_file():
        raise WRPOError(f"{path} is missing; run `make benchmark`")
    return dict(json.loads(path.read_text(encoding="utf-8")))


def ratios_table() -> pd.DataFrame:
    """A row per variant: how many times as fast as the official step, median [quartiles]."""
    import pandas as pd

    run = measured()
    rows = pd.DataFrame(run["ratios"])
    rows["shown"] = rows.apply("{median:.2f} [{low:.2f}, {high:.2f}]".format_map, axis=1)
    wide = rows.pivot(index="variant", columns="workload", values="shown")
    wide = wide.loc[list(run["variants"])]
    return wide.rename(run["variants"]).rename_axis(columns=None).reset_index()


def memory_table() -> pd.DataFrame:
    """A row per variant: GiB at the peak of a fresh process, and its share of the official."""
    import pandas as pd

    run = measured()
    table = pd.DataFrame(run["memory"]).replace({"variant": run["variants"]})
    return table.set_axis(["variant", "peak, GiB", "of the official"], axis=1)
