"""Answers: made with each benchmark's settings, read in every known form."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from wrpo_lib.errors import WRPOError
from wrpo_lib.evaluation.answers import answer
from wrpo_lib.evaluation.benchmarks import load
from wrpo_lib.evaluation.forms import read_answers
from wrpo_lib.generation.stage import Request, Response
from wrpo_lib.io import read_rows, write_rows


class Echo:
    """An engine that answers with what it was told, in any order; what is ``lost`` fails."""

    def __init__(self, lost: str = "") -> None:
        self.lost, self.seen = lost, []

    def __call__(self, requests: Iterable[Request]) -> Iterator[Response]:
        for request in list(requests)[::-1]:
            self.seen.append(request)
            said = f"to: {request.messages[-1]['content']}"
            made = Response(request.key, 0, said, 3, "stop", request.seed, thought="hm")
            failed = request.key.endswith(f"/{self.lost}/1")
            yield replace(made, text="", error="out of memory") if failed else made


REAL = {"alpaca-eval": "2", "arena-hard": "v0.1", "mt-bench": "0125-references"}
TEMPERATURES = {
    **dict.fromkeys(("writing", "roleplay"), 0.7),
    **dict.fromkeys(("extraction", "math", "coding", "reasoning"), 0.0),
    **dict.fromkeys(("stem", "humanities"), 0.1),
}


@pytest.mark.parametrize("name", REAL)
def test_each_benchmark_has_its_own_decoding(
    name: str, shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WRPO_ASSETS", str(shared))
    bench, engine = load(name, REAL[name]), Echo()
    answer(bench, "mine", engine, tmp_path / f"{name}.jsonl")
    questions = {str(q.question_id): q for q in bench.questions}
    fixed = {"alpaca-eval": 0.9, "arena-hard": 0.0}.get(name)
    for request in engine.seen:
        how, question = request.sampling, questions[request.key.split("/")[1]]
        assert how.temperature == (TEMPERATURES[question.category] if fixed is None else fixed)
        assert (how.n, how.top_p, how.max_tokens) == (1, 1.0, 4096)
    numbers = [len(q.references) for q in bench.questions if q.references]
    assert numbers == ([2] * 30 if name == "mt-bench" else [])


def test_the_second_turn_follows_the_models_own_first_answer(tmp_path: Path) -> None:
    bench, engine, path = load("mt-bench"), Echo(), tmp_path / "a.jsonl"
    counts = answer(bench, "mine", engine, path)
    assert (counts["made"], counts["thought"]) == (48, 48)
    second = [r.messages for r in engine.seen if r.key.endswith("/2")]
    assert len(second) == 24
    for messages in second:
        assert [m["role"] for m in messages] == ["user", "assistant", "user"]
        assert messages[1]["content"] == f"to: {messages[0]['content']}"
    assert len({row["seed"] for row in read_rows(path)}) == 48
    assert len(read_answers(path, bench)["mine"]) == 48


def test_only_missing_answers_are_made_again(tmp_path: Path) -> None:
    bench, path, again = load("mt-bench"), tmp_path / "a.jsonl", Echo()
    with pytest.raises(WRPOError, match=r"1 responses failed, .*: out of memory; the 23 made"):
        answer(bench, "mine", Echo(lost=str(bench.questions[3].question_id)), path)
    counts = answer(bench, "mine", again, path, settings={"base_url": "x"})
    assert len(again.seen) == counts["made"] == 25
    assert counts["kept"] == 23
    for change in ({"seed": 1}, {"max_tokens": 9}, {"settings": {"base_url": "y"}}):
        with pytest.raises(WRPOError, match=r"was made with .*, not .*; choose another file"):
            answer(bench, "mine", Echo(), path, **change)
    with pytest.raises(WRPOError, match="made with benchmark 'mt-bench nano', not 'arena-hard"):
        answer(load("arena-hard"), "mine", Echo(), path)


def test_upstreams_files_of_answers_are_joined(
    shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WRPO_ASSETS", str(shared))
    bench = load("arena-hard", "v0.1")
    assert bench.baseline is not None
    (texts,) = read_answers(bench.baseline, bench).values()
    assert len(texts) == 500
    bench = load("alpaca-eval", "2")
    files = sorted((shared / "alpaca_eval").glob("*.json.gz"))
    assert len(files) == 9
    for path in files:
        (texts,) = read_answers(path, bench).values()
        assert set(texts) == {(i, 1) for i in range(805)}
    bench, path = load("arena-hard"), tmp_path / "messages.jsonl"
    said = [{"role": "user", "content": "Do."}, {"role": "assistant", "content": {"answer": "ok"}}]
    uids = [q.question_id for q in bench.questions]
    write_rows(({"uid": uid, "model": "g", "messages": said} for uid in uids), path)
    assert read_answers(path, bench)["g"] == {(uid, 1): "ok" for uid in uids}
    bench, path = load("alpaca-eval"), tmp_path / "outputs.json"
    asked = {q.question_id: q.turns[0] for q in bench.questions}
    rows = [{"instruction": a, "output": a[::-1], "generator": "g"} for a in asked.values()]
    path.write_text(json.dumps(rows[::-1]))
    assert read_answers(path, bench)["g"] == {(i, 1): a[::-1] for i, a in asked.items()}


def test_failed_answers_are_missing_and_thoughts_are_split_off(tmp_path: Path) -> None:
    bench, path = load("mt-bench"), tmp_path / "choices.jsonl"
    turns = [["$ERROR$", " "], ["<think>hm</think>\n\none", "two"], ["<think>never"]]
    rows = [{"model_id": "g", "choices": [{"turns": texts}]} for texts in turns]
    a, b, c = (q.question_id for q in bench.questions[:3])
    write_rows(({**row, "question_id": q} for q, row in zip((a, b, c), rows, strict=True)), path)
    found = read_answers(path, bench)["g"]
    missing = dict.fromkeys([(a, 1), (a, 2), (c, 1)])
    assert found == {**missing, (b, 1): "one", (b, 2): "two"}
    assert found.thoughts == 2


def ours(**changes: Any) -> dict[str, Any]:
    row = {"benchmark": "alpaca-eval", "version": "nano", "turn": 1, "model": "m", "text": "x"}
    return {**row, "question_id": load("alpaca-eval").questions[0].question_id, **changes}


CHOICES = {"question_id": "q", "model_id": "m", "choices": [{"turns": ["x"]}]}
MESSAGES = {"uid": "q", "model": "m", "messages": [{"role": "user", "content": "Do."}]}
NO_TEXT = {**MESSAGES, "messages": [{"role": "assistant", "content": {"text": "x"}}]}
OUTPUT = {"instruction": "what else?", "output": "x", "generator": "m"}


@pytest.mark.parametrize(
    ("rows", "sentence"),
    [
        ([ours(version="2")], "row 1 answers version 2, not nano"),
        ([ours(benchmark="mt-bench")], "is of mt-bench, not alpaca-eval"),
        ([ours(), ours()], "row 2: 'm' answers question .* a second time"),
        ([ours(question_id="q9")], "no question 'q9', turn 1"),
        ([ours(turn=2)], "no question .*, turn 2"),
        ([ours(text=None)], "field 'text': Input should be a valid string"),
        ([], "holds no answers"),
        ([{"question": "q", "answer": "a"}], "row 1, field 'question_id'"),
        ([{**CHOICES, "choices": []}], "row 1, field 'choices'"),
        ([{"model_id": "m", "choices": CHOICES["choices"]}], "row 1, field 'question_id'"),
        ([{**CHOICES, "choices": [{"turns": [42]}]}], "row 1, field 'choices.0.turns.0"),
        ([{**OUTPUT, "output": None}], "row 1, field"),
        ([MESSAGES], "row 1, field 'messages': .*the last message must be the assistant's"),
        ([NO_TEXT], "row 1, field 'messages.0.content"),
        ([ours(prompt_id="q")], "row 1, field 'prompt_id'"),
        ([OUTPUT], "no question 'what else.'"),
    ],
)
def test_bad_files_of_answers_are_named(rows: list[Any], sentence: str, tmp_path: Path) -> None:
    write_rows(rows, tmp_path / "a.jsonl")
    with pytest.raises(WRPOError, match=sentence):
        read_answers(tmp_path / "a.jsonl", load("alpaca-eval"))
