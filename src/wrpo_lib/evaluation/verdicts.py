"""From a judge's raw reply to a verdict or a score, and a reason where there is none.

A reading never guesses: no verdict, two different verdicts, nothing at all or missing
log-probabilities give ``value`` None with the reason in ``problem``, and the row is kept.
"""

from __future__ import annotations

import math
import re

from wrpo_lib.evaluation.arena_hard import FOR_A
from wrpo_lib.evaluation.mt_bench import parse_score
from wrpo_lib.io import Row

BASELINE_FIRST, MODEL_FIRST = "baseline first", "model first"
NO_LOGPROBS = "log-probabilities missing"

_LABEL = re.compile(r"\[\[([AB<>=]+)\]\]")
_TOKEN = re.compile(r"^[\s\"'`*.(\[]*([mM])[\s\"'`*.)\]]*$")


Reading = tuple[float | str | None, str | None]
"""A preference, a label or a score, or None; why there is none."""


def result(row: Row, body: Row) -> Row:
    """The result fields of a judgement from the server's reply, and ``problem`` (None if none).

    ``row`` says what was judged: ``benchmark``, ``metric``, ``order``. AlpacaEval-2 gets
    ``preference`` in [1, 2], 2 for the model; MT-Bench ``score``; Arena-Hard ``verdict``.
    """
    text = text_of(body)
    if row["benchmark"] == "mt-bench":
        name, (value, problem) = "score", read_rating(text)
    elif row["benchmark"] == "arena-hard":
        name, (value, problem) = "verdict", read_arena(text)
    else:
        weighted = row["metric"] == "weighted"
        name, (value, problem) = "preference", read_logprobs(body) if weighted else read_token(text)
        if isinstance(value, float) and row["order"] == MODEL_FIRST:
            value = 3 - value
    return {name: value, "problem": problem}


def text_of(body: Row) -> str:
    """The reply's text; an empty string where the server sent none."""
    choices = body.get("choices") or [{}]
    return str((choices[0].get("message") or {}).get("content") or "")


def read_logprobs(body: Row) -> Reading:
    """AlpacaEval-2: 2 − p(m)/(p(m) + p(M)) from the first token's log-probabilities.

    In [1, 2]; 2 means that the output shown as M certainly wins. A token outside the listed ones
    counts as probability 0; with neither there, the preference is missing (upstream's rule).
    """
    choices = body.get("choices") or [{}]
    content = (choices[0].get("logprobs") or {}).get("content")
    if not content or not content[0].get("top_logprobs"):
        return None, NO_LOGPROBS
    listed = {t["token"]: float(t["logprob"]) for t in content[0]["top_logprobs"]}
    m, big = listed.get("m", -math.inf), listed.get("M", -math.inf)
    if m == big == -math.inf:
        return None, "neither m nor M among the log-probabilities"
    return 2 - 1 / (1 + math.exp(min(big - m, 700))), None


def read_token(text: str) -> Reading:
    """AlpacaEval-2 without log-probabilities: the reply itself is m (1) or M (2)."""
    if found := _TOKEN.match(text):
        return 1.0 if found.group(1) == "m" else 2.0, None
    words = set(re.findall(r"\b[mM]\b", text))
    return None, "two verdicts" if len(words) == 2 else _no_verdict(text)


def read_arena(text: str) -> Reading:
    """Arena-Hard's label, taken only if all labels in the reply agree (v0.1's rule)."""
    labels = set(_LABEL.findall(text))
    if len(labels) == 1 and labels <= FOR_A.keys():
        return labels.pop(), None
    return None, "two verdicts" if len(labels) > 1 else _no_verdict(text)


def read_rating(text: str) -> Reading:
    """MT-Bench's score, as FastChat reads it (the first rating), refused outside 1 to 10."""
    score = parse_score(text)
    if score is not None and not 1 <= score <= 10:
        return None, f"score {score:g} is outside 1 to 10"
    return score, _no_verdict(text) if score is None else None


def _no_verdict(text: str) -> str:
    return "no verdict" if text.strip() else "empty reply"
