"""Which figure is drawn from which file by which function on which page."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from wrpo_lib.figures import benchmarks, dynamics, evaluation, methods, quadruples
from wrpo_lib.io import file_hash, write_atomically
from wrpo_lib.records import project_root, results_dir

DEVIATION = "notebooks/01_distribution_deviation.ipynb"
BUILDING = "notebooks/02_building_quadruples.ipynb"
DYNAMICS = "notebooks/03_internal_reward_dynamics.ipynb"
TRAINING = "notebooks/04_wrpo_training.ipynb"
JUDGING = "notebooks/05_evaluation.ipynb"
ENGINE = "book/training_engine.md"
QUADRUPLES = ("quadruples", "smol/quadruples")


class Entry(NamedTuple):
    """A figure: what draws it for a profile, what of the paper it answers, and its page.

    ``tables`` of ``results/nano``, or PROFILE/table. Figures drawn from formulas or from the
    paper's own numbers have none.
    """

    draw: Callable[[str], Figure]
    paper: str
    page: str
    tables: tuple[str, ...] = ()


FIGURES = {
    "figure1_deviation": Entry(dynamics.figure1, "Figure 1", DEVIATION, ("deviation", "scores")),
    "figure2_alpha_schedules": Entry(quadruples.alpha_schedules, "Figure 2", BUILDING),
    "figure2_sources": Entry(
        quadruples.source_shares, "Table 1", BUILDING, ("sources", "smol/sources")
    ),
    "figure2_rewards": Entry(quadruples.rewards, "ours", BUILDING, ("rewards", "smol/rewards")),
    "figure2_lengths": Entry(quadruples.lengths, "ours", BUILDING, QUADRUPLES),
    "figure2_gaps": Entry(quadruples.kept_by_gap, "ours", BUILDING, QUADRUPLES),
    "figure3_dynamics": Entry(dynamics.figure3, "Figure 3", DYNAMICS, ("dynamics",)),
    "method_comparison": Entry(methods.comparison, "Table 2", TRAINING, ("scores",)),
    "protocols": Entry(methods.protocols, "Table 2", JUDGING, ("answers_seed{seed}",)),
    "table2_intervals": Entry(methods.paper_table2, "Table 2", JUDGING),
    "bias_corrections": Entry(evaluation.corrections, "ours", JUDGING, ("answers_seed1",)),
    "published_intervals": Entry(
        evaluation.published_intervals, "ours", JUDGING, ("published/alpaca_eval2",)
    ),
    "mt_bench_radar": Entry(evaluation.mt_bench_radar, "ours", JUDGING, ("published/mt_bench",)),
    "headroom": Entry(methods.headroom, "ours", "book/testbed.md", ("scores",)),
    "prompt_sharing_mask": Entry(benchmarks.mask, "ours", ENGINE),
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


def figure_map(seeds: list[int]) -> pd.DataFrame:
    """The map with the hash of every data file, as it is now."""
    rows = []
    for figure, entry in FIGURES.items():
        function = f"{entry.draw.__module__}.{entry.draw.__name__}"
        for name in dict.fromkeys(t.format(seed=s) for t in entry.tables for s in seeds):
            path = results_dir("") / f"{name if '/' in name else f'nano/{name}'}.csv"
            file = path.relative_to(project_root()).as_posix()
            rows.append((figure, entry.paper, file, file_hash(path), function, entry.page))
    columns = ["figure", "paper", "data_file", "sha256", "function", "page"]
    return pd.DataFrame(rows, columns=columns)


def write_figure_map(seeds: list[int]) -> None:
    """Write ``results/figure_map.csv``."""
    path = project_root() / "results" / "figure_map.csv"
    write_atomically(path, figure_map(seeds).to_csv(index=False, lineterminator="\n"))
