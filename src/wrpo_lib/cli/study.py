"""``wrpo results``, ``wrpo figures``: the study and its pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from wrpo_lib.errors import WRPOError


def results(
    profile: Annotated[str, typer.Argument(help="nano, or smol (quadruples of real text)")],
    workers: Annotated[int, typer.Option(help="nano: processes, one thread each")] = 2,
    seeds: Annotated[str, typer.Option(help="nano: comma-separated; default: the recipe's")] = "",
    published: Annotated[
        Path | None, typer.Option(help="smol: folder of alpaca_eval's results, <model>.json.gz")
    ] = None,
    prompts: Annotated[int, typer.Option(help="smol: prompts drawn")] = 120,
) -> None:
    """Run every experiment of PROFILE (finished stages are kept) and rewrite its results."""
    from wrpo_lib.records import project_root

    if profile == "nano":
        try:
            chosen = [int(s) for s in seeds.split(",") if s.strip()]
        except ValueError as error:
            raise WRPOError(f"--seeds is {seeds!r}; give whole numbers such as 1,2,3") from error
        from wrpo_lib.nano.study import make_results

        make_results(chosen or None, workers)
    elif profile == "smol":
        if published is None:
            raise WRPOError("results smol needs --published FOLDER, a file of outputs per model")
        from wrpo_lib.smol import study

        asked = study.Study(project_root() / "runs" / "smol", published, prompts)
        typer.echo(f"wrote {study.make_results(asked)}")
    else:
        raise WRPOError(f"unknown profile {profile!r}; choose one of nano, smol")


def figures(
    profile: Annotated[str, typer.Argument()] = "nano",
    out: Annotated[Path, typer.Option(help="folder for the pictures")] = Path("_build/figures"),
) -> None:
    """Draw every figure from the tracked results of PROFILE."""
    from wrpo_lib.figures.map import draw_all

    for path in draw_all(profile, out):
        typer.echo(path)
