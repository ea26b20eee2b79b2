"""The alpaca-eval package end to end against a local server, its installation untouched."""

from __future__ import annotations

import functools
import gzip
import json
import logging
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from local_judge import judge_at

from wrpo_lib.evaluation import alpaca_package
from wrpo_lib.evaluation.answers import Answers
from wrpo_lib.evaluation.benchmarks import load
from wrpo_lib.nano.judge import Judge
from wrpo_lib.nano.judge_server import MODEL, respond
from wrpo_lib.server import Server

MODEL_FILE = "Llama-3-Instruct-8B-SimPO.json.gz"
NAME = "Llama-3-Instruct-8B-SimPO"


def installed() -> dict[str, float]:
    """Every file of the package with its time of change."""
    root = Path(str(alpaca_package.package().__file__)).parent
    files = (p for p in root.rglob("*") if p.is_file() and "__pycache__" not in p.parts)
    return {str(p): p.stat().st_mtime for p in files}


def run(
    folder: Path, shared: Path, url: str, out: str, rows: list[dict[str, Any]] | None = None
) -> dict[str, Any]:
    benchmark = load("alpaca-eval", "2")
    path = shared / "alpaca_eval" / MODEL_FILE
    if rows is not None:
        path = folder / "outputs.json"
        path.write_text(json.dumps(rows))
    answers = Answers(path, benchmark)
    server = Server(url, connections=16, timeout=60)
    return alpaca_package.evaluate(benchmark, answers, NAME, MODEL, server, folder / out)


def test_805_calls_less_identical_outputs_then_none(
    shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WRPO_ASSETS", str(shared))
    before, level = installed(), logging.getLogger().level
    benchmark = load("alpaca-eval", "2")
    baseline = Answers(benchmark.baseline_files["gpt4_1106_preview"], benchmark)
    model = Answers(shared / "alpaca_eval" / MODEL_FILE, benchmark)
    same = sum(
        model.text(NAME, q) == baseline.text("gpt4_1106_preview", q) for q in benchmark.questions
    )
    asked: set[str] = set()

    def responder(body: dict[str, Any]) -> Any:
        asked.add(body["messages"][-1]["content"])
        return respond(body, Judge(length_unit=2000.0))

    with judge_at(responder) as url:
        first = run(tmp_path, shared, url, "out")
        second = run(tmp_path, shared, url, "out")
    assert first["calls"] == len(asked) == 805 - same
    assert second["calls"] == 0
    assert same >= 1
    assert {k: v for k, v in first.items() if k != "calls"} == {
        k: v for k, v in second.items() if k != "calls"
    }
    assert first["n_total"] == first["n_answered"] == 805
    assert first["n_missing"] == 0
    assert first["n_draws"] >= same
    assert 0 < first["length_controlled_winrate"] < 100
    rows = json.loads((tmp_path / "out" / "annotations.json").read_text())
    preferences = pd.Series([r["preference"] for r in rows])
    assert 100 * (preferences.mean() - 1) == pytest.approx(first["win_rate"], abs=1e-9)
    assert installed() == before, "the package's own files have changed"
    assert logging.getLogger().level == level


def test_failures_are_missing_and_asked_again(
    shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Upstream drops an unreadable answer and keeps it as missing; a second run asks it again."""
    monkeypatch.setenv("WRPO_ASSETS", str(shared))
    with gzip.open(shared / "alpaca_eval" / MODEL_FILE, "rt") as file:
        rows = json.load(file)[:60]
    good = functools.partial(respond, judge=Judge(length_unit=2000.0))
    seen = 0

    def responder(body: dict[str, Any]) -> Any:
        nonlocal seen
        seen += 1
        if seen % 10 == 0:
            reply = good(body)
            reply[1]["choices"][0]["logprobs"] = None
            return reply
        return good(body)

    with judge_at(responder) as url:
        first = run(tmp_path, shared, url, "out", rows[::-1])
    assert first["n_answered"] == 60
    assert first["n_missing"] == first["calls"] // 10
    assert first["n_total"] == 60 - first["n_missing"]
    assert "length_controlled_winrate" not in first  # by position it would be wrong
    with judge_at(good) as url:
        second = run(tmp_path, shared, url, "out", rows)
    assert second["n_missing"] == 0
    assert second["calls"] == first["n_missing"]


def test_a_missing_pkg_resources_is_stood_in_for() -> None:
    module = alpaca_package._stand_in()
    assert module.get_distribution("alpaca_eval").version == "0.6.6"
    assert module.parse_version("0.10") > module.parse_version("0.9")
