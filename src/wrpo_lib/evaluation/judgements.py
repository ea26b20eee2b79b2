"""Judgements of any origin in one form: our own rows and the formats that upstream writes.

Read are our JSONL (``wrpo judge``); AlpacaEval's ``annotations.json`` and a CSV of its numbers
without texts; FastChat's judgement JSONL, single and pairwise; Arena-Hard's judgement JSONL of both
versions and its battles; ``.gz`` behind any of them. Texts are dropped as they are read, only
lengths are kept. Every row of a file becomes a row here: one without a verdict has NaN or None.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING

from wrpo_lib.errors import WRPOError
from wrpo_lib.evaluation.assets import open_plain
from wrpo_lib.evaluation.formats import Row, alpaca_row, arena_rows, mt_bench_row

if TYPE_CHECKING:
    import pandas as pd

NAMES = {"alpaca-eval": "AlpacaEval-2", "mt-bench": "MT-Bench", "arena-hard": "Arena-Hard"}
RANK = {"error": 0, "unreadable": 1, "ok": 2}  # of our client's attempts at one request


def _open(path: Path) -> IO[str]:
    return io.TextIOWrapper(open_plain(path), encoding="utf-8", newline="")


def read_rows(path: Path) -> Iterator[tuple[str, Row]]:
    """(where, row) of a CSV, a JSON list or JSONL, found by the first character; gzipped or not."""
    if not path.is_file():
        raise WRPOError(f"{path} does not exist; judge the answers first or correct the path")
    try:
        with _open(path) as file:
            start = file.read(1)
            while start.isspace():
                start = file.read(1)
        with _open(path) as file:
            if start not in ("{", "["):
                for number, row in enumerate(csv.DictReader(file), 2):
                    yield f"{path}, line {number}", {k: v for k, v in row.items() if v != ""}
            elif start == "[":
                for number, row in enumerate(json.load(file), 1):
                    yield f"{path}, row {number}", row
            else:
                yield from _json_lines(path, file)
    except json.JSONDecodeError as error:
        raise WRPOError(f"{path} is not JSON ({error}); write it again") from error
    except (EOFError, gzip.BadGzipFile, UnicodeDecodeError) as error:
        raise WRPOError(f"{path} is cut short or damaged ({error}); write it again") from error


def _json_lines(path: Path, file: IO[str]) -> Iterator[tuple[str, Row]]:
    for number, line in enumerate(file, 1):
        if not line.strip():
            continue
        try:
            yield f"{path}, line {number}", json.loads(line)
        except json.JSONDecodeError as error:
            raise WRPOError(
                f"{path}, line {number}: not JSON ({error.msg}); delete the line and judge again"
            ) from error


def read_judgements(benchmark: str, path: Path) -> pd.DataFrame:
    """All judgements of a file, one a row.

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
    read = {"alpaca-eval": alpaca_row, "mt-bench": mt_bench_row, "arena-hard": arena_rows}[
        benchmark
    ]
    rows = [found for where, row in _best(path, benchmark) for found in _read(read, row, where)]
    if not rows:
        raise WRPOError(f"{path} holds no judgements; judge the answers first")
    table = pd.DataFrame(rows)
    if benchmark == "alpaca-eval":
        _refuse_mixture(table, path)
    if benchmark == "mt-bench" and "winner" in table:
        return _both_games(table)
    return table


def _best(path: Path, benchmark: str) -> Iterator[tuple[str, Row]]:
    """Rows of one benchmark; of several attempts at a request only the best, as the client does."""
    attempts: dict[str, tuple[str, Row]] = {}
    for where, row in read_rows(path):
        if not isinstance(row, dict):
            raise WRPOError(f"{where}: is no judgement but {type(row).__name__}; check the file")
        if row.get("benchmark", benchmark) != benchmark:
            raise WRPOError(
                f"{where} is a judgement of {row['benchmark']}, not {benchmark}; "
                "name that benchmark or give another file"
            )
        if "request" not in row:
            yield where, row
            continue
        slim = {k: v for k, v in row.items() if k not in ("judgment", "usage", "settings")}
        known = attempts.get(row["request"])
        if known is None or _rank(row) >= _rank(known[1]):
            attempts[row["request"]] = (where, slim)
    yield from attempts.values()


def _rank(row: Row) -> int:
    return RANK.get(str(row.get("status")), 0)


def _read(read: Callable[[Row, str], list[Row]], row: Row, where: str) -> list[Row]:
    try:
        return read(row, where)
    except KeyError as error:
        raise WRPOError(
            f"{where} has no field {error}: this is no judgement of that benchmark "
            f"(its fields: {', '.join(list(row)[:8])})"
        ) from error


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
    """Our pairwise rows, one a game, in FastChat's form, one a comparison."""
    names = {"model": "model_1", "baseline": "model_2", "tie": "tie"}
    table = table.assign(winner=[names.get(str(w), "error") for w in table["winner"]])
    key = [c for c in table.columns if c not in ("game", "winner")]
    wide = table.pivot_table(index=key, columns="game", values="winner", aggfunc="first")
    wide = wide.reindex(columns=[1, 2]).fillna("error").set_axis(["g1_winner", "g2_winner"], axis=1)
    wide = wide.reset_index()
    return wide.assign(model_1=wide["model"], model_2=wide["baseline"])
