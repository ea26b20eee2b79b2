"""From a judge's raw reply to a verdict or a score, and a reason where there is none.

A reading never guesses: no verdict, two different verdicts, HTML, nothing at all or missing
log-probabilities give ``value`` None with the reason in ``problem``, and the row is kept.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any

from wrpo_lib.evaluation.mt_bench import parse_score

NO_LOGPROBS = "log-probabilities missing"
_HTML = re.compile(r"^\s*<(?:!doctype|html|head|body)\b", re.IGNORECASE)
_DOUBLE = re.compile(r"\[\[([AB<>=]+)\]\]")
_SINGLE = re.compile(r"\[([AB<>=]+)\]")
_PAIR = re.compile(r"\[\[([ABC])\]\]")
_TOKEN = re.compile(r"^[\s\"'`*.(\[]*([mM])[\s\"'`*.)\]]*$")

# upstream's other spellings of the five verdicts (Arena-Hard v2.0, show_result.py)
SAME = {
    "A<<B": "B>>A", "A<B": "B>A", "B=A": "A=B", "B<A": "A>B", "B<<A": "A>>B",
    "A>>B": "A>>B", "A>B": "A>B", "A=B": "A=B", "B>A": "B>A", "B>>A": "B>>A",
}  # fmt: skip


@dataclass(frozen=True)
class Reading:
    """``value``: a preference, a label or a score; ``details``: what the row keeps beside it."""

    value: float | str | None
    problem: str | None = None
    details: dict[str, Any] | None = None


def _empty(text: str) -> str | None:
    """Why a reply without a verdict has none."""
    if not text.strip():
        return "empty reply"
    return "HTML instead of a verdict" if _HTML.search(text) else "no verdict"


def text_of(body: dict[str, Any]) -> str:
    """The reply's text; an empty string where the server sent none."""
    choices = body.get("choices") or [{}]
    return str((choices[0].get("message") or {}).get("content") or "")


def read_logprobs(body: dict[str, Any]) -> Reading:
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
    return Reading(None, "two verdicts" if len(words) == 2 else _empty(text))


def read_arena(text: str, version: str) -> Reading:
    """Arena-Hard's label: v0.1 takes it only if all labels agree, v2.0 takes the last."""
    patterns = (_DOUBLE,) if version == "v0.1" else (_DOUBLE, _SINGLE)
    source = text if version == "v0.1" else text.upper()
    labels: list[str] = next((found for p in patterns if (found := p.findall(source))), [])
    if not labels:
        return Reading(None, _empty(text))
    if version != "v2.0" and len(set(labels)) > 1:
        return Reading(None, "two verdicts")
    label = SAME.get(labels[-1])
    return Reading(label, None if label else f"unknown verdict {labels[-1]!r}")


def read_rating(text: str) -> Reading:
    """MT-Bench's score, as FastChat reads it (the first rating), refused outside 1 to 10."""
    score = parse_score(text)
    if score is None:
        return Reading(None, _empty(text))
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
    return Reading(None, "two verdicts" if labels else _empty(text))
