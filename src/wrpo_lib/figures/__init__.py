"""One function a figure of the paper, each drawn from tracked results alone.

``FIGURES`` names them; ``results/figure_map.csv`` says which file and notebook each belongs to.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from wrpo_lib.figures import benchmarks, deviation, dynamics, evaluation, methods, quadruples

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FIGURES: dict[str, Callable[[str], Figure]] = {
    "bias_corrections": evaluation.corrections,
    "figure1_deviation": deviation.figure1,
    "figure2_alpha_schedules": quadruples.alpha_schedules,
    "figure2_gaps": quadruples.kept_by_gap,
    "figure2_lengths": quadruples.lengths,
    "figure2_rewards": quadruples.rewards,
    "figure2_sources": quadruples.source_shares,
    "figure3_dynamics": dynamics.figure3,
    "headroom": methods.headroom,
    "method_comparison": methods.comparison,
    "mt_bench_radar": evaluation.mt_bench_radar,
    "prompt_sharing_mask": benchmarks.mask,
    "protocols": methods.protocols,
    "published_intervals": evaluation.published_intervals,
    "table2_intervals": methods.paper_table2,
}


def draw_all(profile: str, out: Path) -> list[Path]:
    """Draw every figure of ``profile`` into ``out`` as PNG; returns the paths."""
    import matplotlib.pyplot as plt

    out.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, draw in FIGURES.items():
        figure = draw(profile)
        paths.append(out / f"{name}.png")
        figure.savefig(paths[-1])
        plt.close(figure)
    return paths
