"""The paper's tables with ours beside them, tables of our own, the figure map and the claims.

Ours are % of held-out samples that are exactly right, with 95 % intervals over worlds. The scales
are not comparable; the order is, and a gain as a share of another gain.
"""

import gc
from collections.abc import Callable, Sequence
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from joblib import Parallel, delayed
from matplotlib.layout_engine import ConstrainedLayoutEngine

from wrpo_lib.analysis.outcomes import Results, verdicts
from wrpo_lib.analysis.report import maths, world_rules
from wrpo_lib.analysis.statistics import mean_interval, signed
from wrpo_lib.errors import WRPOError
from wrpo_lib.figures.paper import DYNAMICS, study
from wrpo_lib.figures.study import METHODS, SETTINGS
from wrpo_lib.figures.style import STYLE, Drawn, look
from wrpo_lib.io import file_hash
from wrpo_lib.paper import table
from wrpo_lib.recipes import nearest, read_yaml
from wrpo_lib.records import project_root, read_results

# a row per figure or table: what in the paper, its page, its function, the tracked files it reads
FIGURES = pd.read_csv(Path(__file__).with_name("map.csv"), na_filter=False, index_col="figure")
SHOWN = read_yaml(Path(__file__).with_name("tables.yaml"))
DOSED = ("wrpo_a10", "wrpo_a30", "wrpo_a50", "wrpo_const_a10", "wrpo_const_a30", "wrpo_const_a50")
ASKED = ("source_1", "target", "target_sft", "dpo_on", "dpo_hybrid", "wrpo", "sft_more")


def levels(results: Results, arms: Sequence[str], *of: str) -> list[str]:
    """``value [low, high]`` of each arm, as :meth:`Results.levels` estimates it."""
    rows = results.levels(arms, *of).to_dict("records")
    return list(map("{value:.1f} [{low:.1f}, {high:.1f}]".format_map, rows))


def beside(name: str, results: Results) -> pd.DataFrame:
    """The rows of one of the paper's tables, with or without an arm of ours, then our own rows."""
    spec = SHOWN[name]
    arms, columns = spec["arms"], spec["columns"]
    theirs = table(spec["file"], as_printed=True).set_index(spec["label"])[list(columns)]
    ours = pd.DataFrame({"ours": [look(arm).name for arm in arms.values()]}, index=list(arms))
    ours["right, %"] = levels(results, list(arms.values()))
    rows = theirs.rename(columns=columns).join(ours, how="outer", sort=False)
    order = theirs.index.append(ours.index.difference(theirs.index, sort=False))
    return rows.loc[order].fillna("").rename_axis("paper").reset_index()


def table_1(profile: str = "nano") -> pd.DataFrame:
    """Who wins how many prompts: the paper's ten sources and ours, each from the strongest."""
    theirs = table("table01_sources", as_printed=True)
    rows = theirs.set_axis(["paper", "billion parameters", "% of prompts won"], axis=1)
    won = study(profile).table("sources").groupby("source")["share"]
    best = won.mean().sort_values(ascending=False).index
    shown = [mean_interval(100 * won.get_group(name)).text(1) for name in best]
    found = pd.DataFrame({"ours": [look(name).name for name in best], "ours, % won": shown})
    return rows.join(found).fillna("")


def table_2(profile: str = "nano") -> pd.DataFrame:
    """The main results; explicit fusion and the paper's sources have no counterpart here."""
    results = study(profile)
    rows, arms = beside("table_2", results), SHOWN["table_2"]["arms"]
    costs = results.table("arms").groupby("arm")[["models_held", "tokens_generated"]].mean()
    for column in costs:
        shown = {row: f"{costs.loc[arm, column]:.0f}" for row, arm in arms.items()}
        rows[column.replace("_", " ")] = rows["paper"].map(shown).fillna("")
    return rows


def table_3(profile: str = "nano") -> pd.DataFrame:
    """Other objectives; the paper gives SimPO and its WRPO form different margins γ."""
    return beside("table_3", study(profile))


def table_4(profile: str = "nano") -> pd.DataFrame:
    """The number of sources: the paper's 1, 2, 5, 10 and our 1, 2, 3, 6."""
    return beside("table_4", study(profile))


def table_5() -> pd.DataFrame:
    """The paper's search ranges."""
    rows = table("table05_search_ranges", as_printed=True).replace({"parameter": SETTINGS})
    return rows.assign(values=rows["values"].str.replace(" ", ", "))


def table_6() -> pd.DataFrame:
    """The paper's chosen hyperparameters."""
    return table("table06_hyperparameters", as_printed=True).rename(columns=SETTINGS)


def table_7(profile: str = "nano") -> pd.DataFrame:
    """What else the model could do: the Open LLM Leaderboard; ours by class of skills."""
    results = study(profile)
    rows = beside("table_7", results).drop(columns="right, %")
    arms = rows["paper"].map(SHOWN["table_7"]["arms"])
    for letter, name in (("C", "known (C), %"), ("D", "never trained (D), %")):
        rows[name] = levels(results, arms, "right", letter)
    return rows


def table_8(profile: str = "nano") -> pd.DataFrame:
    """Time to train: the paper's minutes, and our mean CPU seconds per world."""
    seconds = study(profile).table("arms").groupby("arm")["cpu_seconds"].mean()
    names = ["sources", "DPO, minutes", "WRPO, minutes", "increase, %"]
    rows = table("table08_runtime", as_printed=True).set_axis(names, axis=1)
    rows["our sources"], rows["DPO-on, s"] = [1, 2, 3, 6], seconds["dpo_on"]
    return rows.assign(**{"WRPO, s": seconds[list(SHOWN["table_4"]["arms"].values())].tolist()})


def table_9(profile: str = "nano") -> pd.DataFrame:
    """Which source responses: best and second best, and two groups of sources."""
    return beside("table_9", study(profile))


def table_10(profile: str = "nano") -> pd.DataFrame:
    """A source's worst response on the rejected side."""
    return beside("table_10", study(profile))


def table_11() -> pd.DataFrame:
    """The paper's models on the hub."""
    return table("table11_model_ids").set_axis(["name", "name on the hub"], axis=1)


def table_12(profile: str = "nano", prompts: int = 4, seed: int = 0) -> pd.DataFrame:
    """In place of the paper's one case: greedy answers to random prompts, ✓ if right."""
    rows, key = study(profile).table("responses").query("arm in @ASKED"), ["seed", "prompt"]
    asked = rows[[*key, "prompt_text"]].drop_duplicates(key)
    drawn = np.random.default_rng(seed).choice(len(asked), min(prompts, len(asked)), replace=False)
    found = {"model": [look(arm).name for arm in ASKED]}
    for world, prompt, text in asked.iloc[sorted(drawn)].itertuples(index=False):
        own = rows[(rows["seed"] == world) & (rows["prompt"] == prompt)]
        said = own.set_index("arm").loc[list(ASKED)]
        marked = said["response"] + np.where(said["right"] == 1, " ✓", "")
        found[f"{text} (world {world})"] = marked.tolist()
    return pd.DataFrame(found)


def measures(profile: str = "nano") -> pd.DataFrame:
    """What else to know of every method: correctness three ways, wording, length, repetition."""
    controls = ("dpo_on_10", "dpo_mix", "dpo_mix_const", "wrpo_spare", "wrpo_wrong")
    results, arms = study(profile), (*METHODS, *controls)
    rows = pd.DataFrame({"method": [look(arm).name for arm in arms]})
    for of, name in SHOWN["measures"].items():
        rows[name] = levels(results, arms, of)
    return rows.assign(diverged=[results.diverged.get(arm, 0) for arm in arms])


def rules(profile: str = "nano") -> pd.DataFrame:
    """The world's rules, and what they came to: mean over worlds (lowest to highest world)."""
    kinds, rows = (read_results("development", "headroom"), study(profile).table("headroom")), []
    for name, (low, high) in world_rules().items():
        asked = f"{low:g} to {high:g}" if np.isfinite(high) else f"at least {low:g}"
        found = [worlds[name].agg(["mean", "min", "max"]).map(signed) for worlds in kinds]
        shown = map("{mean} ({min} to {max})".format_map, found)
        rows.append([*SHOWN["rules"][name], asked, *shown])
    columns = ["measure", "what for", "asked", "development worlds", "reported worlds"]
    return pd.DataFrame(rows, columns=columns)


def deviation(profile: str = "nano") -> pd.DataFrame:
    """Nats of source and own responses under each model, per response and per token."""
    rows = study(profile).table("deviation").groupby(["model", "whose"])
    nats, tokens = rows["logp"].mean(), rows["logp"].sum() / rows["tokens"].sum()
    wide = pd.DataFrame({"per response": nats, "per token": tokens}).unstack("whose")
    wide = wide.swaplevel(axis=1).sort_index(axis=1)
    wide.columns = [f"{look(whose).name}, nats {per}" for whose, per in wide.columns]
    wide = wide.loc[[arm for arm in METHODS if arm in wide.index]]
    return wide.rename(lambda arm: look(arm).name).rename_axis("model").reset_index()


def dynamics(profile: str = "nano") -> pd.DataFrame:
    """Rewards, margin and accuracies at the end of training, on held-out quadruples."""
    results = study(profile)
    found = {"method": [look(arm).name for arm in DYNAMICS]}
    for of, name in SHOWN["dynamics"].items():
        wide = results.wide(of)
        found[name] = [mean_interval(wide[arm]).text() for arm in DYNAMICS]
    return pd.DataFrame(found)


def dose(profile: str = "nano") -> pd.DataFrame:
    """Mean weight of y_ws in training, and its share in the norms of both preferred gradients."""
    rows = study(profile).table("dynamics").query("split == 'train'")
    means = 100 * rows.groupby(["arm", "seed"])[["alpha", "source_share"]].mean()
    found = {"method": [look(arm).name for arm in DOSED]}
    for of, name in (("alpha", "weight, %"), ("source_share", "share of the gradient, %")):
        found[name] = [mean_interval(means.loc[arm, of]).text(1) for arm in DOSED]
    return pd.DataFrame(found)


# --- all of them, where each comes from, and what they say of the claims


def draw_all(out: Path, only: str | None = None) -> list[Path]:
    """Make SVG, PDF, PNG, CSV of every figure, CSV of every table, or of ``only``, in ``out``."""
    if only is not None and only not in FIGURES.index:
        raise WRPOError(f"there is no figure {only!r}; {nearest(only, FIGURES.index)}")
    out.mkdir(parents=True, exist_ok=True)
    names = FIGURES.index if only is None else [only]
    jobs = [delayed(_draw)(out / n, resolve_name(FIGURES.loc[n, "function"])) for n in names]
    gc.freeze()  # forked, where the system can: nothing is imported again, or looked at for garbage
    made = Parallel(-1 if only is None else 1, backend="multiprocessing")(jobs)
    return [path for paths in made for path in paths]


def _draw(stem: Path, make: Callable[[], Any]) -> list[Path]:
    made, paths = make(), [stem.with_suffix(".csv")]
    if isinstance(made, Drawn):
        ConstrainedLayoutEngine().execute(made.figure)
        made.figure.set_layout_engine("none")  # the layout holds for all three
        with plt.style.context(STYLE):  # says how large a PNG is, and what text in a PDF
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
