"""Which figure is drawn from which file by which function on which page."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from wrpo_lib.figures import evaluation, method, quadruples, training
from wrpo_lib.io import file_hash, write_atomically
from wrpo_lib.records import project_root

DEVIATION = "notebooks/01_distribution_deviation.ipynb"
BUILDING = "notebooks/02_building_quadruples.ipynb"
DYNAMICS = "notebooks/03_internal_reward_dynamics.ipynb"
TRAINING = "notebooks/04_wrpo_training.ipynb"
JUDGING = "notebooks/05_evaluation.ipynb"
ANSWERS = "nano/answers_seed1 nano/answers_seed2 nano/answers_seed3"


class Entry(NamedTuple):
    """A figure: what draws it for a profile, what of the paper it answers, its page, its tables.

    ``tables`` are named as under ``results``, with spaces between them; figures drawn from formulas
    or from the paper's own numbers alone have none.
    """

    draw: Callable[[str], Figure]
    paper: str
    page: str
    tables: str = ""


FIGURES = {
    "alpha": Entry(method.alpha_curves, "ours", "book/method.md"),
    "memory": Entry(method.memory_by_card, "ours", "book/method.md"),
    "figure1": Entry(training.figure1, "Figure 1", DEVIATION, "nano/deviation nano/scores"),
    "alpha_schedules": Entry(training.alpha_schedules, "Figure 2", BUILDING),
    "sources": Entry(quadruples.source_shares, "Table 1", BUILDING, "nano/sources smol/sources"),
    "rewards": Entry(quadruples.rewards, "ours", BUILDING, "nano/rewards smol/rewards"),
    "lengths": Entry(quadruples.lengths, "ours", BUILDING, "nano/quadruples smol/quadruples"),
    "gaps": Entry(quadruples.kept_by_gap, "ours", BUILDING, "nano/quadruples smol/quadruples"),
    "figure3": Entry(training.figure3, "Figure 3", DYNAMICS, "nano/dynamics"),
    "comparison": Entry(training.comparison, "Table 2", TRAINING, "nano/scores"),
    "protocols": Entry(evaluation.protocols, "Table 2", JUDGING, ANSWERS),
    "table2": Entry(evaluation.paper_table2, "Table 2", JUDGING),
    "corrections": Entry(evaluation.corrections, "ours", JUDGING, "nano/answers_seed1"),
    "published": Entry(evaluation.published_intervals, "ours", JUDGING, "published/alpaca_eval2"),
    "headroom": Entry(training.headroom, "ours", "book/testbed.md", "nano/scores"),
    "mask": Entry(training.mask, "ours", "book/training_engine.md"),
}


def draw_all(profile: str, out: Path) -> list[Path]:
    """Draw every figure of ``profile`` into ``out`` as PNG; returns the paths."""
    out.mkdir(parents=True, exist_ok=True)
    paths = [out / f"{name}.png" for name in FIGURES]
    for path, entry in zip(paths, FIGURES.values(), strict=True):
        figure = entry.draw(profile)
        figure.savefig(path)
        plt.close(figure)
    return paths


def figure_map() -> pd.DataFrame:
    """A row per figure and data file, with the file's hash as it is now."""
    rows = []
    for figure, (draw, paper, page, tables) in FIGURES.items():
        for name in tables.split() or [""]:
            file = f"results/{name}.csv" if name else ""
            digest = file_hash(project_root() / file) if name else ""
            function = f"{draw.__module__}.{draw.__name__}"
            rows.append((figure, paper, file, digest, function, page))
    columns = ["figure", "paper", "data_file", "sha256", "function", "page"]
    return pd.DataFrame(rows, columns=columns)


def write_figure_map() -> None:
    """Write ``results/figure_map.csv``."""
    path = project_root() / "results" / "figure_map.csv"
    write_atomically(path, figure_map().to_csv(index=False, lineterminator="\n"))


def linked_map() -> str:
    """The map as a table for the claims page: each row leads to page, code and data."""
    lines = ["| figure | paper | page | code | data | sha256 |", "|---|---|---|---|---|---|"]
    for row in figure_map().itertuples():
        module, _, function = row.function.rpartition(".")
        source = f"../_modules/{module.replace('.', '/')}.html#{function}"
        code = f'{{py:func}}`~{row.function}`, <a href="{source}">source</a>'
        data = f"{{download}}`{row.data_file} <../{row.data_file}>`" if row.data_file else ""
        page = f"{{doc}}`/{row.page.rpartition('.')[0]}`"
        cells = (row.figure, row.paper, page, code, data, row.sha256[:12])
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)
