"""Arena-Hard: published score, and an independent Bradley-Terry model."""

from __future__ import annotations

from pathlib import Path

import evalica
import pandas as pd
import pytest

from wrpo_lib.evaluation import arena_hard
from wrpo_lib.evaluation.forms import read_judgements

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


def test_a_strong_verdict_counts_three_times_and_an_unreadable_one_not_at_all() -> None:
    games = [("q", 1, "B>>A"), ("q", 2, "A>B"), ("r", 1, "A=B"), ("r", 2, "?"), ("r", 2, None)]
    rows = pd.DataFrame(games, columns=["question_id", "game", "verdict"])
    ours = arena_hard.summarise(rows)
    assert ours.score == pytest.approx(100 * (3 + 1 + 0.5) / 5)
    assert (ours.n_battles, ours.n_missing) == (5, 2)
