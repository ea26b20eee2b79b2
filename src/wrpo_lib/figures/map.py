"""Which figure is drawn from which file by which function on which page."""

from __future__ import annotations

from typing import TYPE_CHECKING

from wrpo_lib.io import file_hash, write_atomically
from wrpo_lib.records import project_root, results_dir

if TYPE_CHECKING:
    import pandas as pd

ROWS = (
    ("figure1_deviation", "Figure 1", "deviation", "notebooks/01_distribution_deviation.ipynb"),
    ("figure1_deviation", "Figure 1", "scores", "notebooks/01_distribution_deviation.ipynb"),
    ("figure2_sources", "Table 1", "sources", "notebooks/02_building_quadruples.ipynb"),
    ("figure2_sources", "Table 1", "smol/sources", "notebooks/02_building_quadruples.ipynb"),
    ("figure2_rewards", "ours", "rewards", "notebooks/02_building_quadruples.ipynb"),
    ("figure2_rewards", "ours", "smol/rewards", "notebooks/02_building_quadruples.ipynb"),
    ("figure2_lengths", "ours", "quadruples", "notebooks/02_building_quadruples.ipynb"),
    ("figure2_lengths", "ours", "smol/quadruples", "notebooks/02_building_quadruples.ipynb"),
    ("figure2_gaps", "ours", "quadruples", "notebooks/02_building_quadruples.ipynb"),
    ("figure2_gaps", "ours", "smol/quadruples", "notebooks/02_building_quadruples.ipynb"),
    ("figure3_dynamics", "Figure 3", "dynamics", "notebooks/03_internal_reward_dynamics.ipynb"),
    ("method_comparison", "Table 2", "scores", "notebooks/04_wrpo_training.ipynb"),
    ("protocols", "Table 2", "answers_seed{seed}", "notebooks/05_evaluation.ipynb"),
    ("bias_corrections", "ours", "answers_seed1", "notebooks/05_evaluation.ipynb"),
    ("published_intervals", "ours", "published/alpaca_eval2", "notebooks/05_evaluation.ipynb"),
    ("mt_bench_radar", "ours", "published/mt_bench", "notebooks/05_evaluation.ipynb"),
    ("headroom", "ours", "scores", "book/testbed.md"),
)
"""Figure, what of the paper it answers, table of ``results/nano`` (or PROFILE/table), page. Figures
drawn from formulas or from the paper's own numbers (``figure2_alpha_schedules``,
``prompt_sharing_mask``, ``table2_intervals``) have no data file and are left out."""


def figure_map(seeds: list[int]) -> pd.DataFrame:
    """The map with the hash of every data file, as it is now."""
    import pandas as pd

    from wrpo_lib.figures import FIGURES

    rows = []
    for figure, answers, table, page in ROWS:
        for name in dict.fromkeys(table.format(seed=s) for s in seeds):
            profile, file = name.split("/") if "/" in name else ("nano", name)
            path = results_dir(profile) / f"{file}.csv"
            draw = FIGURES[figure]
            rows.append(
                {
                    "figure": figure,
                    "paper": answers,
                    "data_file": path.relative_to(project_root()).as_posix(),
                    "sha256": file_hash(path),
                    "function": f"{draw.__module__}.{draw.__name__}",
                    "page": page,
                }
            )
    return pd.DataFrame(rows)


def write_figure_map(seeds: list[int]) -> None:
    """Write ``results/figure_map.csv``."""
    path = project_root() / "results" / "figure_map.csv"
    write_atomically(path, figure_map(seeds).to_csv(index=False, lineterminator="\n"))
