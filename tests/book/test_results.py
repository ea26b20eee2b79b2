"""What the book shows: the figure map, the figures, the numbers and the claims."""

from __future__ import annotations

import importlib
import json
import re
import shutil
from pathlib import Path

import pandas as pd
import pytest

from wrpo_lib.analysis import report
from wrpo_lib.analysis.statistics import Estimate
from wrpo_lib.errors import WRPOError
from wrpo_lib.figures.map import FIGURES, draw_all, figure_map, linked_map
from wrpo_lib.figures.style import table
from wrpo_lib.nano.study import METHODS
from wrpo_lib.recipes import load_recipe, read_yaml, recipe_path
from wrpo_lib.records import project_root, read_results, read_run

ROOT = project_root()
MAP = pd.read_csv(ROOT / "results" / "figure_map.csv", keep_default_na=False)


def test_the_map_leads_from_each_figure_to_its_data_code_and_page() -> None:
    pd.testing.assert_frame_equal(figure_map(), MAP)  # hashes as well
    linked = linked_map()
    for row in MAP.itertuples():
        module, function = row.function.rsplit(".", 1)
        assert callable(getattr(importlib.import_module(module), function))
        assert f"{function}(" in (ROOT / row.page).read_text("utf-8")
        assert f"{module.replace('.', '/')}.html#{function}" in linked
        assert row.data_file in linked


def test_every_figure_is_drawn(tmp_path: Path) -> None:
    paths = draw_all("nano", tmp_path)
    assert [p.stem for p in paths] == list(FIGURES)
    assert all(p.stat().st_size > 10_000 for p in paths)


def test_what_models_said_is_text_in_a_table() -> None:
    said = pd.DataFrame({"<b>": ["<script>alert(1)</script>"]}, index=["<i>"])
    for shown in (table(said), table(said, index=True)):
        assert not re.search("<(script|b|i)>", shown.to_html())


def test_the_real_text_study_is_whole_and_holds_no_text() -> None:
    run = read_run("smol")
    assert "dirty" not in run["commit"]
    rewards, quadruples = read_results("smol", "rewards"), read_results("smol", "quadruples")
    is_target = rewards["model"] == "target"
    counts = rewards[~is_target].groupby("model").size()
    assert (counts == run["prompts"]).all()
    assert f"source-{run['reference']}" not in counts
    names = {"prompt_id", "model", "source", "source_model", "first", "second", "option"}
    for name in (Path(file).stem for file in run["files"]):
        words = set(read_results("smol", name).select_dtypes(exclude=["number", "bool"]))
        assert words <= names | {"responses", "ranked"}
    own = rewards[is_target].groupby("prompt_id")["reward"]
    best = rewards[~is_target].groupby("prompt_id")["reward"].max()
    roles = {"source_chosen": best, "target_chosen": own.max(), "rejected": own.min()}
    for role, expected in roles.items():
        found = quadruples.set_index("prompt_id")[f"{role}_reward"]
        pd.testing.assert_series_equal(found, expected.loc[found.index], check_names=False)


def test_results_of_three_seeds_were_made_with_the_recipes_as_they_are() -> None:
    run, scores = read_run("nano"), read_results("nano", "scores")
    assert (scores.groupby("model")["seed"].nunique() == 3).all()
    assert set(report.NAMES) <= set(scores["model"])
    assert run["world"] == read_yaml(recipe_path("nano", "world"))
    for name in METHODS:
        assert load_recipe("nano", name).training == run["training"][name]


@pytest.mark.parametrize(
    ("value", "low", "status"),
    [(0.2, 0.1, "reproduced"), (0.2, -0.1, "direction only"), (-0.2, -0.3, "not reproduced")],
)
def test_claims_are_judged_by_their_interval_alone(value: float, low: float, status: str) -> None:
    assert report.status(Estimate(value, low, 2 * value - low, 3, 3, "")) == status
    quantities, claims = report.quantities("nano"), report.claims()
    assert len({c["id"] for c in claims}) == len(claims) == len(report.claims_table()) >= 6
    assert all(c["quantity"] in quantities for c in claims)


def test_what_was_changed_by_hand_says_so() -> None:
    assert "pairing.csv" in read_run("smol")["changed_since"]
    record = json.loads((ROOT / "results" / "judge-smollm2" / "judgements.json").read_text())
    assert "by hand" in record["changed_since"]


def test_edited_results_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copied = shutil.copytree(ROOT / "results" / "nano", tmp_path / "results" / "nano")
    monkeypatch.setenv("WRPO_HOME", str(tmp_path))
    assert len(read_results("nano", "scores"))
    (copied / "scores.csv").write_text("seed,model\n")
    with pytest.raises(WRPOError, match=r"scores\.csv differs from what its run\.json records"):
        read_results("nano", "scores")
    (copied / "scores.csv").unlink()
    with pytest.raises(WRPOError, match=r"scores\.csv differs .*missing"):
        read_results("nano", "scores")
    for text, what in (('{"schema": 99}', "schema 99, this version reads 1"), ("{", "not JSON")):
        (copied / "run.json").write_text(text)
        with pytest.raises(WRPOError, match=what):
            read_results("nano", "scores")
