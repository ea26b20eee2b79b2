"""The three benchmarks' scores, from rows of judgements.

AlpacaEval-2: win rate over a baseline, raw and length-controlled (LC), from preferences in [1, 2];
2 means the model certainly wins, 1.5 is a tie. The numbers are those of the alpaca-eval package
0.6.6; tests compare the two. MT-Bench: means of scores from 1 to 10. Arena-Hard: battles won.
"""

from collections.abc import Hashable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import sklearn
from scipy.special import expit, log_expit
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold

from wrpo_lib.analysis.statistics import Estimate, bootstrap_interval, mean_interval
from wrpo_lib.errors import WRPOError

FOR_A = {"A>>B": (1.0, 3), "A>B": (1.0, 1), "A=B": (0.5, 1), "B>A": (0.0, 1), "B>>A": (0.0, 3)}
"""Arena-Hard's verdict -> what A won of a battle, and how many battles it stands for."""

CS = np.logspace(-4, 4, 10)  # L1 strengths that cross-validation chooses from (scikit-learn's)
GAMED_WEIGHT = 0.1  # of a regularising row: upstream's lambda 0.2 over two gamed baselines


def with_points(judgements: pd.DataFrame) -> pd.DataFrame:
    """The rows that have a verdict, at least two, with its ``points``.

    A preference in percent; a score from 1 to 10 (−1 is upstream's mark for none); a game of
    Arena-Hard in percent (0, 50, 100) for the model, the baseline being A in game 1, with one row
    for each unit of the verdict's weight.
    """
    if "verdict" in judgements:
        won = judgements["verdict"].map({label: won for label, (won, _) in FOR_A.items()})
        points = 100 * won.where(judgements["game"] != 1, 1 - won)
    elif "score" in judgements:
        points = judgements["score"].where(judgements["score"].between(1, 10))
    else:
        points = 100 * (judgements["preference"].astype(float) - 1)
    if (known := points.notna()).sum() < 2:
        what = f"{known.sum()} of {len(judgements)} judgements have a verdict"
        raise WRPOError(f"{what}; judge the rest first")
    rows = judgements.assign(points=points)[known]
    if "verdict" not in rows:
        return rows
    weight = rows["verdict"].map({label: times for label, (_, times) in FOR_A.items()})
    return rows.iloc[np.arange(len(rows)).repeat(weight)]


def on_scale(known: pd.DataFrame, low: float, high: float) -> Estimate:
    """The mean of ``points``; its interval clusters by question and ends where the scale does."""
    mean = mean_interval(known["points"], known["question_id"])
    return replace(mean, low=max(mean.low, low), high=min(mean.high, high))


def _counted(
    rows: pd.DataFrame, known: pd.DataFrame, key: str, low: float, high: float
) -> dict[str, Any]:
    """What every benchmark reports of its ``rows``, of which ``known`` have ``points``; duplicates
    repeat question and ``key``, and are kept, as upstream keeps them."""
    return {
        "interval": on_scale(known, low, high),
        "n_total": len(known),
        "n_missing": len(rows) - len(known),
        "n_duplicates": int(rows.filter(["question_id", key]).duplicated().sum()),
        "n_questions": known["question_id"].nunique(),
    }


def mt_bench(judgements: pd.DataFrame) -> dict[str, Any]:
    """Means over all rows of one model, as upstream, from ``question_id``, ``turn``, ``score``."""
    known = with_points(judgements)
    turns = known.groupby("turn")["score"].mean()
    return {
        "first_turn": float(turns.get(1, np.nan)),
        "second_turn": float(turns.get(2, np.nan)),
        "overall": float(known["score"].mean()),
        **_counted(judgements, known, "turn", 1, 10),
    }


def arena_hard(judgements: pd.DataFrame) -> dict[str, Any]:
    """Percent of weighted battles won by one model, from rows with ``question_id``, ``game`` and
    ``verdict``; ties half, which with one baseline is the Bradley–Terry win rate."""
    known = with_points(judgements)
    return {
        "score": float(known["points"].mean()),
        "n_ties": int((known["points"] == 50).sum()),
        **_counted(judgements, known, "game", 0, 100),
        "n_missing": int((~judgements["verdict"].isin(FOR_A)).sum()),
    }


def win_rate(judgements: pd.DataFrame) -> dict[str, Any]:
    """Win rate of one model, in percent, from ``question_id``, ``preference`` and, where known,
    ``order`` and ``length_model``: upstream's numbers beside the clustered ``interval``."""
    known = with_points(judgements)
    percent = known["points"]
    wins, losses, draws = ((percent > 50).sum(), (percent < 50).sum(), (percent == 50).sum())
    lengths = judgements.get("length_model", pd.Series(dtype=float))
    return {
        "win_rate": float(percent.mean()),
        "standard_error": float(percent.sem()),
        "n_wins": int(wins),
        "n_wins_base": int(losses),
        "n_draws": int(draws),
        "discrete_win_rate": float(100 * (wins + draws / 2) / len(percent)),
        "avg_length": int(lengths.mean()) if lengths.notna().any() else None,
        **_counted(judgements, known, "order", 0, 100),
    }


def length_controlled(
    judgements: pd.DataFrame,
    side: pd.DataFrame | None = None,
    *,
    C: float | None = None,
    replicates: int = 0,
    questions: Sequence[Hashable] | None = None,
) -> dict[str, Any]:
    """The win rate in percent that the judge would give one model at equal length.

    A logistic regression of the preference on tanh of the standardised length difference, the
    instruction's difficulty and a constant, with the regularising rows of ``side`` (upstream's
    ``df_gamed.csv``), L1 with ``C`` or a cross-validated one; read off with the length at 0. Other
    questions than AlpacaEval-2's have no ``side``, hence neither difficulty nor those rows.

    Rows need ``question_id`` (with ``side`` the index in the official order, for which upstream
    takes the row's position), ``preference``, and ``length_model`` and ``length_baseline`` in
    characters; those of a question share its weight. ``replicates`` refits on resamples of
    ``questions`` (default: those of the rows) give ``lc_interval``; ``lc_standard_error`` is
    upstream's, which leaves out that the regression is estimated.
    """
    n = len(with_points(judgements))
    if judgements.get("baseline", pd.Series()).equals(judgements["model"]):  # upstream's rule
        names = ("length_controlled_winrate", "lc_standard_error", "lc_interval", "lc_C")
        return dict(zip(names, (50.0, 0.0, None, None), strict=True))
    design, interval = _Design(judgements, side), None
    c, once = design.choose_c() if C is None else C, np.ones(len(judgements))
    if replicates:
        value = partial(design.mean_chance, c)
        with sklearn.config_context(assume_finite=True, skip_parameter_validation=True):
            drawn = bootstrap_interval(value, design.question, replicates, 0, questions)
        interval = replace(drawn, n=n)
    error = 100 * pd.Series(design.chance(c, once)).sem()
    return {
        "length_controlled_winrate": design.mean_chance(c, once),
        "lc_standard_error": None if side is None else float(error),
        "lc_interval": interval,
        "lc_C": c,
    }


class _Design:
    """One model's N rows and the M regularising rows; N counts say how often a row is drawn."""

    def __init__(self, judgements: pd.DataFrame, side: pd.DataFrame | None) -> None:
        self.gap = (judgements["length_baseline"] - judgements["length_model"]).to_numpy(float)
        if np.isnan(self.gap).any():
            raise WRPOError("a judgement has no lengths; length control needs both, in characters")
        question = judgements["question_id"].astype(str)
        self.question = question.to_numpy()
        self.weight = 1 / question.groupby(question).transform("size").to_numpy(float)
        self.share = judgements["preference"].to_numpy(float) - 1  # (N,), NaN where missing
        self.rest = np.ones((len(question), 1))  # difficulty where known, constant
        self.gamed, self.gamed_share = np.empty((0, 2)), np.empty(0)
        if side is not None:
            difficulty = side.groupby("index")["instruction_difficulty"].first()
            own = difficulty.reindex(judgements["question_id"]).to_numpy(float)
            if unknown := int(np.isnan(own).sum()):
                what = f"{unknown} of {len(own)} judgements have no instruction difficulty"
                raise WRPOError(f"{what}; they are not of AlpacaEval-2")
            self.rest = np.column_stack([own, self.rest])
            gamed = [np.tanh(side["std_delta_len"]), side["instruction_difficulty"]]
            self.gamed = np.column_stack([*gamed, np.zeros(len(side))])
            self.gamed_share = side["preference"].to_numpy(float)

    def training(self, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Rows, soft labels and weights of the fit, regularising rows first.

        The length difference is standardised over the rows as drawn.
        """
        centre = np.average(self.gap, weights=counts)
        spread = np.sqrt((counts * (self.gap - centre) ** 2).sum() / (counts.sum() - 1))
        scaled = self.gap / spread if spread > 0 else np.zeros_like(self.gap)
        known = ~np.isnan(self.share) & (counts > 0)
        own = np.column_stack([np.tanh(scaled), self.rest])[known]
        weight = np.r_[np.full(len(self.gamed), GAMED_WEIGHT), (self.weight * counts)[known]]
        return np.vstack([self.gamed, own]), np.r_[self.gamed_share, self.share[known]], weight

    def chance(self, c: float, counts: np.ndarray) -> np.ndarray:
        """(N,) probability of a win for each row with the length term at 0."""
        found: np.ndarray = expit(self.rest @ _fit(*self.training(counts), c)[1:])
        return found

    def mean_chance(self, c: float, counts: np.ndarray) -> float:
        """The mean chance of the rows as drawn, in percent."""
        return float(100 * np.average(self.chance(c, counts), weights=self.weight * counts))

    def choose_c(self) -> float:
        """Upstream's cross-validation: five folds of whole groups, weighted log loss."""
        x, y, weight = self.training(np.ones(len(self.gap)))
        gamed = [f"gamed {i}" for i in range(len(self.gamed))]
        # codes in order of appearance break ties between folds as upstream's row numbers do
        groups = pd.factorize(np.array([*gamed, *self.question[~np.isnan(self.share)]]))[0]
        scores = np.zeros((5, len(CS)))
        for fold, (train, test) in enumerate(GroupKFold(5).split(x, groups=groups)):
            for k, c in enumerate(CS):
                logit = x[test] @ _fit(x[train], y[train], weight[train], c)
                loss = y[test] * log_expit(logit) + (1 - y[test]) * log_expit(-logit)
                scores[fold, k] = (weight[test] * loss).mean()
        return float(CS[scores.mean(0).argmax()])


def _fit(x: np.ndarray, y: np.ndarray, weight: np.ndarray, c: float) -> np.ndarray:
    """Coefficients of an L1 logistic regression on soft labels: each row once for either side."""
    model = LogisticRegression(
        C=c,
        l1_ratio=1.0,
        solver="liblinear",
        fit_intercept=False,
        random_state=123,  # upstream's
        max_iter=1000,  # upstream has 100; a fit that converges is the same
    )
    labels, weights = np.repeat([1, 0], len(x)), np.concatenate([y * weight, (1 - y) * weight])
    return np.asarray(model.fit(np.vstack([x, x]), labels, weights).coef_[0])
