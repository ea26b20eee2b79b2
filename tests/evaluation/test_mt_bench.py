"""MT-Bench: published triples, categories, and the pairwise mode as FastChat counts it."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

from wrpo_lib.errors import WRPOError
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


def test_scores_without_reference_are_counted() -> None:
    rows = pd.DataFrame({"question_id": [111, 111, 81, 82], "turn": [1, 2, 1, 1], "score": [5] * 4})
    assert mt_bench.summarise(rows.assign(with_reference=False)).n_without_reference == 2
    assert mt_bench.summarise(rows.assign(with_reference=True)).n_without_reference == 0
    assert mt_bench.summarise(rows).n_without_reference == 0  # the rows do not say


def test_pairwise_judgements_as_fastchat_counts_them() -> None:
    verdicts = [
        ("model_1", "model_1"),  # a wins
        ("model_1", "model_2"),  # the orders disagree: tie
        ("tie", "model_1"),  # tie
        ("model_2", "model_2"),  # b wins
        ("error", "model_1"),  # missing
    ]
    rows = pd.DataFrame(verdicts, columns=["g1_winner", "g2_winner"])
    rows = rows.assign(question_id=rows.index, turn=1, model_1="a", model_2="b")
    a, b = mt_bench.pairwise(rows, "a"), mt_bench.pairwise(rows, "b")
    assert (a.win, a.loss, a.tie, a.n_missing) == (1, 1, 2, 1)
    assert (a.win_rate, a.loss_rate, a.win_rate_adjusted) == (0.25, 0.25, 0.5)
    assert (b.win, b.loss) == (a.loss, a.win)
    with pytest.raises(WRPOError, match="no pairwise judgement is of 'c'"):
        mt_bench.pairwise(rows, "c")


def test_scores_of_two_models_compared(rows: pd.DataFrame) -> None:
    a = pd.DataFrame({"question_id": [1, 1, 2, 3], "turn": [1, 2, 1, 1], "score": [8, 5, 7, -1]})
    b = a.assign(score=[6.0, 5.05, 9.0, 4.0])
    found = mt_bench.compare(a, b)
    assert (found.win, found.tie, found.loss, found.n_missing) == (1, 1, 1, 1)
    assert mt_bench.compare(b, a).win == 1
    # two published models differ less than can be seen
    named = [rows[rows["model"] == m] for m in ("mamba_0_5_dpo_ep1", "mamba_0_75_dpo_ep1")]
    found = mt_bench.compare(*named)
    assert found.n_total == 160
    assert found.interval.low < 0.5 < found.interval.high
