"""Arena-Hard: published score, an independent Bradley-Terry model, categories and style."""

from __future__ import annotations

from pathlib import Path

import evalica
import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm

from wrpo_lib.errors import WRPOError
from wrpo_lib.evaluation import arena_hard, style


@pytest.fixture(scope="module")
def battles(shared: Path) -> pd.DataFrame:
    return pd.read_json(shared / "eval" / "arena_hard_v01_battles_gpt-4-0613.jsonl.gz", lines=True)


def test_gpt4_0613_and_both_intervals(battles: pd.DataFrame) -> None:
    ours = arena_hard.summarise_battles(battles, "gpt-4-0613")
    assert ours.score == pytest.approx(37.9019, abs=5e-5)
    assert (ours.n_battles, ours.n_ties, ours.n_questions) == (1244, 173, 500)
    # published -2.30/+2.46, the quantiles of 100 resamples
    assert ours.score - ours.interval_rows.low == pytest.approx(2.30, abs=0.25)
    assert ours.interval_rows.high - ours.score == pytest.approx(2.46, abs=0.25)
    assert ours.interval.high - ours.score == pytest.approx(3.9, abs=0.15)


def test_bradley_terry_is_the_weighted_mean(battles: pd.DataFrame) -> None:
    winners = {"model_a": evalica.Winner.X, "model_b": evalica.Winner.Y, "tie": evalica.Winner.Draw}
    fit = evalica.bradley_terry(
        battles["model_a"], battles["model_b"], [winners[w] for w in battles["winner"]],
        tolerance=1e-12, limit=1000,
    )  # fmt: skip
    a, b = fit.scores["gpt-4-0613"], fit.scores["gpt-4-0314"]
    ours = arena_hard.summarise_battles(battles, "gpt-4-0613")
    assert 100 * a / (a + b) == pytest.approx(ours.score, abs=1e-4)


def games(*rows: tuple[str, int, str | None, str]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=["question_id", "game", "verdict", "category"])


def test_v2_drops_the_question_and_v01_the_game() -> None:
    rows = games(("q", 1, "B>>A", "c"), ("q", 2, None, "c"), ("r", 1, "A=B", "c"),
                 ("r", 2, "B>A", "c"), ("s", 1, "A>B", "c"), ("s", 2, "A>B", "c"))  # fmt: skip
    by_game = arena_hard.summarise(rows)
    by_question = arena_hard.summarise(rows, whole_questions=True)
    assert by_game.n_missing == 1
    assert by_game.score == pytest.approx(100 * (3 + 0.5 + 0 + 0 + 1) / 7)
    assert by_question.n_missing == 2
    assert by_question.score == pytest.approx(100 * (0.5 + 0 + 0 + 1) / 4)


def test_categories_are_scored_apart() -> None:
    rows = games(("q", 1, "B>A", "hard"), ("q", 2, "A>B", "hard"), ("r", 1, "A>B", "hard"),
                 ("s", 1, "A>>B", "writing"), ("t", 2, "B>A", "writing"))  # fmt: skip
    found = arena_hard.by_category(rows)
    assert {c: round(f.score, 1) for c, f in found.items()} == {"hard": 66.7, "writing": 0.0}


def styled(n: int = 2000) -> tuple[pd.DataFrame, np.ndarray]:
    """Battles of two models of equal quality; one writes longer, and the judge likes length."""
    rng = np.random.default_rng(0)
    baseline = np.column_stack([rng.integers(100, 400, n), rng.poisson(2, (n, 3))]).astype(float)
    longer = np.where(np.arange(n) % 2 == 0, 1.5, 1.0)
    model = baseline.copy()
    model[:, 0] *= longer * rng.uniform(0.5, 1.5, n)
    model[:, 1:] = rng.poisson(2, (n, 3))
    gap = style.difference(model, baseline)
    won = (rng.random(n) < 1 / (1 + np.exp(-6 * gap[:, 0]))).astype(float)
    names = np.where(longer > 1, "long", "plain")
    rows = pd.DataFrame({"question_id": np.arange(n) // 2, "model": names, "won": won, "weight": 1})
    return rows, gap


def test_style_control_takes_the_length_bias_out() -> None:
    rows, gap = styled()
    raw = 100 * rows[rows["model"] == "long"]["won"].mean()
    found = style.style_controlled(rows, gap, replicates=60)["long"]
    assert raw > 60
    assert found.interval is not None
    assert found.interval.low < 50 < found.interval.high
    assert found.coefficients["token_len"] > 0.5


def test_upstream_centring_depends_on_the_company() -> None:
    rows, gap = styled()
    alone = (rows["model"] == "long").to_numpy()
    raw = 100 * rows[alone]["won"].mean()
    centred = style.style_controlled(rows[alone], gap[alone], centre=True, replicates=0)["long"]
    ours = style.style_controlled(rows[alone], gap[alone], replicates=0)["long"]
    assert centred.score == pytest.approx(raw, abs=4)  # nothing was controlled
    assert abs(ours.score - 50) < 8


def test_style_control_is_a_weighted_logistic_regression() -> None:
    rows, gap = styled()
    rng = np.random.default_rng(1)
    rows = rows.assign(weight=rng.choice([1, 3], len(rows)))
    rows.loc[::7, "won"] = 0.5
    repeats = rows["weight"].to_numpy()
    x = np.repeat(gap, repeats, axis=0)
    x = (x - x.mean(0)) / x.std(0, ddof=1)
    full = rows.loc[rows.index.repeat(repeats)]
    design = np.column_stack([full["model"] == "long", full["model"] == "plain", x]).astype(float)
    theirs = sm.GLM(full["won"].to_numpy(), design, family=sm.families.Binomial()).fit()
    ours = style.style_controlled(rows, gap, centre=True, replicates=0)
    logit = float(theirs.params[0])
    assert ours["long"].score == pytest.approx(100 / (1 + np.exp(-logit)), abs=1e-3)
    assert list(ours["long"].coefficients.values()) == pytest.approx(theirs.params[2:], abs=1e-4)


def test_markdown_is_counted_outside_code() -> None:
    text = (
        "# Title\n\n- one\n- two\n3. three\n\n**bold** and __more__\n\n```\n# no title\n- x\n```\n"
    )
    assert style.count(text, n_tokens=30).tolist() == [30, 1, 3, 2]
    metadata = {
        "token_len": 30,
        "header_count": {"h1": 1, "h2": 0},
        "list_count": {"ordered": 1, "unordered": 2},
        "bold_count": {"**": 1, "__": 1},
    }
    assert style.from_metadata(metadata).tolist() == [30, 1, 3, 2]


def test_battles_without_style_or_model_are_refused(battles: pd.DataFrame) -> None:
    rows, gap = styled()
    with pytest.raises(WRPOError, match="differ in style"):
        style.style_controlled(rows, np.zeros_like(gap))
    with pytest.raises(WRPOError, match="no battle is of 'nobody'"):
        arena_hard.summarise_battles(battles, "nobody")
