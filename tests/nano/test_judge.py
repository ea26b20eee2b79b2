"""The judge's biases are what it says, and the protocols' corrections remove them; behind HTTP it
reads every real prompt and says the same."""

from __future__ import annotations

import zlib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.special import expit

from wrpo_lib.evaluation.alpaca_eval import length_controlled, win_rate
from wrpo_lib.evaluation.benchmarks import OWN, load
from wrpo_lib.io import read_rows
from wrpo_lib.nano.judge import (
    MODEL,
    Judge,
    Seen,
    judge_alpaca,
    recognise,
    reply,
    respond,
    true_quality,
)
from wrpo_lib.nano.reward import quality
from wrpo_lib.nano.tasks import Task, task_from_id

REAL = [("alpaca-eval", "2"), ("mt-bench", "0125-references"), ("arena-hard", "v0.1")]


def answers(n: int, spread: int = 0) -> pd.DataFrame:
    """A baseline and a model of equal quality that is often longer by ``spread``."""
    rng = np.random.default_rng(0)
    rows = []
    for i in range(n):
        base = float(rng.uniform(0, 1))
        size = int(rng.integers(-spread // 2, spread + 1))  # longer on average, not always
        rows.append((f"q{i}", 1, "base", "b" * 40, base))
        rows.append((f"q{i}", 1, "model", "m" * (40 + size), base))
    return pd.DataFrame(rows, columns=["prompt_id", "turn", "model", "text", "quality"])


def test_judging_both_orders_removes_the_position_bias() -> None:
    judged = judge_alpaca(answers(400), "base", Judge(position=1.0, length=0.0))
    by_order = judged.groupby("order")["preference"].mean() - 1
    assert by_order["baseline first"] > 0.68  # sigmoid(1) = 0.73, shrunk by noise
    assert by_order["model first"] < 0.32
    interval = win_rate(judged)["interval"]
    assert interval.low < 50 < interval.high


def test_length_control_removes_most_of_the_length_bias() -> None:
    biased = Judge(position=0.0, length=2.0, noise=0.1)
    judged = judge_alpaca(answers(400, spread=30), "base", biased)
    raw = win_rate(judged)["win_rate"]
    controlled = length_controlled(judged)["length_controlled_winrate"]
    assert raw > 58
    assert abs(controlled - 50) < 0.35 * abs(raw - 50)


def test_judgements_do_not_depend_on_the_order_of_calls_and_the_same_text_ties() -> None:
    table = answers(30)
    once, again = (
        judge_alpaca(rows, "base", Judge()).sort_values(["question_id", "order"])
        for rows in (table, table.sample(frac=1, random_state=1))
    )
    assert once["preference"].tolist() == again["preference"].tolist()
    same = judge_alpaca(table.assign(text="same"), "base", Judge())
    assert set(same["preference"]) == {1.5}


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
        assert seen.turn == (2 if purpose.endswith(("2", "multi-turn")) else 1)
        names = [k for k in values if k.startswith(("answer", "output"))]
        last = {values[k] for k in names if seen.turn == 1 or k.endswith("_2")}
        assert {seen.a, *([seen.b] if seen.b else [])} == last
        assert seen.question.startswith("the ")


@pytest.mark.parametrize("part", ["[Question]\n", '"instruction": """a""",\n}', "### User:\n"])
def test_no_prompt_makes_it_search_for_ever(part: str) -> None:
    """Patterns with several gaps would try every way of placing them."""
    assert recognise(part * 20_000) is None


def test_a_testbed_answer_is_judged_by_its_true_quality() -> None:
    task = Task("reverse", "bdac", "sort")
    for turn in (1, 2):
        for text in ("the answer is c a d b .", "the answer is a b c d . total 4 letters ."):
            seen = Seen("mt", turn, task.instruction, "now sort it", text, "")
            assert true_quality(seen, text) == quality(task, text, turn)
    other = Seen("mt", 1, "Write a poem.", "", "x", "")
    assert true_quality(other, "x") == np.random.default_rng(zlib.crc32(b"x")).uniform()


def test_log_probabilities_say_what_the_judge_thinks() -> None:
    task = Task("copy", "abc")
    seen = Seen("alpaca", 1, task.instruction, "", "the answer is a b c .", "the answer is a .")
    text, tokens = reply(seen, Judge(noise=0.0))
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
