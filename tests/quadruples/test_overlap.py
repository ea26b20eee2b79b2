"""Overlap with benchmarks: planted copies are found, unrelated prompts are not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from wrpo_lib.errors import WRPOError
from wrpo_lib.io import read_rows, write_rows
from wrpo_lib.quadruples.prompts import find_overlap, first_turns

ALPACA, MT_BENCH, ARENA = (
    "alpaca_eval/gpt4_1106_preview.json.gz",
    "eval/mtbench_questions.jsonl",
    "eval/arena_hard_v01_questions.jsonl.gz",
)


def found(tmp_path: Path, benchmarks: list[Path], *texts: str) -> list[set[str]]:
    """The ids of the questions that each text overlaps with."""
    path = tmp_path / "prompts.jsonl"
    write_rows(({"prompt_id": str(k), "prompt": text} for k, text in enumerate(texts)), path)
    matches = find_overlap(path, benchmarks)
    return [
        {m["question_id"] for m in matches if m["prompt_id"] == str(k)} for k in range(len(texts))
    ]


def test_planted_copies_are_found(shared: Path, tmp_path: Path) -> None:
    """Verbatim, in another case, without punctuation, with a word changed, inside a longer text."""
    files = [shared / name for name in (ALPACA, MT_BENCH, ARENA)]
    known = [
        q for path in files for q in first_turns(path).items() if 12 <= len(q[1].split()) <= 60
    ]
    for question_id, text in known[::50]:
        changed = " ".join([*text.split()[:-1], "indeed"])
        around = f"Please help me with the following. {text} Thank you very much for your help!"
        copies = (text, text.upper().replace(",", " "), changed, around)
        assert all(question_id in ids for ids in found(tmp_path, files, *copies))


def test_a_short_prompt_must_be_the_same(tmp_path: Path) -> None:
    benchmark = tmp_path / "b.jsonl"
    questions = ["Who made Berlin?", "!!!", "日本語の質問です"]
    write_rows(({"turns": [{"role": "user", "content": q}]} for q in questions), benchmark)
    texts = ("who made berlin", "hello, tell me: who made Berlin?", "", "日本語の質問です")
    assert found(tmp_path, [benchmark], *texts) == [{"0"}, set(), set(), {"2"}]


def test_benchmarks_overlap_only_where_they_do(shared: Path) -> None:
    """AlpacaEval holds two MT-Bench questions word for word; nothing else crosses benchmarks."""
    matches = find_overlap(shared / ALPACA, [shared / MT_BENCH, shared / ARENA])
    pairs = {(m["prompt_id"], m["question_id"], m["ngram_share"]) for m in matches}
    assert pairs == {("791", "130", 1.0), ("801", "81", 1.0)}


def test_the_command_writes_what_it_found(tmp_path: Path, wrpo: Any) -> None:
    file, benchmark, out = (tmp_path / f"{name}.jsonl" for name in ("prompts", "b", "overlap"))
    asked = "What is it that you would say of the birds in the reeds of this lake?"
    write_rows([{"question_id": 95, "turns": [asked]}], benchmark)
    prompts = {"mine": "Which birds nest in the reeds?", "theirs": asked}
    write_rows(({"prompt_id": i, "prompt": text} for i, text in prompts.items()), file)
    code, said, _ = wrpo("data", "overlap", file, "--benchmark", benchmark, "--out", out)
    assert (code, "1 prompts overlap" in said) == (0, True)
    expected = {"prompt_id": "theirs", "benchmark": "b", "question_id": "95", "ngram_share": 1.0}
    assert read_rows(out) == [expected]
    write_rows([{"question": "x"}], file)
    with pytest.raises(WRPOError, match=r"prompts\.jsonl, row 1: no instruction, turns or prompt"):
        find_overlap(file, [benchmark])
