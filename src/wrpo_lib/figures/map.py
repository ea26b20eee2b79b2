"""Which figure is drawn from which file by which function on which page, and the claims' list."""

from collections.abc import Callable
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
from joblib import Parallel, delayed
from matplotlib.layout_engine import ConstrainedLayoutEngine

from wrpo_lib.analysis.outcomes import verdicts
from wrpo_lib.analysis.report import maths
from wrpo_lib.errors import WRPOError
from wrpo_lib.figures.paper import study
from wrpo_lib.figures.style import Drawn
from wrpo_lib.io import file_hash
from wrpo_lib.recipes import nearest
from wrpo_lib.records import project_root

# a row per figure or table: what in the paper, its page, its function, the tracked files it reads
FIGURES = pd.read_csv(Path(__file__).with_name("map.csv"), na_filter=False, index_col="figure")


def draw_all(out: Path, only: str | None = None) -> list[Path]:
    """Make every figure and table, or the one called ``only``, in ``out``.

    A figure becomes SVG, PDF, PNG and the CSV of what is drawn; a table becomes a CSV.
    """
    if only is not None and only not in FIGURES.index:
        raise WRPOError(f"there is no figure {only!r}; {nearest(only, FIGURES.index)}")
    out.mkdir(parents=True, exist_ok=True)
    names = FIGURES.index if only is None else [only]
    jobs = [delayed(_draw)(out / n, resolve_name(FIGURES.loc[n, "function"])) for n in names]
    # forked, where the system can: nothing is imported again
    made = Parallel(-1 if only is None else 1, backend="multiprocessing")(jobs)
    return [path for paths in made for path in paths]


def _draw(stem: Path, make: Callable[[], Any]) -> list[Path]:
    made, paths = make(), [stem.with_suffix(".csv")]
    if isinstance(made, Drawn):
        ConstrainedLayoutEngine().execute(made.figure)
        made.figure.set_layout_engine("none")  # the layout holds for all three
        for suffix in (".svg", ".pdf", ".png"):
            paths.append(stem.with_suffix(suffix))
            made.figure.savefig(paths[-1])
        plt.close(made.figure)
        made = made.rows
    made.to_csv(paths[0], index=False, float_format="%.6g")
    return paths


def figure_map() -> pd.DataFrame:
    """A row per figure and data file, with the file's hash as it is now."""
    rows, root = FIGURES.reset_index(), project_root()
    rows["data_file"] = rows["data"].str.split(" ")
    rows = rows.explode("data_file", ignore_index=True)
    rows["sha256"] = [file_hash(root / file) if file else "" for file in rows["data_file"]]
    return rows[["figure", "paper", "data_file", "sha256", "function", "page"]]


def linked_claims(confirmatory: bool = True) -> str:
    """The claims of one kind as a list for their page: status, ours by the paper's, links."""
    lines = []
    for verdict in verdicts(study("nano")):
        claim, figure = verdict.claim, FIGURES.loc[verdict.claim.figure]
        if claim.confirmatory != confirmatory:
            continue
        kind = verdict.status.removesuffix(" than δ").replace(" ", "-")  # as in the style sheet
        badge = f'<span class="badge-{kind}">{verdict.status}</span>'
        name = claim.figure.replace("_", " ").capitalize()
        links = [f"{{doc}}`{name} </{figure['page'].rpartition('.')[0]}>`"]
        links += [f"{{download}}`{Path(f).name} <../{f}>`" for f in figure["data"].split()]
        ours = f"Ours: {verdict.ours()}." if verdict.found else ""
        where = claim.where[0].upper() + claim.where[1:]
        said = f"{where}. Paper: {claim.paper.words}. {ours} {verdict.remark}"
        told = maths(f"**{claim.statement}** {said}")
        lines.append(f'- <span id="claim-{claim.id}"></span>{badge} {told} ({", ".join(links)})')
    return "\n".join(lines)


def linked_map() -> str:
    """The map as a table for the claims page: each row leads to page, code and data."""
    lines = ["| figure | paper | page | code | data | sha256 |", "|---|---|---|---|---|---|"]
    for row in figure_map().itertuples():
        module, _, function = row.function.rpartition(".")
        source = f"../_modules/{module.replace('.', '/')}.html#{function}"
        code = f'<a href="{source}">{function}()</a>'
        file = Path(row.data_file)
        data = f"{{download}}`{file.name} <../{file}>`" if row.data_file else ""
        page = f"{{doc}}`/{row.page.rpartition('.')[0]}`"
        cells = (row.figure, row.paper, page, code, data, row.sha256[:12])
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)
