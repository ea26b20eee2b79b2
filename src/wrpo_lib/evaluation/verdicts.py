"""From a judge's raw reply to a verdict or a score, and a reason where there is none.

A reading never guesses: no verdict, two different verdicts, HTML, nothing at all or missing
log-probabilities give ``value`` None with the reason in ``problem``, and the row is kept.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any

from wrpo_lib.evaluation.arena_hard import FOR_A
from wrpo_lib.evaluation.mt_bench import parse_score

Row = dict[str, Any]

BASELINE_FIRST, MODEL_FIRST = "baseline first", "model first"
NO_LOGPROBS = "log-probabilities missing"

VERDICTS = {**FOR_A, "A": (1.0, 1), "B": (0.0, 1), "C": (0.5, 1)}
"""Label -> (1 for the answer shown first, 0 for the second, ½ for a tie; weight).

Arena-Hard's five, then MT-Bench's three.
"""

MIRRORED = {"A<<B": "B>>A", "A<B": "B>A", "B=A": "A=B", "B<A": "A>B", "B<<A": "A>>B"}
"""Other spellings that Arena-Hard v2.0 accepts (upstream's show_result.py)."""

_HTML = re.compile(r"^\s*<(?:!doctype|html|head|body)\b", re.IGNORECASE)
_DOUBLE = re.compile(r"\[\[([AB<>=]+)\]\]")
_SINGLE = re.compile(r"\[([AB<>=]+)\]")
_PAIR = re.compile(r"\[\[([ABC])\]\]")
_TOKEN = re.compile(r"^[\s\"'`*.(\[]*([mM])[\s\"'`*.)\]]*$")


@dataclass(frozen=True)
class Reading:
    """``value``: a preference, a label or a score; ``details``: what the row keeps beside it."""

    value: float | str | None
    problem: str | None = None
    details: Row | None = None


def result(row: Row, body: Row) -> Row:
    """The result fields of a judgement from the server's reply, and ``problem`` (None if none).

    ``row`` says what was judged: ``benchmark``, ``version``, ``metric``, ``order``. AlpacaEval-2
    gets ``preference`` in [1, 2], 2 for the model; MT-Bench ``score``; Arena-Hard, and MT-Bench in
    pairwise mode, ``verdict`` and ``winner``.
    """
    text, benchmark = text_of(body), row["benchmark"]
    if benchmark == "alpaca-eval":
        found = read_logprobs(body) if row["metric"] == "weighted" else read_token(text)
        preference = found.value
        if isinstance(preference, float) and row["order"] == MODEL_FIRST:
            preference = 3 - preference
        return {"preference": preference, "problem": found.problem, **(found.details or {})}
    if row["metric"] == "score":
        found = read_rating(text)
        return {"score": found.value, "problem": found.problem}
    found = read_pair(text) if benchmark == "mt-bench" else read_arena(text, row["version"])
    verdict = None if found.value is None else str(found.value)
    return {"verdict": verdict, "winner": winner(verdict, row["order"]), "problem": found.problem}


def winner(verdict: str | None, order: str) -> str | None:
    """Who a verdict is for: model, baseline or tie."""
    if verdict is None:
        return None
    for_first, _ = VERDICTS[verdict]
    if for_first == 0.5:
        return "tie"
    return "baseline" if (for_first == 1) == (order == BASELINE_FIRST) else "model"


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
        return Reading(None, NO_LOGPROBS)
    listed = {t["token"]: float(t["logprob"]) for t in content[0]["top_logprobs"]}
    m, big = listed.get("m"), listed.get("M")
    details = {"logprob_m": m, "logprob_M": big}
    if m is None and big is None:
        return Reading(None, "neither m nor M among the log-probabilities", details)
    if m is None or big is None:
        return Reading(1.0 if big is None else 2.0, None, details)
    return Reading(2 - 1 / (1 + math.exp(min(big - m, 700))), None, details)


def read_token(text: str) -> Reading:
    """AlpacaEval-2 without log-probabilities: the reply itself is m (1) or M (2)."""
    if found := _TOKEN.match(text):
        return Reading(1.0 if found.group(1) == "m" else 2.0)
    words = set(re.findall(r"\b[mM]\b", text))
    return Reading(None, "two verdicts" if len(words) == 2 else _no_verdict(text))


def read_arena(text: str, version: str) -> Reading:
    """Arena-Hard's label: v0.1 takes it only if all labels agree, v2.0 takes the last."""
    if version == "v0.1":
        labels = _DOUBLE.findall(text)
    else:
        labels = _DOUBLE.findall(text.upper()) or _SINGLE.findall(text.upper())
    if not labels:
        return Reading(None, _no_verdict(text))
    if version != "v2.0" and len(set(labels)) > 1:
        return Reading(None, "two verdicts")
    label = MIRRORED.get(labels[-1], labels[-1])
    return Reading(label) if label in FOR_A else Reading(None, f"unknown verdict {label!r}")


def read_rating(text: str) -> Reading:
    """MT-Bench's score, as FastChat reads it (the first rating), refused outside 1 to 10."""
    score = parse_score(text)
    if score is None:
        return Reading(None, _no_verdict(text))
    if not 1 <= score <= 10:
        return Reading(None, f"score {score:g} is outside 1 to 10")
    return Reading(score)


def read_pair(text: str) -> Reading:
    """MT-Bench's pairwise verdict: A, B or C (a tie).

    FastChat takes A where a reply holds both; a reply with two verdicts is missing here.
    """
    labels = set(_PAIR.findall(text))
    if len(labels) == 1:
        return Reading(labels.pop())
    return Reading(None, "two verdicts" if labels else _no_verdict(text))


def _no_verdict(text: str) -> str:
    if not text.strip():
        return "empty reply"
    return "HTML instead of a verdict" if _HTML.search(text) else "no verdict"
