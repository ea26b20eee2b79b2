"""Judgements of any origin in one form: our own rows and the formats that upstream writes.

Read are our JSONL (``wrpo judge``); AlpacaEval's ``annotations.json`` and a CSV of its numbers
without texts; FastChat's judgement JSONL, single and pairwise; Arena-Hard's judgement JSONL of both
versions and its battles; ``.gz`` behind any of them. Texts are dropped as they are read, only
lengths are kept. Every row of a file becomes a row here: one without a verdict has NaN or None.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import json
import math
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from wrpo_lib.errors import WRPOError
from wrpo_lib.evaluation.arena_hard import BASELINES, FOR_A
from wrpo_lib.evaluation.assets import open_plain

if TYPE_CHECKING:
    import pandas as pd

Row = dict[str, Any]

NAMES = {"alpaca-eval": "AlpacaEval-2", "mt-bench": "MT-Bench", "arena-hard": "Arena-Hard"}
RANK = {"error": 0, "unreadable": 1, "ok": 2}  # of our client's attempts at one request
ANNOTATORS = {"weighted_alpaca_eval_gpt4_turbo": ("gpt-4-1106-preview", "alpaca_eval_clf")}
"""alpaca-eval's annotator -> judge and template, as our own rows name them."""

# Arena-Hard v2.0 also writes the mirrored labels
LABELS = {"A<<B": "B>>A", "A<B": "B>A", "B=A": "A=B", "B<A": "A>B", "B<<A": "A>>B"}


@cache
def instructions() -> dict[str, tuple[int, bool]]:
    """Hash of each AlpacaEval-2 instruction -> official index, and whether upstream's seeded choice
    shows the model first (406 of 805)."""
    path = Path(__file__).with_name("alpaca_eval_instructions.csv")
    with open(path, encoding="utf-8", newline="") as file:
        return {
            row["sha256"]: (int(row["index"]), row["model_first"] == "1")
            for row in csv.DictReader(file)
        }


@cache
def _model_first() -> dict[int, bool]:
    return dict(instructions().values())


def instruction_key(text: str) -> str:
    """First 12 digits of an instruction's sha256: enough to find it among 805."""
    return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()[:12]


def _open(path: Path) -> IO[str]:
    return io.TextIOWrapper(open_plain(path), encoding="utf-8", newline="")


def _rows(path: Path) -> Iterator[tuple[str, Row]]:
    """(where, row) of a CSV, a JSON list or JSONL, found by its first character."""
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
    read = {"alpaca-eval": _alpaca, "mt-bench": _mt_bench, "arena-hard": _arena}[benchmark]
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
    for where, row in _rows(path):
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


def _number(value: Any, where: str, field: str) -> float:
    """A number, NaN where the row has none."""
    if value is None or value == "":
        return math.nan
    try:
        return float(value)
    except (TypeError, ValueError):
        raise WRPOError(f"{where}, field {field!r}: is {value!r}, not a number") from None


def _alpaca(row: Row, where: str) -> list[Row]:
    if "generator_2" in row:
        return [_annotation(row, where)]
    official = "index" in row  # a table of numbers without texts
    index = int(row["index"]) if official else row["question_id"]
    official = official or row.get("version") == "2"
    found = {
        "model": row["model"],
        "baseline": row.get("baseline", "gpt4_1106_preview" if official else ""),
        "judge": row.get("judge", "gpt-4-1106-preview" if "len_model" in row else ""),
        "version": row.get("version", "2" if official else ""),
        "template": row.get("template", "alpaca_eval_clf" if "len_model" in row else ""),
        "metric": row.get("metric", "weighted"),
        "question_id": index,
        "index": int(index) if official else -1,
        "order": row.get("order", _seeded_order(int(index)) if official else ""),
        "sample": row.get("sample", 0),
        "preference": _preference(row["preference"], where),
    }
    for name in ("model", "baseline"):
        value = row.get(f"length_{name}", row.get(f"len_{name}"))
        found[f"length_{name}"] = _number(value, where, f"length_{name}")
    return [found]


def _annotation(row: Row, where: str) -> Row:
    """A row of alpaca-eval's annotations.json; ``index`` is -1 for an instruction not its own."""
    annotator = str(row.get("annotator") or "")
    judge, template = ANNOTATORS.get(annotator, (annotator, annotator))
    key = instruction_key(str(row["instruction"]))
    index = instructions()[key][0] if key in instructions() else -1
    return {
        "model": row["generator_2"],
        "baseline": row["generator_1"],
        "judge": judge,
        "version": "2" if index >= 0 else "",
        "template": template,
        "metric": "weighted" if annotator.startswith("weighted") else "verdict",
        "question_id": index if index >= 0 else key,
        "index": index,
        "order": _seeded_order(index) if index >= 0 else "",
        "sample": 0,
        "preference": _preference(row["preference"], where),
        "length_model": len(row["output_2"]),
        "length_baseline": len(row["output_1"]),
    }


def _seeded_order(index: int) -> str:
    """Which answer upstream's seeded choice shows first."""
    return "model first" if _model_first().get(index) else "baseline first"


def _preference(value: Any, where: str) -> float:
    """In [1, 2]; upstream's older 0 is a tie."""
    number = _number(value, where, "preference")
    if number == 0:
        return 1.5
    if not (math.isnan(number) or 1 <= number <= 2):
        raise WRPOError(f"{where}, field 'preference': {number} is outside [1, 2]; repair it")
    return number


def _refuse_mixture(table: pd.DataFrame, path: Path) -> None:
    """Rows of AlpacaEval-2 and of something else in one file are a fault."""
    strange = table["index"] < 0
    if strange.any() and not strange.all():
        first = int(strange.to_numpy().argmax()) + 1
        raise WRPOError(
            f"{path}: {int(strange.sum())} of {len(table)} instructions are none of "
            f"AlpacaEval-2's (first: row {first}); they belong to another benchmark version"
        )


def _mt_bench(row: Row, where: str) -> list[Row]:
    judge = row.get("judge") or ""
    judge, template = judge if isinstance(judge, list) else (judge, row.get("template", ""))
    common = {
        "baseline": row.get("baseline", ""),
        "judge": judge,
        "version": row.get("version", ""),
        "template": template,
        "metric": row.get("metric", "score"),
        "question_id": row["question_id"],
        "turn": row.get("turn", 1),
    }
    if row.get("category"):
        common["category"] = row["category"]
    if "g1_winner" in row:
        names = ("model_1", "model_2", "g1_winner", "g2_winner")
        return [{**common, "model": row["model_1"], **{n: row[n] for n in names}}]
    common["model"] = row["model"]
    if "winner" in row:
        return [{**common, "game": row["game"], "winner": row["winner"]}]
    score = _number(row["score"], where, "score")
    reference = "math" in template or "reference" in template if template else None
    return [{**common, "score": score, "with_reference": reference}]


def _both_games(table: pd.DataFrame) -> pd.DataFrame:
    """Our pairwise rows, one a game, in FastChat's form, one a comparison."""
    names = {"model": "model_1", "baseline": "model_2", "tie": "tie"}
    table = table.assign(winner=[names.get(str(w), "error") for w in table["winner"]])
    key = [c for c in table.columns if c not in ("game", "winner")]
    wide = table.pivot_table(index=key, columns="game", values="winner", aggfunc="first")
    wide = wide.reindex(columns=[1, 2]).fillna("error").set_axis(["g1_winner", "g2_winner"], axis=1)
    wide = wide.reset_index()
    return wide.assign(model_1=wide["model"], model_2=wide["baseline"])


def _arena(row: Row, where: str) -> list[Row]:
    if "model_a" in row:
        return [_battle(row)]
    question = row["uid"] if "uid" in row else row["question_id"]
    category = row.get("category") or "arena-hard-v0.1"
    common = {
        "model": row["model"],
        "baseline": row.get("baseline", BASELINES.get(category, "")),
        "judge": row.get("judge") or "",
        "version": row.get("version", "v2.0" if "uid" in row else "v0.1"),
        "template": row.get("template", ""),
        "metric": row.get("metric", "verdict"),
        "question_id": question,
        "category": category,
    }
    if "games" in row:
        games = [(g, (game or {}).get("score")) for g, game in enumerate(row["games"], 1)]
    else:
        games = [(row["game"], row["verdict"])]
    lengths: Row = {k: row[k] for k in ("length_model", "length_baseline") if k in row}
    found: list[Row] = []
    for game, label in games:
        won, weight = FOR_A.get(LABELS.get(str(label), str(label)), (math.nan, 0))
        if game == 1:  # the baseline is A
            won = 1 - won
        found.append({**common, **lengths, "game": game, "won": won, "weight": weight})
    return found


def _battle(row: Row) -> Row:
    """One of upstream's battles; the model is whichever side is no baseline."""
    pair = (row["model_a"], row["model_b"])
    baseline = next((m for m in pair if m in BASELINES.values()), row["model_a"])
    model = pair[1] if pair[0] == baseline else pair[0]
    winner = str(row["winner"])
    won = math.nan
    if winner.startswith("tie"):
        won = 0.5
    elif winner in ("model_a", "model_b"):
        won = float(row[winner] == model)
    return {
        "model": model,
        "baseline": baseline,
        "judge": row.get("judge") or "",
        "version": "v0.1",
        "template": "",
        "metric": "battles",
        "question_id": row["question_id"],
        "category": "arena-hard-v0.1",
        "game": math.nan,  # both games name the baseline model_a
        "won": won,
        "weight": 1,
    }
