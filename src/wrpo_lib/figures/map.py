"""Which figure is drawn from which file by which function on which page."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import matplotlib.pyplot as plt
import pandas as pd
from joblib import Parallel, delayed

from wrpo_lib.analysis.outcomes import Results, Verdict, verdicts
from wrpo_lib.analysis.report import maths
from wrpo_lib.errors import WRPOError
from wrpo_lib.figures import deviation as densities
from wrpo_lib.figures import evaluation, formulas, method, paper, quadruples, study, tables
from wrpo_lib.figures.style import Drawn
from wrpo_lib.io import file_hash, write_atomically
from wrpo_lib.recipes import nearest
from wrpo_lib.records import project_root, read_run

DEVIATION = "notebooks/01_distribution_deviation.ipynb"
BUILDING = "notebooks/02_building_quadruples.ipynb"
DYNAMICS = "notebooks/03_internal_reward_dynamics.ipynb"
ABLATIONS = "notebooks/06_ablations.ipynb"
JUDGING = "notebooks/05_evaluation.ipynb"
PAPER = "book/paper.md"
FORMATS = ("svg", "pdf", "png")


class Entry(NamedTuple):
    """A figure or table: what makes it, of what in the paper, its page, its data in ``results``."""

    draw: Callable[[], Drawn | pd.DataFrame]
    paper: str
    page: str
    data: str = ""


FIGURES = {
    "figure_1": Entry(paper.figure_1, "Figure 1", DEVIATION, "nano/deviation nano/outcomes"),
    "figure_2": Entry(formulas.figure_2, "Figure 2", BUILDING),
    "figure_3": Entry(paper.figure_3, "Figure 3", DYNAMICS, "nano/dynamics nano/outcomes"),
    "figure_4": Entry(paper.figure_4, "Figure 4", ABLATIONS, "nano/outcomes"),
    "figure_5": Entry(paper.figure_5, "Figure 5", ABLATIONS, "nano/outcomes nano/dynamics"),
    "figure_6": Entry(paper.figure_6, "Figure 6", ABLATIONS, "nano/outcomes"),
    "table_1": Entry(tables.table_1, "Table 1", PAPER, "nano/sources"),
    "table_2": Entry(tables.table_2, "Table 2", PAPER, "nano/outcomes nano/arms"),
    "table_3": Entry(tables.table_3, "Table 3", PAPER, "nano/outcomes"),
    "table_4": Entry(tables.table_4, "Table 4", PAPER, "nano/outcomes"),
    "table_5": Entry(tables.table_5, "Table 5", PAPER),
    "table_6": Entry(tables.table_6, "Table 6", PAPER),
    "table_7": Entry(tables.table_7, "Table 7", PAPER, "nano/outcomes"),
    "table_8": Entry(tables.table_8, "Table 8", PAPER, "nano/arms"),
    "table_9": Entry(tables.table_9, "Table 9", PAPER, "nano/outcomes"),
    "table_10": Entry(tables.table_10, "Table 10", PAPER, "nano/outcomes"),
    "table_11": Entry(tables.table_11, "Table 11", PAPER),
    "table_12": Entry(tables.table_12, "Table 12", PAPER, "nano/responses"),
    "comparison": Entry(study.comparison, "Table 2", "book/index.md", "nano/outcomes"),
    "headroom": Entry(study.headroom, "ours", "book/testbed.md", "nano/outcomes"),
    "rules": Entry(tables.rules, "ours", "book/testbed.md", "development/headroom nano/headroom"),
    "densities": Entry(densities.deviation_densities, "Figure 1", DEVIATION, "nano/deviation"),
    "deviation": Entry(tables.deviation, "Figure 1", DEVIATION, "nano/deviation"),
    "dynamics": Entry(tables.dynamics, "Figure 3", DYNAMICS, "nano/dynamics"),
    "dose": Entry(tables.dose, "ours", ABLATIONS, "nano/dynamics"),
    "skills": Entry(study.skills, "ours", ABLATIONS, "nano/outcomes"),
    "length": Entry(study.length, "ours", ABLATIONS, "nano/outcomes"),
    "measures": Entry(tables.measures, "ours", ABLATIONS, "nano/outcomes nano/arms"),
    "pays": Entry(study.pays, "ours", ABLATIONS, "nano/outcomes"),
    "grid": Entry(study.grid, "Table 5", ABLATIONS, "development/grid"),
    "alpha": Entry(method.alpha_curves, "ours", "book/method.md"),
    "memory": Entry(method.memory_by_card, "ours", "book/method.md"),
    "sources": Entry(quadruples.source_shares, "Table 1", BUILDING, "nano/sources smol/sources"),
    "rewards": Entry(quadruples.rewards, "ours", BUILDING, "smol/rewards"),
    "lengths": Entry(quadruples.lengths, "ours", BUILDING, "smol/quadruples"),
    "gaps": Entry(quadruples.kept_by_gap, "ours", BUILDING, "smol/quadruples"),
    "protocols": Entry(evaluation.protocols, "Table 2", JUDGING, "nano/judged"),
    "table_2_intervals": Entry(evaluation.paper_table2, "Table 2", JUDGING),
    "corrections": Entry(evaluation.corrections, "ours", JUDGING, "nano/answers"),
    "published": Entry(evaluation.published_intervals, "ours", JUDGING, "published/alpaca_eval2"),
    "mask": Entry(formulas.mask, "ours", "book/training_engine.md"),
}


def draw_all(out: Path, only: str | None = None) -> list[Path]:
    """Make every figure and table, or the one called ``only``, in ``out``.

    A figure becomes SVG, PDF, PNG and the CSV of what is drawn; a table becomes a CSV.
    """
    if only is not None and only not in FIGURES:
        raise WRPOError(f"there is no figure {only!r}; {nearest(only, FIGURES)}")
    out.mkdir(parents=True, exist_ok=True)
    if only:
        return _draw(only, out)
    # forked, where the system can: nothing is imported again
    made = Parallel(-1, backend="multiprocessing")(delayed(_draw)(name, out) for name in FIGURES)
    return [path for paths in made for path in paths]


def _draw(name: str, out: Path) -> list[Path]:
    made, paths = FIGURES[name].draw(), []
    if isinstance(made, Drawn):
        made.figure.draw_without_rendering()
        made.figure.set_layout_engine("none")  # the layout holds for all three
        for kind in FORMATS:
            paths.append(out / f"{name}.{kind}")
            made.figure.savefig(paths[-1])
        plt.close(made.figure)
        made = made.rows
    paths.append(out / f"{name}.csv")
    made.to_csv(paths[-1], index=False, float_format="%.6g")
    return paths


def figure_map() -> pd.DataFrame:
    """A row per figure and data file, with the file's hash as it is now."""
    rows = []
    for figure, (draw, part, page, data) in FIGURES.items():
        for name in data.split() or [""]:
            file = data_file(name) if name else ""
            digest = file_hash(project_root() / file) if name else ""
            function = f"{draw.__module__}.{draw.__name__}"
            rows.append((figure, part, file, digest, function, page))
    columns = ["figure", "paper", "data_file", "sha256", "function", "page"]
    return pd.DataFrame(rows, columns=columns)


def data_file(name: str) -> str:
    """The tracked file behind ``profile/table``, whatever its suffix."""
    profile, _, table = name.partition("/")
    for file in read_run(profile)["files"]:
        if file.partition(".")[0] == table:
            return f"results/{profile}/{file}"
    raise WRPOError(f"results/{profile} has no table {table!r}; run `make results`")


def write_figure_map() -> None:
    """Write ``results/figure_map.csv``."""
    path = project_root() / "results" / "figure_map.csv"
    write_atomically(path, figure_map().to_csv(index=False, lineterminator="\n"))


def linked_claims(confirmatory: bool = True) -> str:
    """The claims of one kind as a list for their page: status, ours by the paper's, links."""
    found = [v for v in verdicts(Results()) if v.claim.confirmatory == confirmatory]
    return "\n".join(map(_linked, found))


def _linked(verdict: Verdict) -> str:
    claim, entry = verdict.claim, FIGURES[verdict.claim.figure]
    kind = verdict.status.removesuffix(" than δ").replace(" ", "-")  # as in the style sheet
    badge = f'<span class="badge-{kind}">{verdict.status}</span>'
    name = claim.figure.replace("_", " ").capitalize()
    links = [f"{{doc}}`{name} </{entry.page.rpartition('.')[0]}>`"]
    for file in map(data_file, entry.data.split()):
        links.append(f"{{download}}`{Path(file).name} <../{file}>`")
    ours = f"Ours: {verdict.ours()}." if verdict.found else ""
    where = claim.where[0].upper() + claim.where[1:]
    said = f"{where}. Paper: {claim.paper.words}. {ours} {verdict.remark}"
    told = f'<span id="claim-{claim.id}"></span>{badge} {maths(f"**{claim.statement}** {said}")}'
    return f"- {told} ({', '.join(links)})"


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
