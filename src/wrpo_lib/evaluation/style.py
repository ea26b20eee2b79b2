"""Arena-Hard's style control: what the score would be at equal length and equal markdown.

Upstream fits a Bradley–Terry model with four style features beside the models. It centres the
features over all battles in the table, so a model's number depends on which other models are in it,
and with one model alone nothing is controlled. Here the default is no centring: the number at equal
style. ``centre=True`` is upstream's.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from wrpo_lib.analysis.statistics import Estimate, bootstrap_interval
from wrpo_lib.errors import WRPOError
from wrpo_lib.evaluation.judgements import read_rows

if TYPE_CHECKING:
    import pandas as pd

ELEMENTS = ("token_len", "header_count", "list_count", "bold_count")
_CODE = re.compile(r"```[^`]*```")
_MARKDOWN = {
    "header_count": re.compile(r"^#{1,6}\s", re.MULTILINE),
    "list_count": re.compile(r"^\s*(?:\d+\.|[-*+])\s", re.MULTILINE),
    "bold_count": re.compile(r"\*\*[^*\n]+\*\*|__[^_\n]+__"),
}


def count(text: str, n_tokens: int | None = None) -> np.ndarray:
    """(4,) length, headers, list items and bold spans of an answer, code blocks left out.

    Length is ``n_tokens`` (upstream: tokens of GPT-4o's tokenizer) or, without it, the characters:
    only the ratio of two lengths is used.
    """
    prose = _CODE.sub("", text)
    marks = [len(pattern.findall(prose)) for pattern in _MARKDOWN.values()]
    return np.array([len(text) if n_tokens is None else n_tokens, *marks], dtype=float)


def from_metadata(metadata: dict[str, Any]) -> np.ndarray:
    """(4,) the same from the ``metadata`` of upstream's answer files."""
    values = (metadata[name] for name in ELEMENTS)
    return np.array([sum(v.values()) if isinstance(v, dict) else v for v in values], dtype=float)


def read_counts(path: Path) -> dict[tuple[str, str], np.ndarray]:
    """(model, question) -> (4,) counts of an answer file: ours, or upstream's of either version.

    Upstream's ``metadata`` is taken where it is there, otherwise the text is counted.
    """
    found = {}
    for where, row in read_rows(path):
        try:
            found[_answer(row)] = _counts(row)
        except (KeyError, IndexError, TypeError) as error:
            raise WRPOError(
                f"{where} is no Arena-Hard answer ({error!r}); check the file"
            ) from error
    return found


def _answer(row: dict[str, Any]) -> tuple[str, str]:
    model = row["model_id"] if "model_id" in row else row["model"]
    return str(model), str(row["uid"] if "uid" in row else row["question_id"])


def _counts(row: dict[str, Any]) -> np.ndarray:
    if row.get("metadata"):
        return from_metadata(row["metadata"])
    if "messages" in row:
        content = row["messages"][-1]["content"]
        return count(content["answer"] if isinstance(content, dict) else content)
    return count(row["text"] if "text" in row else row["choices"][0]["turns"][0]["content"])


def of_battles(rows: pd.DataFrame, counts: dict[tuple[str, str], np.ndarray]) -> np.ndarray:
    """(N, 4) style differences of battles with ``model``, ``baseline`` and ``question_id``."""
    sides = []
    for name in ("model", "baseline"):
        keys = list(zip(rows[name].astype(str), rows["question_id"].astype(str), strict=True))
        missing = [k for k in keys if k not in counts]
        if missing:
            raise WRPOError(
                f"style control lacks {len(set(missing))} answers (first: {missing[0][0]!r} to "
                f"question {missing[0][1]}); give the answer files of model and baseline"
            )
        sides.append(np.array([counts[k] for k in keys]))
    return difference(*sides)


def difference(model: np.ndarray, baseline: np.ndarray) -> np.ndarray:
    """(N, 4) style differences of model and baseline counts, (N, 4) each (upstream's formula).

    Length: difference over sum. Markdown: the same for elements a token, with one added below.
    """
    length = (model[:, 0] - baseline[:, 0]) / np.maximum(model[:, 0] + baseline[:, 0], 1)
    a = model[:, 1:] / np.maximum(model[:, :1], 1)
    b = baseline[:, 1:] / np.maximum(baseline[:, :1], 1)
    return np.column_stack([length, (a - b) / (a + b + 1)])


@dataclass(frozen=True)
class StyleControlled:
    """``score`` in percent at equal style; ``coefficients``: log-odds a standard deviation."""

    score: float
    interval: Estimate | None
    coefficients: dict[str, float]
    n_battles: int


def style_controlled(
    rows: pd.DataFrame, features: np.ndarray, centre: bool = False, replicates: int = 200
) -> dict[str, StyleControlled]:
    """Score of each ``model`` of rows with ``question_id``, ``won`` and ``weight``.

    ``features`` (N, 4) from :func:`difference`, a row each. All models share the coefficients of
    style. The interval refits on resampled questions.
    """
    known = (rows["won"].notna() & (rows["weight"] > 0)).to_numpy()
    rows, features = rows[known], features[known]
    repeated = np.repeat(features, rows["weight"].to_numpy(int), axis=0)  # a row each battle
    spread = repeated.std(axis=0, ddof=1)
    if len(rows) < 3 or not (spread > 0).any():
        raise WRPOError("style control needs battles whose answers differ in style")
    middle = repeated.mean(axis=0) if centre else 0.0
    scaled = (features - middle) / np.where(spread > 0, spread, 1)
    models = sorted(set(rows["model"]))
    is_model = (rows["model"].to_numpy()[:, None] == np.array(models)).astype(float)
    x = np.hstack([is_model, scaled])
    won, weight = rows["won"].to_numpy(float), rows["weight"].to_numpy(float)
    found = _fit(x, won, weight)
    names = dict(zip(ELEMENTS, found[len(models) :].tolist(), strict=True))
    questions = rows["question_id"].tolist()

    def score(k: int, counts: np.ndarray) -> float:
        return _percent(_fit(x, won, weight * counts)[k])

    return {
        model: StyleControlled(
            _percent(found[k]),
            bootstrap_interval(lambda n, k=k: score(k, n), questions, replicates)  # type: ignore[misc]
            if replicates
            else None,
            names,
            int((weight * is_model[:, k]).sum()),
        )
        for k, model in enumerate(models)
    }


def _percent(logit: float) -> float:
    return float(100 / (1 + np.exp(-logit)))


def _fit(x: np.ndarray, won: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Maximum likelihood of a logistic model with soft outcomes: each row once for either side."""
    from sklearn.linear_model import LogisticRegression

    kept = weight > 0
    x, won, weight = x[kept], won[kept], weight[kept]
    model = LogisticRegression(C=np.inf, fit_intercept=False, tol=1e-8, max_iter=1000)
    model.fit(
        np.vstack([x, x]),
        np.repeat([1, 0], len(x)),
        np.concatenate([won * weight, (1 - won) * weight]),
    )
    found: np.ndarray = model.coef_[0]
    return found
