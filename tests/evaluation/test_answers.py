"""Answers: made with each benchmark's settings, read in every known form, written in upstream's."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from wrpo_lib.errors import WRPOError
from wrpo_lib.evaluation.answers import Answers, answer, export, sampling
from wrpo_lib.evaluation.benchmarks import Benchmark, load
from wrpo_lib.generation.request import Request, Response
from wrpo_lib.io import read_rows, write_rows


class Echo:
    """An engine that answers with what it was told; ``fail`` are keys it cannot answer."""

    def __init__(self, fail: tuple[str, ...] = ()) -> None:
        self.fail, self.seen = fail, []

    def __call__(self, requests: Iterable[Request]) -> Iterator[Response]:
        for request in list(requests)[::-1]:  # any order
            self.seen.append(request)
            seed = request.sampling.seed_of(request.key, 0)
            if request.key in self.fail:
                yield Response(request.key, 0, "", None, "error", seed, "out of memory")
            else:
                text = f"to: {request.messages[-1]['content']}"
                yield Response(request.key, 0, text, 3, "stop", seed)


def test_each_benchmark_has_its_own_decoding(shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WRPO_ASSETS", str(shared))
    alpaca, arena = load("alpaca-eval", "2"), load("arena-hard", "v0.1")
    found = sampling(alpaca, alpaca.questions[0])
    assert (found.n, found.temperature, found.top_p, found.max_tokens) == (1, 0.9, 1.0, 4096)
    assert sampling(arena, arena.questions[0]).temperature == 0
    bench = load("mt-bench", "0125-references")
    by_category = {q.category: sampling(bench, q).temperature for q in bench.questions}
    assert by_category == {
        "writing": 0.7, "roleplay": 0.7, "extraction": 0.0, "math": 0.0, "coding": 0.0,
        "reasoning": 0.0, "stem": 0.1, "humanities": 0.1,
    }  # fmt: skip
    with_reference = [q for q in bench.questions if q.references]
    assert len(with_reference) == 30
    assert {len(q.references) for q in with_reference} == {2}


def test_the_second_turn_follows_the_models_own_first_answer(tmp_path: Path) -> None:
    bench, engine = load("mt-bench"), Echo()
    counts = answer(bench, "mine", engine, tmp_path / "a.jsonl")
    assert (counts.made, counts.kept) == (48, 0)
    second = [r for r in engine.seen if r.key.endswith("/2")]
    assert len(second) == 24
    for request in second:
        roles = [m["role"] for m in request.messages]
        assert roles == ["user", "assistant", "user"]
        assert request.messages[1]["content"] == f"to: {request.messages[0]['content']}"
    rows = read_rows(tmp_path / "a.jsonl")
    assert {"text", "n_tokens", "finish_reason", "seed", "temperature"} <= set(rows[0])
    assert len({r["seed"] for r in rows}) == 48


def test_only_missing_answers_are_made_again(tmp_path: Path) -> None:
    bench = load("mt-bench")
    lost = bench.questions[3].question_id
    counts = answer(bench, "mine", Echo(fail=(f"{lost}/1",)), tmp_path / "a.jsonl")
    assert counts.made == 46
    assert counts.errors == {"out of memory": 1, "no answer to an earlier turn": 1}
    again = Echo()
    counts = answer(bench, "mine", again, tmp_path / "a.jsonl")
    assert [r.key for r in again.seen] == [f"{lost}/1", f"{lost}/2"]
    assert (counts.made, counts.kept) == (2, 46)
    assert answer(bench, "other", Echo(), tmp_path / "a.jsonl").made == 48  # beside it
    with pytest.raises(WRPOError, match="holds answers to mt-bench nano; choose another --out"):
        answer(load("arena-hard"), "mine", Echo(), tmp_path / "a.jsonl")


@pytest.mark.parametrize(
    ("name", "version"),
    [("alpaca-eval", "nano"), ("mt-bench", "nano"), ("arena-hard", "nano"), ("arena-hard", "v2.0")],
)
def test_upstreams_forms_go_out_and_come_back(name: str, version: str, tmp_path: Path) -> None:
    bench = load(name)
    if version == "v2.0":
        bench = Benchmark(name, "v2.0", bench.questions, {}, {})
    path = tmp_path / "a.jsonl"
    answer(bench, "mine", Echo(), path)
    ours = Answers(path, bench)
    suffix = "json" if name == "alpaca-eval" else "jsonl"
    theirs = Answers(export(ours, "mine", tmp_path / f"theirs.{suffix}"), bench)
    assert theirs.models() == ["mine"]
    for question in bench.questions:
        for turn in range(1, len(question.turns) + 1):
            assert theirs.text("mine", question, turn) == ours.text("mine", question, turn)
    if name == "alpaca-eval":
        rows = json.loads((tmp_path / "theirs.json").read_text())
        assert set(rows[0]) == {"dataset", "instruction", "output", "generator"}


def test_real_files_of_answers_are_read(shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WRPO_ASSETS", str(shared))
    bench = load("arena-hard", "v0.1")
    answers = Answers(bench.baseline_files["gpt-4-0314"], bench)
    assert (answers.models(), answers.missing("gpt-4-0314")) == (["gpt-4-0314"], [])
    bench = load("alpaca-eval", "2")
    files = sorted((shared / "alpaca_eval").glob("*.json.gz"))
    for path in files:
        answers = Answers(path, bench)
        assert len(answers.models()) == 1
        assert answers.missing(answers.models()[0]) == []
    assert len(files) == 9


def test_shuffled_answers_are_joined_by_instruction(tmp_path: Path) -> None:
    bench = load("alpaca-eval")
    rows = [{"instruction": q.turns[0], "output": q.turns[0][::-1], "generator": "g"}
            for q in bench.questions]  # fmt: skip
    path = tmp_path / "outputs.json"
    path.write_text(json.dumps(rows[::-1]))
    answers = Answers(path, bench)
    assert all(answers.text("g", q) == q.turns[0][::-1] for q in bench.questions)


def ours(**changes: Any) -> dict[str, Any]:
    row = {"benchmark": "alpaca-eval", "version": "nano", "turn": 1, "model": "m", "text": "x",
           "question_id": load("alpaca-eval").questions[0].question_id}  # fmt: skip
    return {**row, **changes}


BAD_FILES = {
    "another version": ([ours(version="2")], "line 1 answers alpaca-eval 2, not alpaca-eval nano"),
    "another benchmark": ([ours(benchmark="mt-bench")], "answers mt-bench nano, not alpaca-eval"),
    "a duplicate": ([ours(), ours()], "line 2: 'm' answers question .* a second time"),
    "an unknown question": ([ours(question_id="q9")], "no question 'q9' with a turn 1"),
    "a turn too many": ([ours(turn=2)], "with a turn 2"),
    "no text": ([ours(text=None)], "field 'text': is None"),
    "nothing": ([], "holds no answers"),
    "another form": ([{"question": "q", "answer": "a"}], "line 1 has no field 'question_id'"),
    "another instruction": (
        [{"instruction": "what else?", "output": "x", "generator": "m"}],
        "no question 'what else.'",
    ),
}


@pytest.mark.parametrize("what", BAD_FILES)
def test_bad_files_of_answers_are_named(what: str, tmp_path: Path) -> None:
    rows, sentence = BAD_FILES[what]
    path = tmp_path / "a.jsonl"
    write_rows(rows, path)
    with pytest.raises(WRPOError, match=sentence):
        Answers(path, load("alpaca-eval"))
