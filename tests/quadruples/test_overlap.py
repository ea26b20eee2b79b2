"""Overlap with benchmarks: planted copies are found, unrelated prompts are not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from wrpo_lib.errors import WRPOError
from wrpo_lib.io import read_rows, write_rows
from wrpo_lib.quadruples.overlap import BenchmarkPrompt, Benchmarks, find_overlap, read_benchmark

FILES = ("alpaca_eval/gpt4_1106_preview.json.gz", "eval/mtbench_questions.jsonl",
         "eval/arena_hard_v01_questions.jsonl.gz")  # fmt: skip


@pytest.fixture(scope="module")
def real(shared: Path) -> list[BenchmarkPrompt]:
    return [p for name in FILES for p in read_benchmark(shared / name)]


@pytest.fixture(scope="module")
def index(real: list[BenchmarkPrompt]) -> Benchmarks:
    return Benchmarks(real)


def ids(index: Benchmarks, text: str) -> set[tuple[str, str]]:
    return {(m.benchmark, m.question_id) for m in index.matches({"x": text})}


def test_planted_copies_are_found(real: list[BenchmarkPrompt], index: Benchmarks) -> None:
    """Verbatim, in another case, without punctuation, with a word changed, inside a longer text."""
    long = [p for p in real if 12 <= len(p.text.split()) <= 60][::25]
    assert len(long) > 20
    for prompt in long:
        key = (prompt.benchmark, prompt.question_id)
        words = prompt.text.split()
        assert key in ids(index, prompt.text)
        assert key in ids(index, prompt.text.upper().replace(",", " "))
        assert key in ids(index, " ".join([*words[:-1], "indeed"]))
        around = "Please help me with the following, and answer at length. "
        assert key in ids(index, around + prompt.text + " Thank you very much for your help!")


def test_a_short_prompt_must_be_the_same(real: list[BenchmarkPrompt], index: Benchmarks) -> None:
    short = next(p for p in real if len(p.text.split()) == 5)
    assert (short.benchmark, short.question_id) in ids(index, short.text.lower() + "!")
    assert not ids(index, "hello, what is this all about then, I wonder " + short.text)


def test_benchmarks_overlap_only_where_they_do(
    real: list[BenchmarkPrompt], index: Benchmarks
) -> None:
    """AlpacaEval holds two MT-Bench questions word for word; nothing else crosses benchmarks."""
    alpaca = {p.question_id: p for p in real[:805]}
    crossing = {
        (m.prompt_id, m.question_id): (m.ngram_share, m.similarity)
        for m in index.matches({i: p.text for i, p in alpaca.items()})
        if m.benchmark != alpaca[m.prompt_id].benchmark
    }
    assert crossing == {("791", "130"): (1.0, 1.0), ("801", "81"): (1.0, 1.0)}


def test_the_command_reports_and_drops(
    real: list[BenchmarkPrompt], shared: Path, tmp_path: Path, wrpo: Any
) -> None:
    copied = next(p for p in real if p.benchmark == "mtbench_questions" and p.question_id == "95")
    prompts = {"mine": "Which birds nest in the reeds of a lake at home?", "theirs": copied.text}
    file, out, keep = (tmp_path / f"{name}.jsonl" for name in ("prompts", "overlap", "kept"))
    write_rows(({"prompt_id": i, "prompt": text} for i, text in prompts.items()), file)
    asked = [a for name in FILES for a in ("--benchmark", shared / name)]
    code, said, _ = wrpo("data", "overlap", file, *asked, "--out", out, "--keep", keep)
    assert (code, "1 of 2 prompts overlap with 1385 benchmark prompts" in said) == (0, True)
    (row,) = read_rows(out)
    assert (row["prompt_id"], row["question_id"]) == ("theirs", "95")
    assert (row["ngram_share"], row["similarity"]) == (1.0, 1.0)
    assert [r["prompt_id"] for r in read_rows(keep)] == ["mine"]


def test_bad_input_is_named(tmp_path: Path) -> None:
    index = Benchmarks([BenchmarkPrompt("b", "1", "what is it that you say of it now")])
    with pytest.raises(WRPOError, match="f, row 1, field 'prompt': missing"):
        find_overlap([{"prompt_id": "x"}], index, "f")
    with pytest.raises(WRPOError, match="f, row 1, field 'prompt_id': missing"):
        find_overlap([{"prompt": "x"}], index, "f")
    path = tmp_path / "b.jsonl"
    path.write_text('{"question": "x"}\n')
    with pytest.raises(WRPOError, match="row 1: has no instruction, turns or prompt"):
        read_benchmark(path)


def test_odd_texts_match_nothing_by_accident() -> None:
    index = Benchmarks(
        [BenchmarkPrompt("b", "1", "!!!"), BenchmarkPrompt("b", "2", "日本語の質問です")]
    )
    found = index.matches({"empty": "", "same": "日本語の質問です"})
    assert [(m.prompt_id, m.question_id) for m in found] == [("same", "2")]
