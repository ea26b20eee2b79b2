"""From a judge's reply to a verdict, and from verdicts to MT-Bench's and Arena-Hard's scores.

A reading never guesses: without a verdict, or with two different ones, the value is None and
``problem`` says why; the row is kept.
"""

import re
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import expit

from wrpo_lib.analysis.statistics import Estimate, mean_interval
from wrpo_lib.errors import WRPOError
from wrpo_lib.io import Row
from wrpo_lib.replies import read_reply

FIELDS = {"alpaca-eval": "preference", "mt-bench": "score", "arena-hard": "verdict"}
"""Benchmark -> the field of a judgement that holds the verdict."""

BASELINE_FIRST, MODEL_FIRST = "baseline first", "model first"
NO_LOGPROBS = "log-probabilities missing"
THOUGHT_FIRST = "a thought before the answer, so its log-probabilities are not the first token's"
HOPELESS = (NO_LOGPROBS, THOUGHT_FIRST)  # what every reply of a server would lack

REFERENCED = ("reasoning", "math", "coding")  # MT-Bench: judged beside a reference answer
FOR_A = {"A>>B": (1.0, 3), "A>B": (1.0, 1), "A=B": (0.5, 1), "B>A": (0.0, 1), "B>>A": (0.0, 3)}
"""Arena-Hard's verdict -> what A won of a battle, and how many battles it stands for."""

BASELINE = "gpt-4-0314"  # of Arena-Hard v0.1

Reading = tuple[float | str | None, str | None]
"""A preference, a label or a score, or None; why there is none."""


def read_judgement(row: Row, body: Row) -> Row:
    """The verdict in a server's reply by the name in :data:`FIELDS`, ``problem`` and ``judgment``.

    ``row`` says what was judged: ``benchmark``, ``metric``, ``order``. AlpacaEval-2's preference
    is 2 for the model, in whatever order the answers were shown.

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
    """AlpacaEval-2: 2 − p(m)/(p(m) + p(M)) from the first token's log-probabilities, in [1, 2].

    2 means that the output shown as M certainly wins. A token that is not listed has probability
    0; with neither there, the preference is missing (upstream's rule).
    """
    try:
        first = body["choices"][0]["logprobs"]["content"][0]["top_logprobs"]
        listed = [(t["token"], float(t["logprob"])) for t in first if t["token"] in ("m", "M")]
    except (LookupError, TypeError, ValueError, OverflowError):
        return None, NO_LOGPROBS
    values = dict(listed)
    if not first or len(values) < len(listed) or not np.isfinite(list(values.values())).all():
        return None, NO_LOGPROBS
    if not values:
        return None, "neither m nor M among the log-probabilities"
    return 1 + float(expit(values.get("M", -np.inf) - values.get("m", -np.inf))), None


def read_token(text: str) -> Reading:
    """AlpacaEval-2 without log-probabilities: the reply itself is m (1) or M (2)."""
    word = text.strip(" \t\r\n\"'`*.()[]")
    if word in ("m", "M"):
        return 1.0 + (word == "M"), None
    return None, "two verdicts" if len(set(re.findall(r"\b[mM]\b", text))) == 2 else "no verdict"


def read_label(text: str) -> Reading:
    """Arena-Hard's label, taken only if all labels in the reply agree (v0.1's rule)."""
    label, problem = _only(set(re.findall(r"\[\[([AB<>=]+)\]\]", text)))
    return (None, "no verdict") if label and label not in FOR_A else (label, problem)


def read_rating(text: str) -> Reading:
    """MT-Bench's score from 1 to 10: ``[[x]]``, else ``[x]``; all must agree (FastChat: first)."""
    number = r"\[(\d+\.?\d*)\]"
    found = re.findall(rf"\[{number}\]", text) or re.findall(number, text)
    score, problem = _only({float(number) for number in found})
    if isinstance(score, float) and not 1 <= score <= 10:
        return None, f"score {score:g} is outside 1 to 10"
    return score, problem


def _only(found: set[Any]) -> Reading:
    if len(found) == 1:
        return next(iter(found)), None
    return None, "two verdicts" if found else "no verdict"


def on_scale(known: pd.DataFrame, low: float, high: float) -> Estimate:
    """The mean of ``points``; its interval clusters by question and ends where the scale does."""
    mean = mean_interval(known["points"], known["question_id"])
    return replace(mean, low=max(mean.low, low), high=min(mean.high, high))


def counted(
    rows: pd.DataFrame, known: pd.DataFrame, key: str, low: float, high: float
) -> dict[str, Any]:
    """What every benchmark reports of its ``rows``, of which ``known`` have ``points``.

    ``n_duplicates`` rows repeat question and ``key``, and are kept, as upstream keeps them.
    """
    return {
        "interval": on_scale(known, low, high),
        "n_total": len(known),
        "n_missing": len(rows) - len(known),
        "n_duplicates": int(rows.filter(["question_id", key]).duplicated().sum()),
        "n_questions": known["question_id"].nunique(),
    }


def with_points(judgements: pd.DataFrame, points: pd.Series) -> pd.DataFrame:
    """The rows that have a verdict, at least two, with its ``points``."""
    if (known := points.notna()).sum() < 2:
        what = f"{known.sum()} of {len(judgements)} judgements have a verdict"
        raise WRPOError(f"{what}; judge the rest first")
    return judgements.assign(points=points)[known]


def scored(judgements: pd.DataFrame) -> pd.DataFrame:
    """The rows with a score from 1 to 10 (``points``); −1 is upstream's mark for none."""
    return with_points(judgements, judgements["score"].where(judgements["score"].between(1, 10)))


def mt_bench(judgements: pd.DataFrame) -> dict[str, Any]:
    """Means over all rows of one model, as upstream, from ``question_id``, ``turn``, ``score``."""
    known = scored(judgements)
    turns = known.groupby("turn")["score"].mean()
    return {
        "first_turn": float(turns.get(1, np.nan)),
        "second_turn": float(turns.get(2, np.nan)),
        "overall": float(known["score"].mean()),
        **counted(judgements, known, "turn", 1, 10),
    }


def battles(judgements: pd.DataFrame) -> pd.DataFrame:
    """One row for each unit of weight of a readable game, with ``points`` in percent (0, 50, 100).

    Rows have ``game`` and ``verdict``: in game 1 the baseline is A, in game 2 the model is.
    """
    for_a = judgements["verdict"].map({label: won for label, (won, _) in FOR_A.items()})
    known = with_points(judgements, 100 * for_a.where(judgements["game"] != 1, 1 - for_a))
    weight = known["verdict"].map({label: times for label, (_, times) in FOR_A.items()})
    return known.iloc[np.arange(len(known)).repeat(weight)]


def arena_hard(judgements: pd.DataFrame) -> dict[str, Any]:
    """Percent of weighted battles won by one model, from rows with ``question_id``, ``game`` and
    ``verdict``; ties half, which with one baseline is the Bradley–Terry win rate.

    ``n_total`` and ``n_ties`` count weighted battles.
    """
    known = battles(judgements)
    return {
        "score": float(known["points"].mean()),
        "n_ties": int((known["points"] == 50).sum()),
        **counted(judgements, known, "game", 0, 100),
        "n_missing": int((~judgements["verdict"].isin(FOR_A)).sum()),
    }
