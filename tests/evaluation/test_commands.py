"""The commands that answer and judge as a user runs them, against the local judge."""

import functools
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from commandline import wrpo
from local_judge import answer_file, judge_at

from wrpo_lib.io import write_rows
from wrpo_lib.nano.judge import MODEL, Judge, respond

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def url() -> Iterator[str]:
    """The testbed's judge."""
    with judge_at(functools.partial(respond, judge=Judge())) as found:
        yield found


def words(name: str, folder: Path, url: str = "http://127.0.0.1:9/v1") -> list[Any]:
    """What `wrpo judge` is told, but for what a test adds."""
    common = ["judge", name, "--answers", answer_file(name, folder), "--judge", MODEL]
    return [*common, "--base-url", url, "--out", folder / "judgements.jsonl"]


def test_judge_then_summarise(capsys: Capture, url: str, tmp_path: Path) -> None:
    common = words("alpaca-eval", tmp_path, url)
    status, said, _ = wrpo(capsys, *common, "--estimate", "--prices", 2, 8)
    assert (status, "96 calls to make" in said, ", cost 0." in said) == (0, True, True)
    assert "96 calls made" in wrpo(capsys, *common)[1]
    assert "0 calls to make" in wrpo(capsys, *common)[1]
    status, said, _ = wrpo(capsys, "summarise", "alpaca-eval", common[-1])
    assert (status, "mine: judge nano-judge, version nano" in said) == (0, True)


@pytest.mark.parametrize(
    ("name", "arguments", "sentence"),
    [
        ("mmlu", [], "no benchmark 'mmlu' 'nano'; choose one of"),
        ("mt-bench", ["--max-cost", "1"], "--max-cost needs"),
        ("mt-bench", ["--model", "x"], "holds answers of mine; name one"),
    ],
)
def test_bad_arguments_are_one_sentence(
    name: str, arguments: list[str], sentence: str, capsys: Capture, tmp_path: Path
) -> None:
    _, _, *rest = words("mt-bench", tmp_path)
    status, _, error = wrpo(capsys, "judge", name, *rest, *arguments)
    assert (status, error.count("\n"), sentence in error) == (2, 1, True)


def test_missing_answers_are_said_and_the_rest_is_judged(
    capsys: Capture, url: str, tmp_path: Path
) -> None:
    common = words("mt-bench", tmp_path, url)
    rows = [json.loads(line) for line in common[3].read_text().splitlines()]
    rows[0]["text"] = "$ERROR$"
    rows[3]["text"] = f"<think>hm</think>{rows[3]['text']}"
    write_rows(rows, common[3])
    status, said, _ = wrpo(capsys, *common)
    assert (status, "lacks 1 answers of 'mine' (1 are empty or marked" in said) == (0, True)
    assert "a thought stands before 1 answers" in said
    assert "46 calls made" in said  # neither turn of that question


def test_assets_are_listed_and_checked(capsys: Capture, assets: Path) -> None:
    assert "mt_bench/questions.jsonl" in wrpo(capsys, "assets", "list")[1]
    status, said, _ = wrpo(capsys, "assets", "fetch", "arena_hard_v0.1")
    assert (status, said.count(str(assets))) == (0, 4)
    status, _, error = wrpo(capsys, "assets", "fetch", "mt_bench/question.jsonl")
    assert (status, "unknown asset" in error) == (2, True)


@pytest.mark.parametrize("command", ["judge", "answer"])
def test_a_parameter_that_a_server_refuses_can_be_left_out(
    command: str, capsys: Capture, tmp_path: Path
) -> None:
    def refusing(body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        if "max_tokens" in body:
            return 400, {"error": {"message": "Unsupported parameter: 'max_tokens'"}}
        return 200, {"choices": [{"message": {"content": "[[7]]"}, "finish_reason": "stop"}]}

    with judge_at(refusing) as url:
        arguments = words("mt-bench", tmp_path, url)
        if command == "answer":
            arguments = ["answer", "mt-bench", "--model", "o", "--engine", "server"]
            arguments += ["--base-url", url, "--out", tmp_path / "out.jsonl"]
        status, _, error = wrpo(capsys, *arguments)
        assert (status, "--extra-body can leave out" in error) == (2, True)
        extra = '{"max_tokens": null, "max_completion_tokens": 64}'
        status, said, error = wrpo(capsys, *arguments, "--extra-body", extra)
    assert (status, "48 " in said) == (0, True), error


def test_the_judge_is_served_by_a_command(capsys: Capture, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "wrpo_lib.cli", "nano-judge", "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            (at,) = re.findall(r"http://\S+/v1", process.stdout.readline())
            status, said, _ = wrpo(capsys, *words("mt-bench", tmp_path, at))
        finally:
            process.terminate()
    assert (status, "48 x ok" in said) == (0, True)
