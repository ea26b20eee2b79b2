"""MT-Bench: published triples, categories, and what is counted."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

from wrpo_lib.evaluation import mt_bench


@pytest.fixture(scope="module")
def rows(shared: Path) -> pd.DataFrame:
    return pd.read_json(shared / "eval" / "mtbench_gpt4_judgments.jsonl.gz", lines=True)


def test_published_triples(rows: pd.DataFrame, shared: Path) -> None:
    published = json.loads((shared / "eval" / "mtbench_published.json").read_text())
    assert len(published) == 4
    for model, triple in published.items():
        ours = mt_bench.summarise(rows[rows["model"] == model])
        assert [ours.first_turn, ours.second_turn, ours.overall] == pytest.approx(triple, abs=1e-12)


def test_duplicates_and_missing_are_counted(rows: pd.DataFrame) -> None:
    ours = mt_bench.summarise(rows[rows["model"] == "mistral-orpo"])
    assert (ours.n_total, ours.n_missing, ours.n_duplicates, ours.n_questions) == (319, 1, 160, 80)
    strange = pd.DataFrame({"question_id": [1, 2, 3], "turn": [1, 1, 1], "score": [8, 6, 85]})
    ours = mt_bench.summarise(strange)
    assert (ours.overall, ours.n_missing) == (7.0, 1)


def test_clustering_matters(rows: pd.DataFrame) -> None:
    widths, naive = [], []
    for _, judged in rows.groupby("model"):
        ours = mt_bench.summarise(judged)
        widths.append(ours.interval.high - ours.overall)
        naive.append(1.96 * judged.loc[judged["score"] >= 0, "score"].sem())
    assert 1.1 < sum(widths) / sum(naive) < 1.5  # 0.33 against 0.26


def test_categories_are_those_of_the_questions(shared: Path, rows: pd.DataFrame) -> None:
    lines = (shared / "eval" / "mtbench_questions.jsonl").read_text().splitlines()
    questions = [json.loads(line) for line in lines]
    assert len(questions) == 80
    for question in questions:
        assert mt_bench.category(question["question_id"]) == question["category"]
    assert mt_bench.category("161") is None
    ours = mt_bench.summarise(rows[rows["model"] == "mistral-orpo-mix"])
    assert tuple(ours.categories) == mt_bench.CATEGORIES
    weighted = sum(e.value * e.n for e in ours.categories.values()) / ours.n_total
    assert weighted == pytest.approx(ours.overall)
