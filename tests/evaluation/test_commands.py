"""The evaluation commands as a user runs them, against the local judge."""

from __future__ import annotations

import functools
import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from local_judge import judge_at

from wrpo_lib import cli
from wrpo_lib.evaluation.benchmarks import load
from wrpo_lib.io import write_rows
from wrpo_lib.nano.judge import Judge
from wrpo_lib.nano.judge_server import MODEL, respond
from wrpo_lib.nano.tasks import task_from_id

Wrpo = Callable[..., tuple[int, str, str]]


@pytest.fixture
def wrpo(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Wrpo:
    """Run a command line in this process: exit status, stdout, stderr."""

    def run(*arguments: object) -> tuple[int, str, str]:
        capfd.readouterr()
        monkeypatch.setattr(sys, "argv", ["wrpo", *map(str, arguments)])
        try:
            cli.main()
            status = 0
        except SystemExit as end:
            status = int(end.code or 0)
        return status, *capfd.readouterr()

    return run


@pytest.fixture
def url() -> Iterator[str]:
    """The testbed's judge."""
    with judge_at(functools.partial(respond, judge=Judge())) as found:
        yield found


@pytest.fixture
def right(tmp_path: Path) -> dict[str, Path]:
    """Right answers to our own questions, one file a benchmark."""
    files = {}
    for name in ("alpaca-eval", "mt-bench", "arena-hard"):
        files[name] = tmp_path / f"right-{name}.jsonl"
        rows = []
        for question in load(name).questions:
            task = task_from_id(str(question.question_id))
            for turn in range(1, len(question.turns) + 1):
                text = f"the answer is {' '.join(task.answer(turn))} ."
                rows.append({"benchmark": name, "version": "nano", "turn": turn, "model": "right",
                             "question_id": question.question_id, "text": text})  # fmt: skip
        write_rows(rows, files[name])
    return files


@pytest.mark.parametrize("name", ["alpaca-eval", "mt-bench", "arena-hard"])
def test_judge_then_summarise(
    name: str, wrpo: Wrpo, url: str, right: dict[str, Path], tmp_path: Path
) -> None:
    out = tmp_path / "judgements.jsonl"
    common = ("judge", name, "--answers", right[name], "--judge", MODEL, "--base-url", url,
              "--out", out)  # fmt: skip
    status, said, _ = wrpo(*common, "--estimate", "--price-prompt", 2, "--price-completion", 8)
    calls = int(re.findall(r"(\d+) calls to make", said)[0])
    assert status == 0
    assert "at 2 and 8 a million tokens" in said
    status, said, _ = wrpo(*common)
    assert status == 0
    assert f"{calls} calls in" in said
    status, said, _ = wrpo(*common)
    assert "0 calls to make" in said
    status, said, _ = wrpo("summarise", name, out, "--json")
    assert status == 0
    assert re.search(r"win_rate|score|overall", said)


def test_pairs_of_mt_bench(
    wrpo: Wrpo, url: str, shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """FastChat's pairwise mode with its real prompts, both games."""
    monkeypatch.setenv("WRPO_ASSETS", str(shared))
    files = {}
    for model in ("mine", "base"):
        files[model] = tmp_path / f"{model}.jsonl"
        write_rows((
            {"question_id": q.question_id, "turn": t, "model": model, "text": f"{model} {t}"}
            for q in load("mt-bench", "0125-references").questions for t in (1, 2)
        ), files[model])  # fmt: skip
    out = tmp_path / "pairs.jsonl"
    common = ("judge", "mt-bench", "--version", "0125-references", "--answers", files["mine"],
              "--judge", MODEL, "--base-url", url, "--out", out, "--mode", "pair")  # fmt: skip
    status, _, error = wrpo(*common)
    assert (status, error) == (2, "wrpo: --mode pair compares with a baseline; give "
                                  "--baseline FILE\n")  # fmt: skip
    status, said, _ = wrpo(*common, "--baseline", files["base"])
    assert "320 verdicts, 0 replies without one" in said
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    templates = {row["template"] for row in rows}
    assert templates == {"pair-v2", "pair-v2-multi-turn", "pair-math-v1", "pair-math-v1-multi-turn"}
    assert {row["winner"] for row in rows} <= {"model", "baseline", "tie"}
    status, said, _ = wrpo("summarise", "mt-bench", out, "--json")
    assert status == 0


BAD = {
    "an unknown benchmark": (["judge", "mmlu"], "unknown benchmark 'mmlu'; choose one of"),
    "an unknown version": (["judge", "alpaca-eval", "--version", "3"], "has no version '3'"),
    "an unknown order": (["judge", "alpaca-eval", "--order", "random"], "order is 'random'"),
    "samples of scores": (
        ["judge", "mt-bench", "--samples", "3"],
        "samples is 3; give 1",
    ),
    "no samples": (["judge", "alpaca-eval", "--samples", "0"], "samples is 0; give 1"),
    "pairs of ours": (["judge", "mt-bench", "--mode", "pair", "--baseline", "X"], "no pairwise"),
    "a price alone": (["judge", "mt-bench", "--price-prompt", "1"], "give --price-prompt and"),
    "no price": (["judge", "mt-bench", "--max-cost", "1"], "--max-cost needs a price"),
    "another model": (
        ["judge", "mt-bench", "--model", "x"],
        "holds no answers of 'x'; it has right",
    ),
}


@pytest.mark.parametrize("what", BAD)
def test_bad_arguments_are_one_sentence(
    what: str, wrpo: Wrpo, url: str, right: dict[str, Path], tmp_path: Path
) -> None:
    arguments, sentence = BAD[what]
    file = right.get(arguments[1], right["mt-bench"])
    arguments = [str(file) if a == "X" else a for a in arguments]
    status, _, error = wrpo(*arguments, "--answers", file, "--judge", MODEL, "--base-url", url,
                            "--out", tmp_path / "j.jsonl")  # fmt: skip
    assert status == 2
    assert error.startswith("wrpo: ")
    assert sentence in error
    assert error.count("\n") == 1


def test_assets_are_listed_and_verified(
    wrpo: Wrpo, shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WRPO_ASSETS", str(shared))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    status, said, _ = wrpo("assets", "list")
    assert "mt_bench/questions.jsonl" in said
    status, said, _ = wrpo("assets", "verify", "mt_bench")
    assert (status, said.count("as expected"), said.count("not here")) == (0, 3, 2)
    wrong = tmp_path / "mirror" / "eval" / "mtbench_questions.jsonl"
    wrong.parent.mkdir(parents=True)
    wrong.write_text("{}")
    monkeypatch.setenv("WRPO_ASSETS", str(tmp_path / "mirror"))
    status, _, error = wrpo("assets", "verify", "mt_bench/questions.jsonl")
    assert status == 2
    assert "is not mt_bench/questions.jsonl" in error


def test_answer_asks_a_server_and_exports(wrpo: Wrpo, tmp_path: Path) -> None:
    def echo(body: dict) -> tuple[int, dict]:
        text = f"to {body['messages'][-1]['content']} at {body['temperature']}"
        choice = {"message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
        return 200, {"choices": [choice], "usage": {"completion_tokens": 3}}

    out, export = tmp_path / "a.jsonl", tmp_path / "outputs.json"
    with judge_at(echo) as url:
        common = ("answer", "alpaca-eval", "--model", "org/mine", "--engine", "server",
                  "--base-url", url, "--out", out)  # fmt: skip
        status, said, error = wrpo(*common, "--export", export)
        assert (status, error) == (0, "")
        assert "48 answers made, 0 kept" in said
        assert "0 answers made, 48 kept" in wrpo(*common)[1]
    rows = json.loads(export.read_text())
    assert len(rows) == 48
    assert rows[0]["generator"] == "mine"
    assert rows[0]["output"].endswith("at 0.9")


def test_answer_runs_a_model_in_this_process(wrpo: Wrpo, tmp_path: Path) -> None:
    """A tiny model with random weights, from its folder; both turns."""
    from wrpo_lib.nano.models import build_model, build_tokenizer

    words = ["the answer is : copy reverse sort a b c d e f g h i j . now it"] * 5
    tokenizer = build_tokenizer("bpe", "angle", words)
    config = {"model_type": "llama", "hidden_size": 32, "num_hidden_layers": 1,
              "num_attention_heads": 2, "num_key_value_heads": 2,
              "intermediate_size": 64}  # fmt: skip
    build_model(config, tokenizer, seed=0).save_pretrained(tmp_path / "tiny")
    tokenizer.save_pretrained(tmp_path / "tiny")
    out = tmp_path / "answers.jsonl"
    common = ("answer", "mt-bench", "--model", tmp_path / "tiny", "--out", out, "--max-tokens", 6)
    status, said, error = wrpo(*common)
    assert status == 0, error
    assert "48 answers made, 0 kept" in said
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert {row["model"] for row in rows} == {"tiny"}
    assert all(isinstance(row["seed"], int) for row in rows)
    assert all(row["n_tokens"] <= 6 for row in rows)
    assert "0 answers made, 48 kept" in wrpo(*common)[1]
    status, _, error = wrpo("answer", "mt-bench", "--model", tmp_path / "none", "--out", out)
    assert (status, error.count("\n")) == (2, 1)


def test_the_judge_is_served_by_a_command(
    wrpo: Wrpo, right: dict[str, Path], tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "wrpo_lib.cli", "nano-judge", "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            url = re.findall(r"http://\S+/v1", process.stdout.readline())[0]
            status, said, _ = wrpo("judge", "mt-bench", "--answers", right["mt-bench"], "--judge",
                                   MODEL, "--base-url", url, "--out", tmp_path / "j")  # fmt: skip
        finally:
            process.terminate()
    assert status == 0
    assert "48 verdicts, 0 replies without one, 0 errors" in said
