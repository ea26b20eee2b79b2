"""Arena-Hard's style control: what the score would be at equal length and equal markdown.

Upstream fits a Bradley–Terry model with four style features beside all models in its table and
centres the features over all battles, so a model's number depends on which others are in the table.
Here each model is fitted alone and nothing is centred: the number at equal style.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from wrpo_lib.analysis.statistics import Estimate, bootstrap_interval
from wrpo_lib.errors import WRPOError
from wrpo_lib.evaluation.formats import read_rows

if TYPE_CHECKING:
    import pandas as pd

ELEMENTS = ("token_len", "header_count", "list_count", "bold_count")
_CODE = re.compile(r"```[^`]*```")
_MARKDOWN = (
    re.compile(r"^#{1,6}\s", re.MULTILINE),
    re.compile(r"^\s*(?:\d+\.|[-*+])\s", re.MULTILINE),
    re.compile(r"\*\*[^*\n]+\*\*|__[^_\n]+__"),
)


def count(text: str) -> list[float]:
    """Length in characters, headers, list items and bold spans of an answer.

    Markdown inside code blocks is not counted. Upstream's length is in tokens of GPT-4o's
    tokenizer; only the ratio of two lengths is used.
    """
    prose = _CODE.sub("", text)
    return [len(text), *(len(pattern.findall(prose)) for pattern in _MARKDOWN)]


def read_counts(path: Path) -> dict[tuple[str, str], list[float]]:
    """(model, question) -> counts of an answer file: ours, or upstream's of either version.

    Upstream's ``metadata`` is taken where it is there, otherwise the text is counted.
    """
    found = {}
    for where, row in read_rows(path):
        try:
            model = row["model_id"] if "model_id" in row else row["model"]
            question = row["uid"] if "uid" in row else row["question_id"]
            found[str(model), str(question)] = _counts(row)
        except (KeyError, IndexError, TypeError) as error:
            raise WRPOError(
                f"{where} is no Arena-Hard answer ({error!r}); check the file"
            ) from error
    return found


def _counts(row: dict[str, Any]) -> list[float]:
    if row.get("metadata"):
        values = (row["metadata"][name] for name in ELEMENTS)
        return [sum(v.values()) if isinstance(v, dict) else v for v in values]
    if "messages" in row:  # v2.0
        content = row["messages"][-1]["content"]
        return count(content["answer"] if isinstance(content, dict) else content)
    return count(row["text"] if "text" in row else row["choices"][0]["turns"][0]["content"])


def of_battles(rows: pd.DataFrame, counts: dict[tuple[str, str], list[float]]) -> np.ndarray:
    """(N, 4) style differences of battles with ``model``, ``baseline`` and ``question_id``."""
    sides = []
    for name in ("model", "baseline"):
        keys = list(zip(rows[name].astype(str), rows["question_id"].astype(str), strict=True))
        if missing := [k for k in keys if k not in counts]:
            raise WRPOError(
                f"style control lacks {len(set(missing))} answers (first: {missing[0][0]!r} to "
                f"question {missing[0][1]}); give the answer files of model and baseline"
            )
        sides.append(np.array([counts[k] for k in keys], dtype=float))
    return difference(*sides)


def difference(model: np.ndarray, baseline: np.ndarray) -> np.ndarray:
    """(N, 4) style differences of model and baseline counts, (N, 4) each (upstream's formula).

    Length: difference over sum. Markdown: the same for elements per token, with one added below.
    """
    length = (model[:, 0] - baseline[:, 0]) / np.maximum(model[:, 0] + baseline[:, 0], 1)
    a = model[:, 1:] / np.maximum(model[:, :1], 1)
    b = baseline[:, 1:] / np.maximum(baseline[:, :1], 1)
    return np.column_stack([length, (a - b) / (a + b + 1)])


@dataclass(frozen=True)
class StyleControlled:
    """``score`` in percent at equal style; ``coefficients``: log-odds per standard deviation."""

    score: float
    interval: Estimate | None
    coefficients: dict[str, float]


def style_controlled(
    rows: pd.DataFrame, features: np.ndarray, replicates: int = 200
) -> StyleControlled:
    """Score of the model of rows with ``question_id``, ``won`` and ``weight``.

    ``features`` (N, 4) from :func:`difference`, one row each. The interval refits on resampled
    questions; None without ``replicates``.
    """
    known = (rows["won"].notna() & (rows["weight"] > 0)).to_numpy()
    rows, features = rows[known], features[known]
    won, weight = rows["won"].to_numpy(float), rows["weight"].to_numpy(int)
    spread = np.repeat(features, weight, axis=0).std(axis=0, ddof=1)  # one row for each battle
    if len(rows) < 3 or not (spread > 0).any():
        raise WRPOError("style control needs battles whose answers differ in style")
    x = np.column_stack([np.ones(len(rows)), features / np.where(spread > 0, spread, 1)])

    def score(counts: np.ndarray) -> float:
        return float(100 / (1 + np.exp(-_fit(x, won, weight * counts)[0])))

    once = np.ones(len(rows))
    coefficients = _fit(x, won, weight * once)[1:].tolist()
    return StyleControlled(
        score(once),
        bootstrap_interval(score, rows["question_id"], replicates) if replicates else None,
        dict(zip(ELEMENTS, coefficients, strict=True)),
    )


def _fit(x: np.ndarray, won: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Maximum likelihood of a logistic model with soft outcomes: each row once for either side."""
    from sklearn.linear_model import LogisticRegression

    drawn = weight > 0
    x, won, weight = x[drawn], won[drawn], weight[drawn]
    model = LogisticRegression(C=np.inf, fit_intercept=False, tol=1e-8, max_iter=1000)
    weights = np.concatenate([won * weight, (1 - won) * weight])
    model.fit(np.vstack([x, x]), np.repeat([1, 0], len(x)), weights)
    found: np.ndarray = model.coef_[0]
    return found
