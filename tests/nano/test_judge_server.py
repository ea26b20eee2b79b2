"""The judge behind HTTP: it reads every real prompt, its biases are the pure functions', and the
protocols' corrections remove them in judgements that went through the whole client."""

from __future__ import annotations

import zlib
from pathlib import Path

import numpy as np
import pytest
from scipy.special import expit

from wrpo_lib.evaluation.benchmarks import OWN, load
from wrpo_lib.io import read_rows
from wrpo_lib.nano.judge import Judge
from wrpo_lib.nano.judge_server import MODEL, Seen, recognise, reply, respond, true_quality
from wrpo_lib.nano.reward import quality
from wrpo_lib.nano.tasks import Task, task_from_id

REAL = [("alpaca-eval", "2"), ("mt-bench", "0125-references"), ("arena-hard", "v0.1")]


@pytest.mark.parametrize(("name", "version"), [*REAL, *((name, "nano") for name, _ in REAL)])
def test_it_reads_the_real_prompts_and_our_own(
    name: str, version: str, shared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WRPO_ASSETS", str(shared))
    for purpose, template in load(name, version).templates.items():
        if purpose.startswith("pair"):
            continue
        values = {p: f"the {p}\n\nin *two* lines" for p in template.placeholders}
        messages, _ = template.fill(values)
        seen = recognise(messages[-1]["content"])
        assert seen is not None, purpose
        assert seen.turn == (2 if purpose.endswith("multi-turn") else 1)
        names = [k for k in values if k.startswith(("answer", "output"))]
        last = {values[k] for k in names if seen.turn == 1 or k.endswith("_2")}
        assert {seen.a, *([seen.b] if seen.b else [])} == last
        assert seen.question.startswith("the ")


def test_a_testbed_answer_is_judged_by_its_true_quality() -> None:
    task = Task("reverse", "bdac", "sort")
    for turn in (1, 2):
        for text in ("the answer is c a d b .", "the answer is a b c d . total 4 letters ."):
            seen = Seen("mt", turn, task.instruction, "now sort it", text, "")
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


def test_the_committed_baselines_slip_in_every_second_answer() -> None:
    for name in ("alpaca-eval", "arena-hard"):
        for k, row in enumerate(read_rows(OWN / f"baseline-{name}.jsonl")):
            task = task_from_id(row["question_id"])
            said = task.slip() if k % 2 else task.answer()
            assert row["text"] == f"the answer is {' '.join(said)} ."
