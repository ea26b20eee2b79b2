"""What the book shows: the figure map, the figures, the numbers and the claims."""

from __future__ import annotations

import importlib
import json
import re
from pathlib import Path

import nbformat
import pandas as pd
import pytest

from wrpo_lib.analysis import report
from wrpo_lib.analysis.statistics import Estimate
from wrpo_lib.errors import WRPOError
from wrpo_lib.figures import FIGURES, draw_all
from wrpo_lib.figures.map import figure_map
from wrpo_lib.io import file_hash
from wrpo_lib.records import project_root, read_results, read_run

ROOT = project_root()
MAP = pd.read_csv(ROOT / "results" / "figure_map.csv")
PAGES = [*sorted((ROOT / "book").glob("*.md")), *sorted((ROOT / "notebooks").glob("*.ipynb"))]


@pytest.mark.parametrize(
    "row", MAP.to_dict("records"), ids=lambda r: f"{r['figure']}-{Path(r['data_file']).stem}"
)
def test_each_figure_leads_to_its_data_code_and_page(row: dict[str, str]) -> None:
    assert file_hash(ROOT / row["data_file"]) == row["sha256"]
    module, function = row["function"].rsplit(".", 1)
    assert callable(getattr(importlib.import_module(module), function))
    page = (ROOT / row["page"]).read_text(encoding="utf-8")
    assert f"{function}(" in page


def test_the_map_is_what_the_results_say() -> None:
    pd.testing.assert_frame_equal(figure_map(read_run("nano")["seeds"]), MAP)


def test_every_figure_is_drawn(tmp_path: Path) -> None:
    paths = draw_all("nano", tmp_path)
    assert [p.stem for p in paths] == list(FIGURES)
    assert all(p.stat().st_size > 10_000 for p in paths)


def _source(page: Path) -> str:
    """A page's own text: of a notebook, its cells without the JSON around them."""
    text = page.read_text(encoding="utf-8")
    if page.suffix != ".ipynb":
        return text
    return "\n".join(cell["source"] for cell in nbformat.reads(text, as_version=4)["cells"])


def test_every_glued_name_exists() -> None:
    known = set(report.numbers("nano"))
    asked = set()
    for page in PAGES:
        text = _source(page)
        made = [  # an f-string's placeholder stands for any word
            re.compile(re.sub(r"\{[^}]*\}", r"\\w+", name))
            for name in re.findall(r'glue\(f?"([^"]+)"', text)
        ]
        for name in re.findall(r"\{glue:(?:text)?\}`(\w+)", text):
            if not any(pattern.fullmatch(name) for pattern in made):
                asked.add(name)
    assert asked
    assert asked <= known


def test_the_real_text_study_is_whole_and_holds_no_text() -> None:
    run = read_run("smol")
    assert {"commit", "versions", "weights", "sampled", "reward", "published"} <= set(run)
    assert "dirty" not in run["commit"]
    sampled = run["sampled"]["settings"]
    rewards, quadruples = read_results("smol", "rewards"), read_results("smol", "quadruples")
    target = rewards[rewards["model"] == "target"]
    assert rewards["prompt_id"].nunique() == run["prompts"]
    assert (target.groupby("prompt_id").size() <= sampled["n"]).all()
    assert (rewards[rewards["model"] != "target"].groupby("model").size() == run["prompts"]).all()
    assert f"{run['reference']}.json.gz" in run["published"]
    assert f"source-{run['reference']}" not in set(rewards["model"])
    names = {"prompt_id", "model", "source", "source_model", "first", "second", "option",
             "responses", "ranked"}  # fmt: skip
    for table in (Path(file).stem for file in run["files"]):
        words = set(read_results("smol", table).select_dtypes(exclude=["number", "bool"]))
        assert words <= names
    best = rewards[rewards["model"] != "target"].groupby("prompt_id")["reward"].max()
    own = target.groupby("prompt_id")["reward"]
    for role, expected in (("source_chosen", best), ("target_chosen", own.max()),
                           ("rejected", own.min())):  # fmt: skip
        found = quadruples.set_index("prompt_id")[f"{role}_reward"]
        pd.testing.assert_series_equal(found, expected.loc[found.index], check_names=False)
    wins = read_results("smol", "sources").set_index("source")["wins"].dropna()
    assert wins.sum() == len(quadruples)
    assert quadruples["source_model"].value_counts().to_dict() == wins[wins > 0].to_dict()


def test_three_seeds_and_whole_provenance() -> None:
    run = read_run("nano")
    assert len(run["seeds"]) == 3
    assert {"commit", "versions", "training", "world", "seconds"} <= set(run)
    scores = read_results("nano", "scores")
    assert (scores.groupby("model")["seed"].nunique() == 3).all()
    assert set(report.NAMES) <= set(scores["model"])


def test_results_were_made_with_the_recipes_as_they_are() -> None:
    from wrpo_lib.recipes import load_recipe, read_yaml, recipe_path

    run = read_run("nano")
    assert run["world"] == read_yaml(recipe_path("nano", "world"))
    for name, training in run["training"].items():
        assert load_recipe("nano", name).training == training


def test_the_search_chose_what_the_recipes_have() -> None:
    from wrpo_lib.recipes import load_recipe

    chosen = read_run("nano-search")["chosen"]
    for name in ("dpo_off", "dpo_on_target", "dpo_on", "dpo_hybrid", "wrpo", "wrpo_alpha05"):
        training = load_recipe("nano", name).training
        assert {k: training[k] for k in chosen} == chosen


def test_claims_are_judged_by_their_interval_alone() -> None:
    def found(value: float, low: float) -> Estimate:
        return Estimate(value, low, 2 * value - low, 3, 3, "")

    assert report.status(found(0.2, 0.1)) == "reproduced"
    assert report.status(found(0.2, -0.1)) == "direction only"
    assert report.status(found(-0.2, -0.3)) == "not reproduced"
    quantities = report.quantities("nano")
    assert len({c["id"] for c in report.claims()}) == len(report.claims()) >= 6
    assert all(c["quantity"] in quantities for c in report.claims())
    assert len(report.claims_table()) == len(report.claims())


def test_edited_results_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "results" / "nano"
    folder.mkdir(parents=True)
    for name in ("run.json", "scores.csv"):
        (folder / name).write_bytes((ROOT / "results" / "nano" / name).read_bytes())
    monkeypatch.setenv("WRPO_HOME", str(tmp_path))
    assert len(read_results("nano", "scores"))
    text = (folder / "scores.csv").read_text()
    (folder / "scores.csv").write_text(text[: len(text) // 2])
    with pytest.raises(WRPOError, match=r"scores\.csv differs from what its run\.json records"):
        read_results("nano", "scores")
    run = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps({**run, "schema": 99}))
    with pytest.raises(WRPOError, match="schema 99, this version reads 1"):
        read_results("nano", "scores")


def test_notebooks_are_thin_and_stripped() -> None:
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        code = [c for c in cells if c["cell_type"] == "code"]
        assert not any(c["outputs"] or c["execution_count"] for c in code), path.name
        assert sum("".join(c["source"]).count("def ") for c in code) <= 3, path.name
        assert max(len(c["source"]) for c in code) <= 30, path.name
        assert sum("parameters" in c["metadata"].get("tags", []) for c in code) == 1, path.name
