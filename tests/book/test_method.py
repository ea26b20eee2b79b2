"""The method page's pictures, the exercises' check, the glossary and the references."""

import json
import re
from collections import Counter

import numpy as np
import pandas as pd
import pytest
from pybtex.database import parse_file

from wrpo_lib.exercises import check
from wrpo_lib.figures.method import alpha_table
from wrpo_lib.figures.responses import deviation_frames, token_heat
from wrpo_lib.figures.style import widget
from wrpo_lib.records import project_root

ROOT = project_root()


def test_gradient_weights_stand_in_the_ratio_of_the_weights_of_the_fused_reward() -> None:
    rows = alpha_table(log_ratios=(-12.0, 5.0, -3.0), beta=0.1, points=5)
    np.testing.assert_allclose(rows["source"], rows["alpha"] * rows["rejected"])
    np.testing.assert_allclose(rows["target"], (1 - rows["alpha"]) * rows["rejected"])
    np.testing.assert_allclose(rows["margin"], 0.8 - 1.7 * rows["alpha"])
    np.testing.assert_allclose(rows["loss"], np.log1p(np.exp(-rows["margin"])))


def test_what_a_model_said_is_text_in_a_picture() -> None:
    said = "</script><b>"
    shown = token_heat([(said, -1.0), (" ", -9.0)], name=said)
    assert shown.count("<b>") == 1  # around the name
    assert "</script>" not in shown
    assert ">␣<" in shown
    assert ">−9.0</rt>" in shown
    assert "(−10.0 nats, 2 tokens)" in shown
    place = widget("alpha", {"said": said})
    assert place.count("</script>") == 1
    assert json.loads(place.split(">", 2)[2].split("</script>")[0]) == {"said": said}


def test_densities_follow_the_frames_of_training() -> None:
    draw, rows = np.random.default_rng(0), []
    for model, whose, mean in (
        *(("target", "own", -4.0), ("target", "source", -9.0)),
        *(("wrpo", "own", -4.0), ("wrpo", "source", -6.0)),
    ):
        rows += [(model, whose, logp) for logp in draw.normal(mean, 0.5, 200)]
    data = deviation_frames(pd.DataFrame(rows, columns=["model", "whose", "logp"]))
    before, after = data["frames"]
    assert before["name"] == "Target"
    assert before["source_mean"] == pytest.approx(-9.0, abs=0.2)
    assert np.trapezoid(before["own"], data["x"]) == pytest.approx(1, abs=0.02)
    assert data["x"][int(np.argmax(after["source"]))] == pytest.approx(-6.0, abs=0.5)


def test_an_answer_is_right_or_not_yet() -> None:
    assert check(None, 0.5, "Think.") == "No answer yet."
    assert check(0.502, 0.5, "Think.") == "Right: 0.502."
    assert check("B", "A", "Think.") == "Not yet: B. Think."
    assert check(1, True, "Think.") == "Right: 1."


def test_references_of_one_author_and_year_are_told_apart() -> None:
    entries = parse_file(str(ROOT / "book" / "references.bib")).entries.values()
    cited = Counter(
        (len(e.persons["author"]) > 2, *e.persons["author"][0].last_names, e.fields["year"])
        for e in entries
    )
    assert [label for label, n in cited.items() if n > 1] == []


def test_every_glossary_term_is_used_in_the_book() -> None:
    glossary = (ROOT / "book" / "glossary.md").read_text("utf-8")
    block = glossary.split(":::{glossary}")[1]
    terms = [line for line in block.splitlines() if line and line[0] not in " :"]
    pages = [*(ROOT / "book").glob("*.md"), *(ROOT / "notebooks").glob("*.ipynb")]
    text = " ".join(p.read_text("utf-8") for p in pages if p.name != "glossary.md").lower()
    unused = [t for t in terms if not re.search(rf"\b{re.escape(t.lower())}\b", text)]
    assert unused == []
