"""`wrpo summarise` and its kin over every format, good and bad; the tracked published numbers."""

import json
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from commandline import wrpo
from sklearn.metrics import cohen_kappa_score

from wrpo_lib.evaluation.forms import read_judgements
from wrpo_lib.evaluation.summary import PUBLISHED, SIDE, make_published, numbers, summarise
from wrpo_lib.io import file_hash, read_rows, write_rows
from wrpo_lib.records import read_results, read_run

pytestmark = pytest.mark.usefixtures("assets")

Capture = pytest.CaptureFixture[str]
FUSECHAT = "FuseChat-Llama-3.1-8B-Instruct"
TEXTS = f"eval/alpacaeval2_annotations_{FUSECHAT}.json.gz"
MT_BENCH, BATTLES = PUBLISHED["mt_bench"], PUBLISHED["arena_hard"]


@pytest.fixture(scope="module")
def annotations(shared: Path) -> list[dict[str, Any]]:
    return read_rows(shared / TEXTS)


def said(capsys: Capture, *arguments: Any) -> str:
    code, out, err = wrpo(capsys, *arguments)
    assert code == 0, err
    return out


def refused(capsys: Capture, *arguments: Any) -> str:
    code, out, err = wrpo(capsys, *arguments)
    assert (code, out, len(err.strip().splitlines())) == (2, "", 1)
    return err


def report(capsys: Capture, *arguments: Any) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(said(capsys, "summarise", *arguments, "--json"))
    return found


def counts(found: dict[str, Any]) -> tuple[int, ...]:
    return tuple(found[f"n_{name}"] for name in ("total", "absent", "missing", "duplicates"))


def no_texts(table: pd.DataFrame) -> bool:
    """Whether a table holds names and ids at most, and no text of others."""
    texts = table.select_dtypes("object")
    return bool(texts.map(lambda v: len(str(v)) < 50).all(axis=None))


def write(path: Path, rows: list[Any]) -> Path:
    write_rows(rows, path)
    return path


def test_annotations_of_a_published_model(
    shared: Path, annotations: list[dict[str, Any]], tmp_path: Path, capsys: Capture
) -> None:
    found = report(capsys, "alpaca-eval", shared / TEXTS, "--replicates", 20)["models"][0]
    assert found["win_rate"] == pytest.approx(63.33158292362734, abs=1e-9)
    assert found["length_controlled_winrate"] == pytest.approx(65.38623116037492, abs=0.16)
    assert counts(found) == (805, 0, 0, 0)
    assert found["position_effect"]["low"] > 0  # shown second is better
    rows = read_judgements("alpaca-eval", shared / TEXTS)
    assert no_texts(rows)
    numbers = pd.read_csv(shared / "eval" / "alpacaeval2_annotations.csv.gz")
    numbers = numbers[numbers["model"] == FUSECHAT]
    lengths = numbers[["index", "len_model", "len_baseline"]].to_numpy()
    assert (rows[["question_id", "length_model", "length_baseline"]].to_numpy() == lengths).all()
    holed = [*annotations[3:], *annotations[:1] * 2]
    holed[2] = {**holed[2], "preference": None}
    # a run in both orders that was stopped has every question, but not every judgement
    both = pd.concat([rows, rows.assign(order="the other")[:5]]).to_dict("records")
    for judged, expected in ((holed, (803, 2, 1, 1)), (both, (810, 800, 0, 0))):
        path = write(tmp_path / "judged.jsonl", judged)
        found = report(capsys, "alpaca-eval", path, "--replicates", 0)["models"][0]
        assert counts(found) == expected


def test_fastchat_judgements(shared: Path, tmp_path: Path, capsys: Capture) -> None:
    found = report(capsys, "mt-bench", shared / MT_BENCH)
    published = json.loads((shared / "eval" / "mtbench_published.json").read_text())
    models = {model["model"]: model for model in found["models"]}
    for name, triple in published.items():
        ours = [models[name][n] for n in ("first_turn", "second_turn", "overall")]
        assert ours == pytest.approx(triple, abs=1e-12)
    assert counts(models["mistral-orpo"])[1:] == (0, 1, 160)
    scores = (6, 85, 9, 0)  # those off the scale are missing
    rows = [{**OTHER, "question_id": 81 + i, "score": score} for i, score in enumerate(scores)]
    (model,) = report(capsys, "mt-bench", write(tmp_path / "j.jsonl", rows))["models"]
    assert (model["overall"], model["n_missing"], model["n_absent"]) == (7.5, 2, 156)
    assert (model["interval"]["low"], model["interval"]["high"]) == (1, 10)
    twice = [tmp_path / "j.jsonl"] * 2
    assert "give each model once" in refused(capsys, "summarise", "mt-bench", *twice)


def games(folder: Path, *labels: tuple[str | None, str | None], **names: str) -> Path:
    """Arena-Hard's judgements, a question for each pair of verdicts."""
    names = {"model": "m", "judge": "j", **names}
    scores = [[{"score": score} for score in pair] for pair in labels]
    rows = [{"question_id": f"q{i}", **names, "games": both} for i, both in enumerate(scores)]
    return write(folder / f"{names['judge']}.jsonl", rows)


def test_arena_judgements(tmp_path: Path, capsys: Capture) -> None:
    path = games(tmp_path, ("A>B", "A=B"), ("B>>A", "A>B"), ("A>>B", "B>A"), (None, "A>B"))
    (own,) = report(capsys, "arena-hard", path)["models"]
    assert own["score"] == pytest.approx(100 * (0 + 0.5 + 3 + 1 + 0 + 0 + 1) / 11)
    assert counts(own) == (11, 992, 1, 0)
    assert (own["baseline"], own["version"]) == ("gpt-4-0314", "v0.1")


def ours(model: str, n: int = 40, shift: float = 0.0, **changes: Any) -> list[dict[str, Any]]:
    """Rows as `wrpo judge` writes them: two orders, nano questions."""
    rng = np.random.default_rng(1)
    common = {"attempt": 1, "status": "ok", "benchmark": "alpaca-eval", "version": "nano"}
    common |= {"model": model, "baseline": "b", "judge": "local", "template": "t"}
    common |= {"metric": "weighted", "length_baseline": 50}
    return [
        common
        | {"request": f"{model}{i}{order}", "question_id": f"n{i}", "order": order}
        | {"preference": float(np.clip(1.5 + shift + rng.normal(0, 0.2), 1, 2))}
        | {"length_model": 40 + i, **changes}
        for i in range(n)
        for order in ("baseline first", "model first")
    ]


def test_our_rows_attempts_and_paired_differences(tmp_path: Path, capsys: Capture) -> None:
    first = ours("a")
    failed = {**first[0], "status": "error", "preference": None}
    gone = {**failed, "question_id": "gone", "request": "other"}
    a = write(tmp_path / "a.jsonl", [failed, *first, gone])
    b = write(tmp_path / "b.jsonl", ours("c", shift=0.3))
    other = write(tmp_path / "d.jsonl", ours("d", judge="another"))
    found = report(capsys, "alpaca-eval", a, b, other, "--replicates", 30)
    model, (pair, apart) = found["models"][0], found["differences"]
    assert (model["n_total"], model["n_missing"]) == (80, 1)  # the first failure was made good
    assert pair["difference"]["low"] > 15
    assert pair["n_shared_questions"] == 40
    assert pair["lc_difference"]["low"] < pair["difference"]["value"]
    assert "judge is another, not local" in apart["reason"]
    assert "difference" not in apart
    text = said(capsys, "summarise", "alpaca-eval", a, b, "--replicates", 0)
    assert "c minus a:" in text


def test_agreement_of_two_judges(tmp_path: Path, capsys: Capture) -> None:
    verdicts = ("B>A", "A>B"), ("A>B", "B>A"), ("A>B", "A>B"), ("B>A", "A>>B")
    a = games(tmp_path, *verdicts, judge="one")
    b = games(tmp_path, *verdicts[:1], ("B>A", "A>B"), ("A=B", "A=B"), (None, None), judge="two")
    out = said(capsys, "agreement", "arena-hard", a, b)
    kappa = cohen_kappa_score(["wins", "loses", "ties"], ["wins", "wins", "ties"])
    assert "raw: 0.67 [0.00, 1.00] (95 %; 3 rows" in out
    assert f"kappa: {kappa:.4f}" in out
    rows = [{**OTHER, "question_id": i, "judge": f"j{i}"} for i in (1, 2)]
    two = write(tmp_path / "two.jsonl", rows)
    assert "judgements of j1, j2" in refused(capsys, "agreement", "mt-bench", two, two)


ROW = ours("m")[0]
ANNOTATION = {"instruction": "x", "output_1": "a", "output_2": None, "generator_1": "b"}
ANNOTATION |= {"generator_2": "m", "preference": 1.5}
OTHER = {"question_id": 1, "model": "m", "turn": 1, "score": 5}


@pytest.mark.parametrize(
    ("benchmark", "rows", "sentence"),
    [
        ("alpaca-eval", [{**ROW, "preference": 3}], "row 1, field 'preference'"),
        ("alpaca-eval", [{**ROW, "preference": None}], "0 of 1 judgements have a verdict"),
        ("mt-bench", [ROW], "row 1 is of alpaca-eval, not mt-bench"),
        ("alpaca-eval", [ANNOTATION], "row 1, field 'output_2'"),
        ("arena-hard", [{"question_id": "q", "model": "m"}], "row 1, field 'game'"),
        ("alpaca-eval", [], "holds no judgements"),
        ("helm", [ROW], "unknown benchmark 'helm'; choose one of alpaca-eval"),
    ],
)
def test_bad_input_is_one_sentence_and_status_2(
    tmp_path: Path, capsys: Capture, benchmark: str, rows: list[Any], sentence: str
) -> None:
    path = write(tmp_path / "j.jsonl", rows)
    assert sentence in refused(capsys, "summarise", benchmark, path)


def test_other_instructions_or_a_missing_side_file_are_noticed(
    shared: Path,
    annotations: list[dict[str, Any]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Capture,
) -> None:
    changed = [{**r, "instruction": r["instruction"] + " "} for r in annotations[:50]]
    path = write(tmp_path / "other.jsonl", changed)
    (model,) = report(capsys, "alpaca-eval", path, "--replicates", 0)["models"]
    assert "not AlpacaEval-2's" in str(model["notes"])
    monkeypatch.setenv("WRPO_ASSETS", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    (model,) = report(capsys, "alpaca-eval", shared / TEXTS)["models"]
    assert "length_controlled_winrate" not in model
    assert "run `wrpo assets fetch`" in str(model["notes"])


def test_the_judgements_are_those_of_the_record_and_no_text_is_tracked(shared: Path) -> None:
    record = read_run("published")["judgements"]
    assert record == {file: file_hash(shared / file) for file in (*PUBLISHED.values(), SIDE)}
    for name in (*PUBLISHED, "detectable"):
        assert no_texts(read_results("published", name))


@pytest.mark.parametrize("benchmark", ["mt-bench", "arena-hard"])
def test_tables_without_refits_are_reproduced(shared: Path, benchmark: str) -> None:
    name = benchmark.replace("-", "_")
    found = summarise(benchmark, read_judgements(benchmark, shared / PUBLISHED[name]))
    table = pd.read_csv(StringIO(pd.DataFrame(map(numbers, found)).to_csv(index=False)))
    tracked = read_results("published", name)
    pd.testing.assert_frame_equal(table, tracked, rtol=1e-5, check_dtype=False)


@pytest.mark.slow
def test_everything_is_made_again(
    shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = read_results("published", "alpaca_eval2").set_index("model")
    monkeypatch.setenv("WRPO_HOME", str(tmp_path))
    assert make_published(shared, replicates=20).is_relative_to(tmp_path)
    again = read_results("published", "alpaca_eval2").set_index("model")
    for column in ("win_rate", "standard_error", "position_effect", "length_effect"):
        assert again[column].to_list() == pytest.approx(before[column].to_list(), nan_ok=True)
    assert (again["lc_interval"] - before["lc_interval"]).abs().max() < 0.16
