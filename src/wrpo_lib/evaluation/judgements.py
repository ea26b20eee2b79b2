"""Judgements of any origin in one form: our own rows and the formats that upstream writes.

Read are our JSONL (``wrpo judge``); AlpacaEval's ``annotations.json`` and a CSV of its numbers
without texts; FastChat's judgement JSONL, single and pairwise; Arena-Hard's judgement JSONL of both
versions and its battles; ``.gz`` behind any of them. Texts are dropped as they are read, only
lengths are kept. Every row of a file becomes a row here: one without a verdict has NaN or None.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from wrpo_lib.errors import WRPOError
from wrpo_lib.evaluation.formats import JUDGEMENTS, convert, read_rows
from wrpo_lib.io import Row

if TYPE_CHECKING:
    import pandas as pd

NAMES = {"alpaca-eval": "AlpacaEval-2", "mt-bench": "MT-Bench", "arena-hard": "Arena-Hard"}
OK, UNREADABLE, ERROR = "ok", "unreadable", "error"  # what came of a call of ours


def best_attempts(rows: Iterable[tuple[str, Row]]) -> list[tuple[str, Row]]:
    """The rows that count among (where, row): for each request its best attempt.

    An answered call counts before one without a verdict, that before a failed one, and of equals
    the last. A call that never succeeded stays, with no result, so that whoever summarises can
    count what is missing. Rows of other tools have no ``request`` and all count.
    """
    ranks = {ERROR: 0, UNREADABLE: 1, OK: 2}

    def rank(row: Row) -> int:
        return ranks.get(str(row.get("status")), 0)

    best: dict[str, tuple[str, Row]] = {}
    for where, row in rows:
        request = row.get("request", where)
        known = best.get(request)
        if known is None or rank(row) >= rank(known[1]):
            best[request] = where, row
    return list(best.values())


def read_judgements(benchmark: str, path: Path) -> pd.DataFrame:
    """All judgements of a file, one per row.

    Columns of every benchmark: ``model``, ``baseline``, ``judge``, ``version``, ``template``,
    ``metric``, ``question_id``. AlpacaEval-2 adds ``index``, ``order``, ``sample``, ``preference``
    and lengths; MT-Bench ``turn``, ``score``, ``with_reference`` (or, in pairwise mode,
    ``model_1``, ``model_2``, ``g1_winner``, ``g2_winner``); Arena-Hard ``category``, ``game``,
    ``won`` and ``weight``. Raises :class:`WRPOError` with file, row and field for what is no
    judgement of ``benchmark``.
    """
    import pandas as pd

    if benchmark not in NAMES:
        raise WRPOError(f"unknown benchmark {benchmark!r}; choose one of {', '.join(NAMES)}")
    rows = []
    for where, row in best_attempts(read_rows(path)):
        if row.get("benchmark", benchmark) != benchmark:
            raise WRPOError(
                f"{where} is a judgement of {row['benchmark']}, not {benchmark}; "
                "name that benchmark or give another file"
            )
        rows += convert(row, JUDGEMENTS[benchmark], where)
    if not rows:
        raise WRPOError(f"{path} holds no judgements; judge the answers first")
    table = pd.DataFrame(rows)
    if benchmark == "alpaca-eval":
        _refuse_mixture(table, path)
    if benchmark == "mt-bench" and "winner" in table:
        return _both_games(table)
    return table


def _refuse_mixture(table: pd.DataFrame, path: Path) -> None:
    """Rows of AlpacaEval-2 and of something else in one file are a fault."""
    strange = table["index"] < 0
    if strange.any() and not strange.all():
        first = int(strange.to_numpy().argmax()) + 1
        raise WRPOError(
            f"{path}: {int(strange.sum())} of {len(table)} instructions are none of "
            f"AlpacaEval-2's (first: row {first}); they belong to another benchmark version"
        )


def _both_games(table: pd.DataFrame) -> pd.DataFrame:
    """Our pairwise rows, one per game, in FastChat's form, one per comparison."""
    names = {"model": "model_1", "baseline": "model_2", "tie": "tie"}
    table = table.assign(winner=[names.get(str(w), "error") for w in table["winner"]])
    key = [c for c in table.columns if c not in ("game", "winner")]
    wide = table.pivot_table(index=key, columns="game", values="winner", aggfunc="first")
    wide = wide.reindex(columns=[1, 2]).fillna("error").set_axis(["g1_winner", "g2_winner"], axis=1)
    wide = wide.reset_index()
    return wide.assign(model_1=wide["model"], model_2=wide["baseline"])
