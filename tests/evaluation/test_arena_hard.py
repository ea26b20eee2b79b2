"""Arena-Hard: published score, an independent Bradley-Terry model, categories and style."""

from __future__ import annotations

import json
from pathlib import Path

import evalica
import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm

from wrpo_lib.errors import WRPOError
from wrpo_lib.evaluation import arena_hard, style
from wrpo_lib.evaluation.judgements import read_judgements

BATTLES = "eval/arena_hard_v01_battles_gpt-4-0613.jsonl.gz"


@pytest.fixture(scope="module")
def found(shared: Path) -> arena_hard.ArenaHard:
    return arena_hard.summarise(read_judgements("arena-hard", shared / BATTLES))


def test_gpt4_0613_and_both_intervals(found: arena_hard.ArenaHard) -> None:
    assert found.score == pytest.approx(37.9019, abs=5e-5)
    assert (found.n_battles, found.n_ties, found.n_questions) == (1244, 173, 500)
    # published -2.30/+2.46, the quantiles of 100 resamples
    assert found.score - found.interval_rows.low == pytest.approx(2.30, abs=0.25)
    assert found.interval_rows.high - found.score == pytest.approx(2.46, abs=0.25)
    assert found.interval.high - found.score == pytest.approx(3.9, abs=0.15)


def test_bradley_terry_is_the_weighted_mean(shared: Path, found: arena_hard.ArenaHard) -> None:
    battles = pd.read_json(shared / BATTLES, lines=True)
    winners = {"model_a": evalica.Winner.X, "model_b": evalica.Winner.Y, "tie": evalica.Winner.Draw}
    sides = battles["model_a"], battles["model_b"], battles["winner"].map(winners).tolist()
    fit = evalica.bradley_terry(*sides, tolerance=1e-12, limit=1000)
    a, b = fit.scores["gpt-4-0613"], fit.scores["gpt-4-0314"]
    assert 100 * a / (a + b) == pytest.approx(found.score, abs=1e-4)


def games(*rows: tuple[str, int, str | None, str]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=["question_id", "game", "verdict", "category"])


def test_v2_drops_the_question_and_v01_the_game() -> None:
    rows = games(
        ("q", 1, "B>>A", "c"),
        ("q", 2, None, "c"),
        ("r", 1, "A=B", "c"),
        ("r", 2, "B>A", "c"),
        ("s", 1, "A>B", "c"),
        ("s", 2, "A>B", "c"),
    )
    by_game = arena_hard.summarise(rows)
    by_question = arena_hard.summarise(rows, whole_questions=True)
    assert by_game.n_missing == 1
    assert by_game.score == pytest.approx(100 * (3 + 0.5 + 0 + 0 + 1) / 7)
    assert by_question.n_missing == 2
    assert by_question.score == pytest.approx(100 * (0.5 + 0 + 0 + 1) / 4)


def test_categories_are_scored_apart() -> None:
    rows = games(
        ("q", 1, "B>A", "hard"),
        ("q", 2, "A>B", "hard"),
        ("r", 1, "A>B", "hard"),
        ("s", 1, "A>>B", "writing"),
        ("t", 2, "B>A", "writing"),
    )
    found = arena_hard.by_category(rows)
    assert {c: round(f.score, 1) for c, f in found.items()} == {"hard": 66.7, "writing": 0.0}


def styled(n: int = 2000) -> tuple[pd.DataFrame, np.ndarray]:
    """Battles of equal quality; the model writes longer, and the judge likes length."""
    rng = np.random.default_rng(0)
    baseline = np.column_stack([rng.integers(100, 400, n), rng.poisson(2, (n, 3))]).astype(float)
    model = np.column_stack([baseline[:, 0] * rng.uniform(0.75, 2.25, n), rng.poisson(2, (n, 3))])
    gap = style.difference(model, baseline)
    won = (rng.random(n) < 1 / (1 + np.exp(-6 * gap[:, 0]))).astype(float)
    return pd.DataFrame({"question_id": np.arange(n) // 2, "won": won, "weight": 1}), gap


def test_style_control_takes_the_length_bias_out() -> None:
    rows, gap = styled()
    found = style.style_controlled(rows, gap, replicates=60)
    assert 100 * rows["won"].mean() > 60
    assert found.interval is not None
    assert found.interval.low < 50 < found.interval.high
    assert found.coefficients["token_len"] > 0.5
    with pytest.raises(WRPOError, match="differ in style"):
        style.style_controlled(rows, np.zeros_like(gap))


def test_style_control_is_a_weighted_logistic_regression() -> None:
    rows, gap = styled()
    rows["weight"] = np.random.default_rng(1).choice([1, 3], len(rows))
    rows.loc[::7, "won"] = 0.5
    x = np.repeat(gap, rows["weight"], axis=0)
    won = rows["won"].repeat(rows["weight"]).to_numpy()
    design = sm.add_constant(x / x.std(0, ddof=1))
    theirs = sm.GLM(won, design, family=sm.families.Binomial()).fit()
    ours = style.style_controlled(rows, gap, replicates=0)
    assert ours.score == pytest.approx(100 / (1 + np.exp(-theirs.params[0])), abs=1e-3)
    assert list(ours.coefficients.values()) == pytest.approx(theirs.params[1:], abs=1e-4)


def test_markdown_is_counted_outside_code_and_upstreams_counts_are_taken(tmp_path: Path) -> None:
    text = "# T\n\n- one\n- two\n3. three\n\n**bold** and __more__\n\n```\n# no title\n- x\n```\n"
    metadata = {
        "token_len": 30,
        "header_count": {"h1": 1, "h2": 0},
        "list_count": {"ordered": 1, "unordered": 2},
        "bold_count": {"**": 1, "__": 1},
    }
    rows = [
        {"model": "ours", "question_id": "q", "text": text},
        {"model_id": "v0.1", "question_id": "q", "choices": [{"turns": [{"content": text}]}]},
        {"model": "v2.0", "uid": "q", "messages": [{"content": {"answer": text}}]},
        {"model": "counted", "uid": "q", "metadata": metadata},
    ]
    path = tmp_path / "answers.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = style.read_counts(path)
    assert found.pop(("counted", "q")) == [30, 1, 3, 2]
    assert list(found.values()) == [[len(text), 1, 3, 2]] * 3
