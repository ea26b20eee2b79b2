"""What the book shows: figures, tables, numbers, claims, answers, terms and references."""

import json
import re
import shutil
from pathlib import Path
from pkgutil import resolve_name

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from pybtex.database import parse_file
from study_results import write_study

from wrpo_lib.analysis import report
from wrpo_lib.analysis.outcomes import Results, verdict_table, verdicts
from wrpo_lib.exercises import check
from wrpo_lib.figures import tables
from wrpo_lib.figures.method import alpha_table
from wrpo_lib.figures.paper import figure_4, figure_5
from wrpo_lib.figures.responses import token_heat
from wrpo_lib.figures.style import Drawn, look, show, table, widget
from wrpo_lib.records import project_root, read_results, read_run

ROOT = project_root()


def test_the_map_leads_from_each_figure_to_its_data_code_and_page() -> None:
    found, linked = tables.figure_map(), tables.linked_map()
    tracked = pd.read_csv(ROOT / "results" / "figure_map.csv", keep_default_na=False)
    pd.testing.assert_frame_equal(found, tracked)  # hashes as well
    for row in found.itertuples():
        module, function = row.function.rsplit(".", 1)
        assert callable(resolve_name(row.function))
        assert re.search(rf"\b{function}\b", (ROOT / row.page).read_text("utf-8")), row
        assert f"{module.replace('.', '/')}.html#{function}" in linked
        assert row.data_file in linked


def test_every_status_is_what_the_tracked_results_give() -> None:
    """Recomputed from per-prompt outcomes; the page and the tracked table say the same."""
    tracked = pd.read_csv(ROOT / "results" / "nano" / "verdicts.csv", keep_default_na=False)
    found, said = verdict_table(verdicts(Results())), ["status", "remark"]
    pd.testing.assert_frame_equal(found[said], tracked[said])
    linked = tables.linked_claims() + tables.linked_claims(confirmatory=False)
    for row in found.itertuples():
        assert f'id="claim-{row.id}"' in linked
        assert f">{row.status}</span>" in linked


def test_a_study_is_drawn_with_its_numbers_and_named_arms_and_refused_when_edited(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, out = tmp_path / "study", tmp_path / "figures"
    for name in ("smol", "published", "benchmarks"):
        shutil.copytree(ROOT / "results" / name, home / "results" / name)
    (home / "recipes").symlink_to(ROOT / "recipes")
    write_study(home, {"target_sft": 0.55, "dpo_on": 0.65, "wrpo": 0.7})
    monkeypatch.setenv("WRPO_HOME", str(home))
    arms = {arm for arm in Results().outcomes["arm"] if "_" in arm}
    unnamed = {arm.partition("_")[0] for arm in arms if look(arm).name == arm}
    assert unnamed <= {"map"}  # drawn as differences only
    for name, function in tables.FIGURES["function"].items():
        made = resolve_name(function)()
        if isinstance(made, Drawn):
            made.figure.draw_without_rendering()
            plt.close(made.figure)
            assert len(made.rows)
        else:
            assert len(made)
            assert not arms & set(made.astype(str).to_numpy().ravel()), name
    written = {path.name for name in ("figure_6", "table_5") for path in tables.draw_all(out, name)}
    kinds = ("figure_6.svg", "figure_6.pdf", "figure_6.png", "figure_6.csv", "table_5.csv")
    assert written == {path.name for path in out.iterdir()} == set(kinds)
    drawn = figure_5().rows.query("panel == 'right'").set_index("arm")
    outcomes = Results().outcomes.query("arm == 'dpo_on'")
    share = outcomes["right"].sum() / outcomes["n"].sum()
    assert drawn.loc["dpo_on", "value"] == pytest.approx(100 * share)
    assert (drawn["low"] < drawn["value"]).all()
    rows = tables.table_2().set_index("paper")
    assert rows.loc["Target-SFT-DPO", "right, %"].startswith(f"{100 * share:.1f} [")
    assert rows.loc["Target-FuseLLM", "ours"] == ""  # no counterpart
    shutil.copytree(home / "results", tmp_path / "results")
    monkeypatch.setenv("WRPO_HOME", str(tmp_path))
    (tmp_path / "results" / "nano" / "outcomes.parquet").write_bytes(b"edited")
    for make in (report.findings, tables.linked_claims, figure_4):
        said = show(make).data
        assert said.startswith(":::{warning}")
        assert "outcomes.parquet differs from what its run.json records" in said
    assert report.numbers()["status_wrpo"] == "(no valid results)"


def test_the_real_text_study_is_whole_holds_no_text_and_says_what_was_changed_by_hand() -> None:
    run = read_run("smol")
    assert "dirty" not in run["commit"]
    assert "pairing.csv" in run["changed_since"]
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


def test_gradient_weights_stand_in_the_ratio_of_the_weights_of_the_fused_reward() -> None:
    rows = alpha_table(points=5)
    np.testing.assert_allclose(rows["source"], rows["alpha"] * rows["rejected"])
    np.testing.assert_allclose(rows["target"], (1 - rows["alpha"]) * rows["rejected"])
    np.testing.assert_allclose(rows["margin"], 0.8 - 1.7 * rows["alpha"])
    np.testing.assert_allclose(rows["loss"], np.log1p(np.exp(-rows["margin"])))


def test_what_a_model_said_is_text_and_symbols_of_a_formula_are_set() -> None:
    said = "</script><b>"
    row = {said: said, "reward of y_ws": "WRPO_SimPO, α_max", "question_id": "dpo_on_y_l"}
    html = table(pd.DataFrame([row])).to_html()
    assert not re.search("<(/script|b)>", html)
    for text in ("reward of y<sub>ws</sub>", "WRPO<sub>SimPO</sub>, α<sub>max</sub>", "dpo_on_y_l"):
        assert text in html
    shown = token_heat([(said, -1.0), (" ", -9.0)], name=said)
    assert shown.count("<b>") == 1  # around the name
    for text in (">␣<", ">−9.0</rt>", "(−10.0 nats, 2 tokens)"):
        assert text in shown
    (data,) = re.findall(r"json\">(.*)</script>", place := widget("alpha", {"said": said}))
    assert json.loads(data) == {"said": said}
    assert (shown + place).count("</script>") == 1


def test_an_answer_is_right_or_not_yet() -> None:
    assert check(None, 0.5, "Think.") == "No answer yet."
    assert check(0.502, 0.5, "Think.") == "Right: 0.502."
    assert check("B", "A", "Think.") == "Not yet: B. Think."


def test_references_of_one_author_and_year_are_told_apart() -> None:
    labels = [
        (len(e.persons["author"]) > 2, *e.persons["author"][0].last_names, e.fields["year"])
        for e in parse_file(str(ROOT / "book" / "references.bib")).entries.values()
    ]
    assert len(labels) == len(set(labels))


def test_every_glossary_term_is_used_in_the_book() -> None:
    glossary = (ROOT / "book" / "glossary.md").read_text("utf-8")
    block = glossary.split(":::{glossary}")[1]
    terms = [line for line in block.splitlines() if line and line[0] not in " :"]
    pages = [*(ROOT / "book").glob("*.md"), *(ROOT / "notebooks").glob("*.ipynb")]
    text = " ".join(p.read_text("utf-8") for p in pages if p.name != "glossary.md").lower()
    assert [t for t in terms if not re.search(rf"\b{re.escape(t.lower())}\b", text)] == []
