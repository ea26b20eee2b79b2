"""``wrpo assets``: the benchmarks' files of others, by name and hash."""

from __future__ import annotations

from typing import Annotated

import typer

from wrpo_lib.errors import WRPOError

app = typer.Typer(
    help="List, fetch and verify the benchmarks' files (a mirror: WRPO_ASSETS).",
    no_args_is_help=True,
)
Names = Annotated[list[str] | None, typer.Argument(help="assets or folders of them; default: all")]


def _chosen(names: list[str] | None) -> list[str]:
    from wrpo_lib.evaluation.assets import find, manifest

    found = list(manifest())
    if not names:
        return found
    chosen = []
    for name in names:
        chosen += [n for n in found if n.split("/")[0] == name] or [find(name).name]
    return chosen


@app.command(name="list")
def list_() -> None:
    """Name, licence, hash and what each file is."""
    from wrpo_lib.evaluation.assets import manifest

    for name, asset in manifest().items():
        known = asset.sha256[:12] if asset.sha256 else "not verified"
        typer.echo(f"{name:52} {asset.licence:14} {known:12}  {asset.what}")


@app.command()
def fetch(names: Names = None) -> None:
    """Make NAMES available: from a mirror, an installed package, the cache, else from upstream."""
    from wrpo_lib.evaluation import assets

    for name in _chosen(names):
        typer.echo(f"{name}: {assets.fetch(name)}")


@app.command()
def verify(names: Names = None) -> None:
    """Compare local copies with their hashes; exit status 2 if one differs."""
    from wrpo_lib.evaluation import assets

    wrong = 0
    for name in _chosen(names):
        asset = assets.find(name)
        try:
            path = assets.local(asset)
        except WRPOError as error:
            wrong += 1
            typer.echo(f"wrpo: {error}", err=True)
            continue
        if path is None:
            typer.echo(f"{name}: not here")
        else:
            typer.echo(f"{name}: {'as expected' if asset.sha256 else 'here, not verified'}")
    if wrong:
        raise typer.Exit(2)
