"""What the book shows: the figure map, the figures, the numbers and the claims."""

import importlib
import json
import re
import shutil
from pathlib import Path

import pandas as pd
import pytest
from study_results import write_study

from wrpo_lib.analysis import report
from wrpo_lib.analysis.outcomes import Results, verdict_table, verdicts
from wrpo_lib.analysis.report import findings
from wrpo_lib.figures.map import FIGURES, draw_all, figure_map, linked_claims, linked_map
from wrpo_lib.figures.paper import figure_4, figure_5
from wrpo_lib.figures.style import look, show, table
from wrpo_lib.figures.tables import table_2
from wrpo_lib.records import project_root, read_results, read_run

ROOT = project_root()
MAP = pd.read_csv(ROOT / "results" / "figure_map.csv", keep_default_na=False)


def test_the_map_leads_from_each_figure_to_its_data_code_and_page() -> None:
    pd.testing.assert_frame_equal(figure_map(), MAP)  # hashes as well
    linked = linked_map()
    for row in MAP.itertuples():
        module, function = row.function.rsplit(".", 1)
        assert callable(getattr(importlib.import_module(module), function))
        assert re.search(rf"\b{function}\b", (ROOT / row.page).read_text("utf-8")), row
        assert f"{module.replace('.', '/')}.html#{function}" in linked
        assert row.data_file in linked


def test_every_status_is_what_the_tracked_results_give() -> None:
    """Recomputed from per-prompt outcomes; the page and the tracked table say the same."""
    tracked = pd.read_csv(ROOT / "results" / "nano" / "verdicts.csv", keep_default_na=False)
    found = verdict_table(verdicts(Results()))
    assert tracked["status"].tolist() == found["status"].tolist()
    assert tracked["remark"].tolist() == found["remark"].tolist()
    linked = linked_claims() + linked_claims(confirmatory=False)
    for row in found.itertuples():
        assert f'id="claim-{row.id}"' in linked
        assert f">{row.status}</span>" in linked


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The results of an invented study, and the other tracked ones."""
    folder = tmp_path_factory.mktemp("study")
    for name in ("smol", "published", "benchmarks"):
        shutil.copytree(ROOT / "results" / name, folder / "results" / name)
    write_study(folder, {"target_sft": 0.55, "dpo_on": 0.65, "wrpo": 0.7})
    return folder / "results"


@pytest.fixture
def invented(study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project root with the invented study."""
    shutil.copytree(study, tmp_path / "results")
    (tmp_path / "recipes").symlink_to(ROOT / "recipes")
    monkeypatch.setenv("WRPO_HOME", str(tmp_path))
    return tmp_path


def test_every_figure_and_table_is_made_with_its_numbers_and_names_its_arms(invented: Path) -> None:
    arms = {arm for arm in Results().outcomes["arm"] if "_" in arm}
    unnamed = {arm.partition("_")[0] for arm in arms if look(arm).name == arm}
    assert unnamed <= {"map"}  # drawn as differences only
    for name in FIGURES.index:
        made = {path.suffix: path for path in draw_all(invented / "out", name)}
        rows = pd.read_csv(made[".csv"], dtype=str)
        assert len(rows)
        if name.startswith("figure") or ".svg" in made:
            assert set(made) == {".svg", ".pdf", ".png", ".csv"}
            assert made[".png"].stat().st_size > 10_000
        else:
            assert not arms & set(rows.to_numpy().ravel())


def test_what_is_drawn_is_what_the_results_hold(invented: Path) -> None:
    drawn = figure_5().rows.query("panel == 'right'").set_index("arm")
    outcomes = Results().outcomes.query("arm == 'dpo_on'")
    share = outcomes["right"].sum() / outcomes["n"].sum()
    assert drawn.loc["dpo_on", "value"] == pytest.approx(100 * share)
    assert (drawn["low"] < drawn["value"]).all()
    rows = table_2().set_index("paper")
    assert rows.loc["Target-SFT-DPO", "right, %"].startswith(f"{100 * share:.1f} [")
    assert rows.loc["Target-FuseLLM", "ours"] == ""  # no counterpart


def test_refused_results_are_said_on_the_page_instead_of_drawn(invented: Path) -> None:
    (invented / "results" / "nano" / "outcomes.parquet").write_bytes(b"edited")
    reason = "outcomes.parquet differs from what its run.json records"
    for make in (findings, linked_claims, figure_4):
        said = show(make).data
        assert reason in said
        assert said.startswith(":::{warning}")
    assert "no results for profile 'paper'" in show(figure_4, "paper").data
    assert report.numbers()["status_wrpo"] == "(no valid results)"


def test_what_models_said_is_text_in_a_table() -> None:
    said = pd.DataFrame({"<b>": ["<script>alert(1)</script>"]})
    assert not re.search("<(script|b)>", table(said).to_html())


def test_a_table_sets_the_symbols_of_a_formula_and_leaves_field_names_alone() -> None:
    rows = pd.DataFrame(
        {"reward of y_ws": ["WRPO_SimPO, α_max 0.7"], "question_id": ["dpo_on_y_l"]}
    )
    html = table(rows).to_html()
    assert "reward of y<sub>ws</sub>" in html
    assert "WRPO<sub>SimPO</sub>, α<sub>max</sub> 0.7" in html
    assert "question_id" in html
    assert "dpo_on_y_l" in html


def test_the_real_text_study_is_whole_and_holds_no_text() -> None:
    run = read_run("smol")
    assert "dirty" not in run["commit"]
    rewards, quadruples = read_results("smol", "rewards"), read_results("smol", "quadruples")
    own, others = (rewards[(rewards["model"] == "target") == of] for of in (True, False))
    counts = others.groupby("model").size()
    assert (counts == run["prompts"]).all()
    assert f"source-{run['reference']}" not in counts
    names = {"prompt_id", "model", "source", "source_model", "first", "second", "option"}
    for file in run["files"]:
        words = set(read_results("smol", file).select_dtypes(exclude=["number", "bool"]))
        assert words <= names | {"responses", "ranked"}
    own, best = (rows.groupby("prompt_id")["reward"] for rows in (own, others))
    roles = {"source_chosen": best.max(), "target_chosen": own.max(), "rejected": own.min()}
    for role, expected in roles.items():
        found = quadruples.set_index("prompt_id")[f"{role}_reward"]
        pd.testing.assert_series_equal(found, expected.loc[found.index], check_names=False)


def test_what_was_changed_by_hand_says_so() -> None:
    assert "pairing.csv" in read_run("smol")["changed_since"]
    record = json.loads((ROOT / "results" / "judge-smollm2" / "judgements.json").read_text())
    assert "by hand" in record["changed_since"]
