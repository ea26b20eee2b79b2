"""``wrpo results``, ``wrpo figures``: the study and its pictures."""

from pathlib import Path
from typing import Annotated

import typer

from wrpo_lib.errors import WRPOError
from wrpo_lib.io import write_atomically


def results(
    profile: Annotated[
        str, typer.Argument(help="nano, development (its settings), or smol (real text)")
    ],
    workers: Annotated[int, typer.Option(help="nano: processes, one thread each")] = 2,
    published: Annotated[
        Path | None, typer.Option(help="smol: folder of alpaca_eval's results, <model>.json.gz")
    ] = None,
) -> None:
    """Run every experiment of PROFILE (finished stages are kept) and rewrite its results."""
    if profile not in ("nano", "development", "smol"):
        raise WRPOError(f"unknown profile {profile!r}; choose one of nano, development, smol")
    if profile == "smol" and published is None:
        raise WRPOError("results smol needs --published FOLDER, a file of outputs per model")
    from wrpo_lib import smol
    from wrpo_lib.figures.map import figure_map
    from wrpo_lib.nano import runner

    folder = smol.make_results(published) if published else runner.make_results(profile, workers)
    typer.echo(f"wrote {folder}")
    table = figure_map().to_csv(index=False, lineterminator="\n")
    write_atomically(folder.parent / "figure_map.csv", table)


def figures(
    out: Annotated[Path, typer.Option(help="folder for the files")] = Path("_build/figures"),
    only: Annotated[str | None, typer.Option(help="one figure or table: figure_5")] = None,
) -> None:
    """Make every figure (SVG, PDF, PNG) and table (CSV) from the tracked results."""
    from wrpo_lib.figures.map import draw_all

    for path in draw_all(out, only):
        typer.echo(path)
