"""From a judge's reply to a verdict, and from verdicts to MT-Bench's and Arena-Hard's scores.

A reading never guesses: no verdict, two different ones, or log-probabilities that are missing or
not the answer's give None with the reason in ``problem``, and the row is kept.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from wrpo_lib.analysis.statistics import Estimate, Labels, Values, mean_interval
from wrpo_lib.errors import WRPOError
from wrpo_lib.io import Row
from wrpo_lib.replies import read_reply

FIELDS = {"alpaca-eval": "preference", "mt-bench": "score", "arena-hard": "verdict"}
"""Benchmark -> the field of a judgement that holds the verdict."""

BASELINE_FIRST, MODEL_FIRST = "baseline first", "model first"
NO_LOGPROBS = "log-probabilities missing"
THOUGHT_FIRST = "a thought before the answer, so its log-probabilities are not the first token's"

REFERENCED = ("reasoning", "math", "coding")
"""Categories of MT-Bench that are judged beside a reference answer."""

CATEGORIES = ("writing", "roleplay", *REFERENCED, "extraction", "stem", "humanities")
"""MT-Bench's categories in the order of the questions: ten each, 81 to 160."""

STRONG = 3  # a strong verdict counts as three battles
FOR_A = {
    "A>>B": (1.0, STRONG),
    "A>B": (1.0, 1),
    "A=B": (0.5, 1),
    "B>A": (0.0, 1),
    "B>>A": (0.0, STRONG),
}
"""Arena-Hard's verdict -> what A won of a battle, and how many battles it stands for."""

BASELINE = "gpt-4-0314"  # of Arena-Hard v0.1
REPLICATES = 10_000

_LABEL = re.compile(r"\[\[([AB<>=]+)\]\]")
_NUMBER = r"(\d+\.?\d*)"
_TOKENS = {"m": 1.0, "M": 2.0}

Reading = tuple[float | str | None, str | None]
"""A preference, a label or a score, or None; why there is none."""

# --- a reply ------------------------------------------------------------------------------------


def read_judgement(row: Row, body: Row) -> Row:
    """The result fields of a judgement from the server's reply, and ``problem`` (None if none).

    ``row`` says what was judged: ``benchmark``, ``metric``, ``order``. AlpacaEval-2 gets
    ``preference`` in [1, 2], 2 for the model; MT-Bench ``score``; Arena-Hard ``verdict``.

    :raises WRPOError: for a reply that is a failure (:func:`wrpo_lib.replies.read_reply`).
    """
    said = read_reply(body)
    if row["metric"] == "weighted":
        value, problem = (None, THOUGHT_FIRST) if said.thought else read_logprobs(body)
    else:
        read = {"alpaca-eval": read_token, "mt-bench": read_rating, "arena-hard": read_label}
        value, problem = read[row["benchmark"]](said.text)
    if isinstance(value, float) and row.get("order") == MODEL_FIRST:
        value = 3 - value
    found = {FIELDS[row["benchmark"]]: value, "problem": problem, "judgment": said.text}
    return found | ({"thought": said.thought} if said.thought else {})


def read_logprobs(body: Row) -> Reading:
    """AlpacaEval-2: 2 − p(m)/(p(m) + p(M)) from the first token's log-probabilities.

    In [1, 2]; 2 means that the output shown as M certainly wins. A token outside the listed ones
    counts as probability 0; with neither there, the preference is missing (upstream's rule).
    """
    try:
        first = body["choices"][0]["logprobs"]["content"][0]["top_logprobs"]
        listed = [(t["token"], t["logprob"]) for t in first if t["token"] in ("m", "M")]
        values = {token: float(value) for token, value in listed}
    except (LookupError, TypeError, ValueError, OverflowError):
        return None, NO_LOGPROBS
    if not first or len(values) < len(listed) or not all(map(math.isfinite, values.values())):
        return None, NO_LOGPROBS
    if not values:
        return None, "neither m nor M among the log-probabilities"
    m, big = values.get("m", -math.inf), values.get("M", -math.inf)
    return 2 - 1 / (1 + math.exp(min(big - m, 700))), None


def read_token(text: str) -> Reading:
    """AlpacaEval-2 without log-probabilities: the reply itself is m (1) or M (2)."""
    word = text.strip(" \t\r\n\"'`*.()[]")
    found = {word} if word in _TOKENS else set(re.findall(r"\b[mM]\b", text))
    if len(found) == 2 or word in _TOKENS:
        return _only({_TOKENS[token] for token in found})
    return None, "no verdict"


def read_label(text: str) -> Reading:
    """Arena-Hard's label, taken only if all labels in the reply agree (v0.1's rule)."""
    label, problem = _only(set(_LABEL.findall(text)))
    return (None, "no verdict") if label and label not in FOR_A else (label, problem)


def read_rating(text: str) -> Reading:
    """MT-Bench's score: ``[[x]]``, else ``[x]`` (FastChat's forms), refused outside 1 to 10.

    FastChat takes the first; here all ratings of a reply must agree.
    """
    found = re.findall(rf"\[\[{_NUMBER}\]\]", text) or re.findall(rf"\[{_NUMBER}\]", text)
    score, problem = _only({float(number) for number in found})
    if isinstance(score, float) and not 1 <= score <= 10:
        return None, f"score {score:g} is outside 1 to 10"
    return score, problem


def _only(found: set[Any]) -> Reading:
    if len(found) == 1:
        return next(iter(found)), None
    return None, "two verdicts" if found else "no verdict"


# --- scores -------------------------------------------------------------------------------------


def mean_on_scale(values: Values, questions: Labels, low: float, high: float) -> Estimate:
    """Mean with an interval that clusters by question and ends where the scale does."""
    found = mean_interval(values, questions)
    return replace(found, low=max(found.low, low), high=min(found.high, high))


def category(question_id: object) -> str | None:
    """Category of one of MT-Bench's 80 questions; None for any other question."""
    text = str(question_id)
    number = int(text) if text.isdecimal() else 0
    return CATEGORIES[(number - 81) // 10] if 81 <= number <= 160 else None


@dataclass(frozen=True)
class MTBench:
    """Mean scores over all rows, as upstream; intervals cluster both turns of a question.

    ``categories``: mean score with interval, in the order of the questions (the radar figure).
    ``n_duplicates`` rows repeat a (question, turn); they are kept, as upstream keeps them.
    """

    first_turn: float
    second_turn: float
    overall: float
    n_total: int
    n_missing: int
    n_duplicates: int
    n_questions: int
    interval: Estimate
    categories: dict[str, Estimate]


def scored(judgements: pd.DataFrame) -> pd.DataFrame:
    """The rows with a score from 1 to 10 (``points``), read from ``judgment`` if need be.

    A score of −1 is upstream's mark for an unreadable reply.
    """
    if "score" not in judgements:
        scores = [read_rating(reply)[0] for reply in judgements["judgment"]]
        judgements = judgements.assign(score=np.array(scores, dtype=float))
    known = judgements[judgements["score"].between(1, 10)]
    if len(known) < 2:
        raise WRPOError(
            f"{len(known)} of {len(judgements)} judgements have a score; judge the rest first"
        )
    return known.assign(points=known["score"])


def mt_bench(judgements: pd.DataFrame) -> MTBench:
    """Scores of one model from rows with ``question_id``, ``turn`` and ``score`` or ``judgment``.

    Rows without a score count as missing and are left out.
    """
    known = scored(judgements)
    turns = known.groupby("turn")["score"].mean()
    categories = known.groupby(known["question_id"].map(category))
    return MTBench(
        first_turn=float(turns.get(1, np.nan)),
        second_turn=float(turns.get(2, np.nan)),
        overall=float(known["score"].mean()),
        n_total=len(known),
        n_missing=len(judgements) - len(known),
        n_duplicates=int(judgements.duplicated(["question_id", "turn"]).sum()),
        n_questions=known["question_id"].nunique(),
        interval=mean_on_scale(known["score"], known["question_id"], 1, 10),
        categories={
            name: mean_on_scale(rows["score"], rows["question_id"], 1, 10)
            for name, rows in sorted(categories, key=lambda item: CATEGORIES.index(item[0]))
            if rows["question_id"].nunique() > 1
        },
    )


@dataclass(frozen=True)
class ArenaHard:
    """``score``: percent of weighted battles won, ties half.

    ``interval_rows`` resamples weighted battles as if each were independent, as upstream does, and
    is too narrow; ``interval`` clusters by question. ``n_ties`` counts weighted battles,
    ``n_missing`` games without a readable verdict, which are left out.
    """

    score: float
    n_battles: int
    n_ties: int
    n_questions: int
    n_missing: int
    interval: Estimate
    interval_rows: Estimate


def battles(judgements: pd.DataFrame) -> pd.DataFrame:
    """One row for each unit of weight of a readable game, with ``points`` in percent (0, 50, 100).

    Rows have ``game`` and ``verdict``: in game 1 the baseline is A, in game 2 the model is.
    """
    known = judgements[judgements["verdict"].isin(FOR_A)]
    if known.empty:
        raise WRPOError("there are no readable verdicts to score; judge the answers first")
    for_a, weight = np.array([FOR_A[verdict] for verdict in known["verdict"]]).T
    known = known.assign(points=100 * np.where(known["game"] == 1, 1 - for_a, for_a))
    return known.iloc[np.repeat(np.arange(len(known)), weight.astype(int))]


def arena_hard(judgements: pd.DataFrame) -> ArenaHard:
    """Score of one model from rows, one per game, with ``question_id``, ``game`` and ``verdict``.

    With a single baseline the Bradley–Terry win rate equals this weighted mean.
    """
    known = battles(judgements)
    percent = known["points"].to_numpy(float)
    return ArenaHard(
        score=float(percent.mean()),
        n_battles=len(percent),
        n_ties=int((percent == 50).sum()),
        n_questions=known["question_id"].nunique(),
        n_missing=int((~judgements["verdict"].isin(FOR_A)).sum()),
        interval=mean_on_scale(percent, known["question_id"], 0, 100),
        interval_rows=_row_bootstrap(percent),
    )


def _row_bootstrap(rows: np.ndarray) -> Estimate:
    """Upstream's interval of a mean: resampled rows, clusters ignored; ``rows`` (N,)."""
    values, counts = np.unique(rows, return_counts=True)
    n, rng = len(rows), np.random.default_rng(0)
    drawn = rng.multinomial(n, counts / n, REPLICATES) @ values / n
    low, high = np.quantile(drawn, [0.025, 0.975])
    how = f"row bootstrap, {REPLICATES} replicates, seed 0"
    return Estimate(float(rows.mean()), float(low), float(high), n, n, how)
