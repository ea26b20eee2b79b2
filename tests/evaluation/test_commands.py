"""The commands that answer and judge as a user runs them, against the local judge."""

import functools
import re
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from commandline import Command, wait_until, wrpo
from local_server import answer_file, judge_at

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
    common = words("mt-bench", tmp_path, url)
    common[3].write_text(common[3].read_text().replace('"answer to', '"$ERROR$", "was": "', 1))
    status, said, _ = wrpo(capsys, *common, "--estimate", "--prices", 2, 8)
    assert (status, ", cost 0." in said) == (0, True)
    assert "lacks 1 answers of 'mine'" in said
    assert "46 calls to make" in said  # neither turn of that question
    assert "46 calls made" in wrpo(capsys, *common)[1]
    assert "0 calls to make" in wrpo(capsys, *common)[1]
    status, said, _ = wrpo(capsys, "summarise", "mt-bench", common[-1])
    assert (status, "mine: judge nano-judge, version nano" in said) == (0, True)


@pytest.mark.parametrize(
    ("name", "arguments", "sentence"),
    [
        ("mmlu", [], "no benchmark 'mmlu' 'nano'; choose one of"),
        ("mt-bench", ["--max-cost", "1"], "--max-cost needs"),
        ("mt-bench", ["--model", "x"], "holds answers of mine; name one"),
        ("mt-bench", ["--extra-body", '{"max_tokens": "many"}'], "max_tokens are whole numbers"),
        ("mt-bench", ["--extra-body", '{"messages": 5}', "--estimate"], "messages are fixed"),
    ],
)
def test_bad_arguments_are_one_sentence(
    name: str, arguments: list[str], sentence: str, capsys: Capture, tmp_path: Path
) -> None:
    _, _, *rest = words("mt-bench", tmp_path)
    status, _, error = wrpo(capsys, "judge", name, *rest, *arguments)
    assert (status, error.count("\n"), sentence in error) == (2, 1, True)


def test_assets_are_listed_and_checked(capsys: Capture, assets: Path) -> None:
    assert "mt_bench/questions.jsonl" in wrpo(capsys, "assets", "list")[1]
    status, said, _ = wrpo(capsys, "assets", "fetch", "mt_bench/questions.jsonl")
    assert (status, str(assets) in said) == (0, True)
    status, _, error = wrpo(capsys, "assets", "fetch", "mt_bench/question.jsonl")
    assert (status, "unknown asset" in error) == (2, True)


def test_a_parameter_that_a_server_refuses_can_be_left_out(capsys: Capture, tmp_path: Path) -> None:
    def refusing(body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        if "max_tokens" in body:
            return 400, {"error": {"message": "Unsupported parameter: 'max_tokens'"}}
        return 200, {"choices": [{"message": {"content": "[[7]]"}, "finish_reason": "stop"}]}

    with judge_at(refusing) as url:
        arguments = ["answer", "mt-bench", "--model", "o", "--engine", "server"]
        arguments += ["--base-url", url, "--out", tmp_path / "out.jsonl"]
        status, _, error = wrpo(capsys, *arguments)
        assert (status, "--extra-body can leave out" in error) == (2, True)
        extra = '{"max_tokens": null, "max_completion_tokens": 64}'
        status, said, error = wrpo(capsys, *arguments, "--extra-body", extra)
    assert (status, "48 answers made" in said) == (0, True), error


def test_the_judge_is_served_by_a_command(capsys: Capture, tmp_path: Path) -> None:
    process = Command(tmp_path / "served", "nano-judge", "--port", 0)
    output = tmp_path / "served" / "stdout"
    wait_until(lambda: output.is_file() and "Ctrl-C" in output.read_text(), process)
    (at,) = re.findall(r"http://\S+/v1", output.read_text())
    status, said, _ = wrpo(capsys, *words("mt-bench", tmp_path, at))
    process.send(signal.SIGTERM)
    assert (status, "48 x ok" in said) == (0, True)
