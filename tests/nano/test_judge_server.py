"""The judge behind HTTP: it reads every real prompt, its biases are the pure functions', and the
protocols' corrections remove them in judgements that went through the whole client."""

from __future__ import annotations

import functools
import json
import zlib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from local_judge import judge_at, judgements
from scipy.special import expit

from wrpo_lib.evaluation import alpaca_eval
from wrpo_lib.evaluation.answers import Answers
from wrpo_lib.evaluation.benchmarks import OWN, Benchmark, Question, load
from wrpo_lib.evaluation.calls import JudgingPlan, calls
from wrpo_lib.evaluation.judging import KEY, Run
from wrpo_lib.evaluation.length_control import length_controlled
from wrpo_lib.io import Store, read_rows, write_rows
from wrpo_lib.nano import questions
from wrpo_lib.nano.judge import Judge
from wrpo_lib.nano.judge_server import MODEL, Seen, recognise, reply, respond, true_quality
from wrpo_lib.nano.reward import quality
from wrpo_lib.nano.tasks import Task
from wrpo_lib.server import Server

REAL = [("alpaca-eval", "2"), ("mt-bench", "0125-references"), ("arena-hard", "v0.1")]


def assert_it_reads(name: str, version: str) -> None:
    for purpose, template in load(name, version).templates.items():
        values = {p: f"the {p}\n\nin *two* lines" for p in template.placeholders}
        messages, _ = template.fill(values)
        seen = recognise(messages[-1]["content"])
        assert seen is not None, purpose
        assert seen.turn == (2 if purpose.endswith("2") else 1)
        last = {v for k, v in values.items() if k.startswith(("answer", "output"))
                and (seen.turn == 1 or k.endswith("_2"))}  # fmt: skip
        assert {seen.a, *([seen.b] if seen.b else [])} == last
        assert seen.question.startswith("the ")


@pytest.mark.parametrize(("name", "version"), REAL)
def test_it_reads_the_real_prompts(
    name: str, version: str, shared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WRPO_ASSETS", str(shared))
    assert_it_reads(name, version)


@pytest.mark.parametrize("name", ["alpaca-eval", "mt-bench", "arena-hard"])
def test_it_reads_our_own_prompts(name: str) -> None:
    assert_it_reads(name, "nano")


def test_a_testbed_answer_is_judged_by_its_true_quality() -> None:
    task = Task("reverse", "bdac", "sort")
    for turn in (1, 2):
        for text in ("the answer is c a d b .", "the answer is a b c d . total 4 letters ."):
            seen = Seen("mt", turn, task.instruction, task.follow_up, text, "")
            assert true_quality(seen, text) == quality(task, text, turn)
    other = Seen("mt", 1, "Write a poem.", "", "x", "")
    expected = np.random.default_rng(zlib.crc32(b"x")).uniform()
    assert true_quality(other, "x") == expected


def test_log_probabilities_say_what_the_judge_thinks() -> None:
    judge = Judge(noise=0.0)
    task = Task("copy", "abc")
    seen = Seen("alpaca", 1, task.instruction, "", "the answer is a b c .", "the answer is a .")
    text, tokens = reply(seen, judge)
    assert tokens is not None
    p = {t["token"]: np.exp(t["logprob"]) for t in tokens[0]["top_logprobs"]}
    gap = quality(task, seen.a) - quality(task, seen.b)
    truth = expit(4.0 * gap + 0.5 * (len(seen.a) - len(seen.b)) / 20 - 0.35)
    assert p["m"] / (p["m"] + p["M"]) == pytest.approx(truth)
    assert sum(p.values()) == pytest.approx(1.0)
    assert text == "m"


def test_a_repeated_request_gets_the_same_reply_and_other_prompts_no_verdict() -> None:
    body = {"model": MODEL, "messages": [{"role": "user", "content": "What is love?"}]}
    assert respond(body, Judge()) == respond(body, Judge())
    assert respond(body, Judge())[1]["choices"][0]["message"]["content"] == "I cannot tell."
    assert respond({**body, "model": "gpt-4"}, Judge())[0] == 404


def test_the_committed_questions_are_what_the_module_draws() -> None:
    assert read_rows(OWN / "questions.jsonl") == questions.question_rows()
    for name in ("alpaca-eval", "arena-hard"):
        assert read_rows(OWN / f"baseline-{name}.jsonl") == questions.baseline_rows(name)


def judged(judge: Judge, folder: Path, longer: int, n: int = 150) -> pd.DataFrame:
    """A model against a baseline on questions that are no tasks, both orders, over HTTP.

    Quality is then a hash of the text, so that the two are equal in truth; the model's texts are
    ``longer`` characters longer on average.
    """
    own = load("alpaca-eval")
    rng = np.random.default_rng(3)
    asked = tuple(Question(f"q{i}", "x", (f"question {i}",)) for i in range(n))
    bench = Benchmark("alpaca-eval", "nano", asked, own.templates, own.judge_settings,
                      {"": "base"})  # fmt: skip
    files = {}
    for name, mean in (("base", 60), ("mine", 60 + longer)):
        sizes = np.maximum(5, rng.normal(mean, 25, n)).astype(int)
        files[name] = folder / f"{name}.jsonl"
        write_rows((
            {"question_id": q.question_id, "turn": 1, "model": name,
             "text": f"{name} {i} ".ljust(size, "x")}
            for i, (q, size) in enumerate(zip(asked, sizes, strict=True))
        ), files[name])  # fmt: skip
    baselines = {"base": Answers(files["base"], bench)}
    plan, answers = JudgingPlan(bench, MODEL), Answers(files["mine"], bench)
    responder = functools.partial(respond, judge=judge)
    with judge_at(responder) as url, Store(folder / "j.jsonl", KEY) as store:
        Run(plan, store, Server(url, connections=8))(calls(plan, answers, "mine", baselines))
    return pd.DataFrame(judgements(folder / "j.jsonl"))


def test_swapping_the_order_removes_the_position_bias(tmp_path: Path) -> None:
    rows = judged(Judge(quality=1.0, position=1.0, length=0.0), tmp_path, longer=0)
    one = {order: alpaca_eval.win_rate(part) for order, part in rows.groupby("order")}
    both = alpaca_eval.win_rate(rows)
    assert one["baseline first"].interval.low > 60  # shown second
    assert one["model first"].interval.high < 40
    assert both.interval.low < 50 < both.interval.high
    assert both.interval.high - both.interval.low < 10


def test_length_control_removes_the_length_bias(tmp_path: Path) -> None:
    rows = judged(Judge(quality=1.0, position=0.35, length=0.8), tmp_path, longer=25)
    raw = alpaca_eval.win_rate(rows)
    controlled = length_controlled(rows).length_controlled_winrate
    assert raw.interval.low > 60
    assert abs(controlled - 50) < 0.3 * abs(raw.win_rate - 50)
    assert json.loads(rows.iloc[0].to_json())["judge"] == MODEL
