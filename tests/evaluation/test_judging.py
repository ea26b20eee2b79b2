"""The judge client: every reply kept and counted, nothing asked twice, no key leaked."""

from __future__ import annotations

import functools
import itertools
import json
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from commandline import wait_until
from local_judge import judge_at, judgements

from wrpo_lib.errors import WRPOError
from wrpo_lib.evaluation.answers import Answers
from wrpo_lib.evaluation.benchmarks import Benchmark, load
from wrpo_lib.evaluation.calls import JudgingPlan, calls, open_baselines
from wrpo_lib.evaluation.judging import KEY, Counts, Prices, Run
from wrpo_lib.evaluation.verdicts import BASELINE_FIRST
from wrpo_lib.io import Store, write_rows
from wrpo_lib.nano.judge import Judge
from wrpo_lib.nano.judge_server import MODEL, respond
from wrpo_lib.server import Server

Responder = Callable[[dict[str, Any]], Any]
NANO: Responder = functools.partial(respond, judge=Judge())


def chat(text: str, logprobs: Any = None, status: int = 200) -> tuple[int, dict[str, Any]]:
    """A server's reply."""
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "logprobs": logprobs}
    usage = {"prompt_tokens": 1000, "completion_tokens": 10, "total_tokens": 1010}
    return status, {"model": "m", "choices": [choice], "usage": usage}


def answer_file(folder: Path, benchmark: Benchmark, text: str = "answer to {}") -> Path:
    """A file that answers every turn."""
    path = folder / f"answers-{benchmark.name}.jsonl"
    write_rows((
            {"benchmark": benchmark.name, "version": benchmark.version,
             "question_id": q.question_id, "turn": t + 1, "model": "mine",
             "text": text.format(q.turns[t])}
            for q in benchmark.questions for t in range(len(q.turns))
        ), path)  # fmt: skip
    return path


def run(
    url: str, folder: Path, name: str = "alpaca-eval", benchmark: Benchmark | None = None,
    answers: Path | None = None, judge: str = MODEL, **options: Any,
) -> Counts:  # fmt: skip
    """One run of the client into ``folder/judgements.jsonl``."""
    benchmark = benchmark or load(name)
    given = Answers(answers or answer_file(folder, benchmark), benchmark)
    plan_options = {
        k: options.pop(k) for k in list(options) if k in JudgingPlan.__dataclass_fields__
    }
    server = Server(url, connections=options.pop("connections", 8), timeout=30,
                    retries=options.pop("retries", 0))  # fmt: skip
    baselines: dict[str, Answers] = {}
    if benchmark.baseline_files:
        benchmark, baselines = open_baselines(benchmark)
    plan = JudgingPlan(benchmark, judge, **plan_options)
    with Store(folder / "judgements.jsonl", KEY) as store:
        return Run(plan, store, server, **options)(calls(plan, given, "mine", baselines))


@pytest.mark.parametrize("name", ["alpaca-eval", "mt-bench", "arena-hard"])
def test_every_call_is_made_once(name: str, tmp_path: Path) -> None:
    asked: list[str] = []

    def responder(body: dict[str, Any]) -> Any:
        asked.append(json.dumps(body))
        return NANO(body)

    with judge_at(responder) as url:
        first = run(url, tmp_path, name)
        second = run(url, tmp_path, name)
    questions = load(name).questions
    expected = 2 * len(questions)  # both orders, two games, or two turns
    assert first.calls == expected == len(set(asked))
    assert first.status == {"ok": expected}
    assert (second.calls, second.kept) == (0, expected)
    rows = judgements(tmp_path / "judgements.jsonl")
    assert len(rows) == expected
    needed = {"judge", "served", "template", "template_sha256", "settings", "judgment", "version",
              "usage", "judged", "metric", "request", "problem"}  # fmt: skip
    for row in rows:
        assert needed <= set(row)
        result = {"alpaca-eval": "preference", "mt-bench": "score", "arena-hard": "verdict"}[name]
        assert row[result] is not None
    if name != "mt-bench":
        assert Counter(r["order"] for r in rows).most_common()[0][1] == len(questions)


BAD_REPLIES = {
    "no verdict": "They are both fine.",
    "two verdicts": "[[A>B]] or rather [[B>A]]",
    "HTML instead of a verdict": "<!DOCTYPE html><html><body>502</body></html>",
    "empty reply": "",
    "unknown verdict 'A>>>B'": "[[A>>>B]]",
}


@pytest.mark.parametrize("problem", BAD_REPLIES)
def test_replies_without_a_verdict_are_kept_and_counted(problem: str, tmp_path: Path) -> None:
    seen = itertools.count(1)  # the server has a thread per connection

    def responder(body: dict[str, Any]) -> Any:
        return chat(BAD_REPLIES[problem] if next(seen) % 4 == 0 else "so [[A>B]]")

    benchmark = load("arena-hard")
    if problem == "two verdicts":  # v0.1's rule; v2.0 takes the last
        assert benchmark.version == "nano"
    with judge_at(responder) as url:
        counts = run(url, tmp_path, "arena-hard")
        assert run(url, tmp_path, "arena-hard").calls == 0  # not asked again unless told
        again = run(url, tmp_path, "arena-hard", again=True)
    n = 2 * len(benchmark.questions)
    assert counts.status == {"ok": n - n // 4, "unreadable": n // 4}
    assert counts.problems == {problem: n // 4}
    assert again.calls == n // 4
    rows = judgements(tmp_path / "judgements.jsonl")
    left = [row for row in rows if row["status"] == "unreadable"]
    assert len(rows) == n
    assert all(row["judgment"] == BAD_REPLIES[problem] and row["verdict"] is None for row in left)


def test_missing_log_probabilities_end_the_run_with_advice(tmp_path: Path) -> None:
    with judge_at(lambda body: chat("m")) as url:
        counts = run(url, tmp_path, connections=1)
        assert counts.stopped == "the first 8 calls all failed: log-probabilities missing"
        assert 8 <= counts.calls <= 10
        text = run(url, tmp_path / "text", metric="text", samples=3,
                   answers=answer_file(tmp_path, load("alpaca-eval")))  # fmt: skip
    assert text.status == {"ok": 2 * 3 * len(load("alpaca-eval").questions)}
    rows = judgements(tmp_path / "text" / "judgements.jsonl")
    assert {row["metric"] for row in rows} == {"verdict of 3 samples"}  # never mixed with weighted
    assert {row["preference"] for row in rows if row["order"] == BASELINE_FIRST} == {1.0}
    assert {row["preference"] for row in rows if row["order"] != BASELINE_FIRST} == {2.0}


def test_failed_calls_are_stored_and_made_again(tmp_path: Path) -> None:
    down, seen = True, itertools.count(1)  # the server has a thread per connection

    def responder(body: dict[str, Any]) -> Any:
        failing = next(seen) % 3 == 0 and down
        return (500, {"error": {"message": "boom"}}) if failing else NANO(body)

    with judge_at(responder) as url:
        first = run(url, tmp_path, "mt-bench")
        down = False
        second = run(url, tmp_path, "mt-bench")
    n = 2 * len(load("mt-bench").questions)
    assert first.status == {"ok": n - n // 3, "error": n // 3}
    assert second.status == {"ok": n // 3}
    rows = judgements(tmp_path / "judgements.jsonl")
    assert Counter(row["status"] for row in rows) == {"ok": n}
    with Store(tmp_path / "judgements.jsonl", KEY) as store:  # the errors stay on record
        errors = [row for row in store if row["status"] == "error"]
    assert len(errors) == n // 3
    assert "boom" in errors[0]["problem"]


def test_max_cost_stops_and_the_rest_is_made_later(tmp_path: Path) -> None:
    prices = Prices(prompt=1.0, completion=10.0)  # 0.0011 a call
    with judge_at(lambda body: chat("fine [[7]]")) as url:
        first = run(url, tmp_path, "mt-bench", prices=prices, max_cost=0.0109, connections=2)
        second = run(url, tmp_path, "mt-bench", prices=prices)
    assert first.stopped == "--max-cost 0.0109 is reached"
    assert 10 <= first.calls <= 12  # at most what was under way
    assert first.cost == pytest.approx(0.0011 * first.calls)
    assert second.calls == 2 * len(load("mt-bench").questions) - first.calls
    with pytest.raises(WRPOError, match="--max-cost needs a price"):
        run("http://127.0.0.1:9/v1", tmp_path, "mt-bench", max_cost=1.0)


def test_identical_outputs_tie_without_a_call(tmp_path: Path) -> None:
    benchmark = load("alpaca-eval")
    path = tmp_path / "answers.jsonl"
    rows = benchmark.baseline_files["nano-baseline"].read_text().splitlines()
    write_rows(({**json.loads(r), "model": "mine"} for r in rows), path)
    with judge_at(NANO) as url:
        counts = run(url, tmp_path, answers=path)
    assert (counts.calls, counts.identical) == (0, 2 * len(benchmark.questions))
    found = judgements(tmp_path / "judgements.jsonl")
    assert {r["preference"] for r in found} == {1.5}
    assert {r["metric"] for r in found} == {"identical outputs"}


def test_a_second_model_in_the_same_file_is_judged_too(tmp_path: Path) -> None:
    """Also where both gave the same answer, so that the requests are the same."""
    benchmark = load("mt-bench")
    path = answer_file(tmp_path, benchmark)
    twin = tmp_path / "twin.jsonl"
    write_rows(({**json.loads(r), "model": "twin"} for r in path.read_text().splitlines()), twin)
    plan = JudgingPlan(benchmark, MODEL)
    with judge_at(NANO) as url, Store(tmp_path / "j.jsonl", KEY) as store:
        for file, model in ((path, "mine"), (twin, "twin")):
            Run(plan, store, Server(url))(calls(plan, Answers(file, benchmark), model, {}))
    rows = judgements(tmp_path / "j.jsonl")
    assert Counter(r["model"] for r in rows) == {"mine": 48, "twin": 48}


def test_a_kill_loses_and_repeats_nothing(tmp_path: Path) -> None:
    """SIGKILL in the middle of 96 calls; the next run makes exactly the missing ones."""
    path, out = answer_file(tmp_path, load("alpaca-eval")), tmp_path / "judgements.jsonl"
    command = [sys.executable, "-m", "wrpo_lib.cli", "judge", "alpaca-eval", "--judge", MODEL]
    command += ["--answers", str(path), "--out", str(out), "--connections", "2"]
    with judge_at(NANO, latency=0.05) as url:
        process = subprocess.Popen([*command, "--base-url", url])
        try:
            wait_until(lambda: out.is_file() and out.read_bytes().count(b"\n") >= 20, process)
        finally:
            process.send_signal(signal.SIGKILL)
            process.wait()
        kept = out.read_bytes().count(b"\n")
        counts = run(url, tmp_path)
    assert 20 <= kept < 96
    assert (counts.calls, counts.kept) == (96 - kept, kept)
    rows = judgements(out)
    assert Counter((r["status"], r["order"]) for r in rows) == {
        ("ok", "baseline first"): 48,
        ("ok", "model first"): 48,
    }
