"""The judge's biases are what it says, and the protocols' corrections remove them; reported
intervals hold the truth at their rate; behind HTTP it reads every real prompt and says the same."""

import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy.special import expit

from wrpo_lib.analysis.statistics import Estimate
from wrpo_lib.evaluation.benchmarks import OWN, load
from wrpo_lib.evaluation.scores import arena_hard, length_controlled, mt_bench, win_rate
from wrpo_lib.io import read_rows
from wrpo_lib.nano.judge import (
    EDGES,
    JUDGE,
    MODEL,
    VERDICTS,
    Judge,
    Seen,
    judge_alpaca,
    judge_arena,
    judge_mt_bench,
    recognise,
    reply,
    respond,
    true_quality,
)
from wrpo_lib.nano.world import World, quality, read_prompt

REAL = [("alpaca-eval", "2"), ("mt-bench", "0125-references"), ("arena-hard", "v0.1")]
RUNS, QUESTIONS, LARGE = 400, 100, 400_000
BAND = (0.914, 0.986)
"""0.95 ± 3.3 standard errors of a share of 400 runs: one test in a thousand is outside."""


@pytest.fixture
def answers(world: World) -> pd.DataFrame:
    """A baseline and a model that are right on the same prompts; the model is often longer."""
    rng, rows = np.random.default_rng(0), []
    for prompt in world.splits["heldout"]:
        said = prompt.answer if rng.random() < 0.5 else prompt.letters
        for arm, filler in (("base", 0), ("model", rng.integers(-5, 10))):
            text = "." * (5 + filler)
            rows.append((arm, prompt.text, world.classes[prompt.skill], f"it is {said}{text}"))
    return pd.DataFrame(rows, columns=["arm", "prompt_text", "class", "response"])


def test_judging_both_orders_removes_the_position_bias(answers: pd.DataFrame) -> None:
    judged = judge_alpaca(answers, "base", Judge(position=1.0, length=0.0))
    different = judged[judged["length_model"] != judged["length_baseline"]]
    by_order = different.groupby("order")["preference"].mean() - 1
    assert by_order["baseline first"] > 0.68  # sigmoid(1) = 0.73, shrunk by noise
    assert by_order["model first"] < 0.32
    interval = win_rate(judged)["interval"]
    assert interval.low < 50 < interval.high


def test_length_control_removes_most_of_the_length_bias(answers: pd.DataFrame) -> None:
    biased = Judge(position=0.0, length=2.0, noise=0.1)
    judged = judge_alpaca(answers, "base", biased)
    raw = win_rate(judged)["win_rate"]
    controlled = length_controlled(judged)["length_controlled_winrate"]
    assert raw > 58
    assert abs(controlled - 50) < 0.35 * abs(raw - 50)


def test_judgements_do_not_depend_on_the_order_of_calls_and_the_same_text_ties(
    answers: pd.DataFrame,
) -> None:
    once, again = (
        judge_alpaca(rows, "base", Judge()).sort_values(["question_id", "order"])
        for rows in (answers, answers.sample(frac=1, random_state=1))
    )
    assert once["preference"].tolist() == again["preference"].tolist()
    same = judge_alpaca(answers.assign(response="same"), "base", Judge())
    assert set(same["preference"]) == {1.5}


def test_hard_prompts_are_those_of_class_b_and_two_turns_are_of_one_skill(
    answers: pd.DataFrame,
) -> None:
    games = judge_arena(answers, "base", Judge())
    hard = answers.query("arm == 'model' and `class` == 'B'")["prompt_text"]
    assert sorted(games["question_id"]) == sorted([*hard, *hard])
    own = answers[answers["arm"] == "model"]
    turns = judge_mt_bench(own, Judge(length=0.0, noise=0.0))
    assert set(turns.groupby("question_id")["turn"].apply(tuple)) == {(1, 2)}
    pairs = zip(own["prompt_text"], own["response"], strict=True)
    truth = [quality(read_prompt(asked), said) for asked, said in pairs]
    assert turns["score"].tolist() == [round(2 + 7 * q) for q in truth]
    skills = own["prompt_text"].str.split().str[0]
    assert (turns["question_id"].str.split("-").str[0] == skills).all()


@pytest.mark.parametrize(("name", "version"), [*REAL, *((name, "nano") for name, _ in REAL)])
def test_it_reads_the_real_prompts_and_our_own(
    name: str, version: str, shared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WRPO_ASSETS", str(shared))
    for purpose, template in load(name, version).templates.items():
        if purpose.startswith("pair"):
            continue
        values = {p: f"the {p}\n\nin *two* lines" for p in template.placeholders}
        messages = template.fill(values)
        seen = recognise(messages[-1]["content"])
        assert seen is not None, purpose
        assert seen.turn == (2 if purpose.endswith(("2", "multi-turn")) else 1)
        names = [k for k in values if k.startswith(("answer", "output"))]
        last = {values[k] for k in names if seen.turn == 1 or k.endswith("_2")}
        assert {seen.a, *([seen.b] if seen.b else [])} == last
        assert seen.question.startswith("the ")
    for part in ("[Question]\n", '"instruction": """a""",\n}', "### User:\n"):
        assert recognise(part * 20_000) is None  # at once: no pattern with several gaps


def test_a_testbed_answer_is_judged_by_its_true_quality() -> None:
    first, second = read_prompt("carve ABCD"), read_prompt("carve EFGH")
    for text in ("it is DCBA.", "it is HGFE.", "it is HGEF."):
        assert true_quality(Seen("mt", 1, first.text), text) == quality(first, text)
        asked = Seen("mt", 2, first.text, second.text)
        assert true_quality(asked, text) == quality(second, text)
    other = Seen("mt", 1, "Write a poem.", "", "x")
    assert true_quality(other, "x") == np.random.default_rng(zlib.crc32(b"x")).uniform()


def test_log_probabilities_say_what_the_judge_thinks() -> None:
    prompt = read_prompt("carve ABCD")
    seen = Seen("alpaca", 1, prompt.text, "", "try out DCBA!", "it is DCAB.")
    text, tokens = reply(seen, Judge(noise=0.0))
    assert tokens is not None
    p = {t["token"]: np.exp(t["logprob"]) for t in tokens[0]["top_logprobs"]}
    gap = quality(prompt, seen.a) - quality(prompt, seen.b)
    truth = expit(4.0 * gap + 0.5 * (len(seen.a) - len(seen.b)) / 6 - 0.35)
    assert p["m"] / (p["m"] + p["M"]) == pytest.approx(truth)
    assert sum(p.values()) == pytest.approx(1.0)
    assert text == "m"


def test_a_repeated_request_gets_the_same_reply_and_other_prompts_no_verdict() -> None:
    body = {"model": MODEL, "messages": [{"role": "user", "content": "What is love?"}]}
    assert respond(body) == respond(body)
    assert respond(body)[1]["choices"][0]["message"]["content"] == "I cannot tell."


def test_the_committed_baselines_are_wrong_in_every_second_answer() -> None:
    for name in ("alpaca-eval", "arena-hard"):
        for k, row in enumerate(read_rows(OWN / f"baseline-{name}.jsonl")):
            prompt = read_prompt(row["question_id"].replace("-", " "))
            right = quality(prompt, row["text"]) == 1
            assert right == (k % 2 == 0)


def latent(rng: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Preference in logits for the model shown second and shown first, one a question.

    The model is a little better and longer than the baseline, not always.
    """
    gap, longer = rng.normal(0.08, 0.3, n), rng.normal(3, 9, n)
    noise = rng.standard_normal((2, n))
    return tuple(JUDGE.prefers(gap, longer, second, noise[int(second)]) for second in (True, False))


def rows(n: int, **columns: Any) -> pd.DataFrame:
    """Two judgements of each question."""
    return pd.DataFrame({"question_id": np.tile(np.arange(n), 2), **columns})


def alpaca(rng: np.random.Generator, n: int) -> Estimate:
    """Both orders of every question."""
    order = np.repeat(["baseline first", "model first"], n)
    preference = 1 + expit(np.concatenate(latent(rng, n)))
    return win_rate(rows(n, order=order, preference=preference))["interval"]


def arena(rng: np.random.Generator, n: int) -> Estimate:
    """Both games; in the first the baseline is A, so that the model is shown second."""
    second, first = latent(rng, n)
    below = (np.concatenate([-second, first])[:, None] < np.array(EDGES)).sum(axis=1)
    judged = rows(n, game=np.repeat([1, 2], n), verdict=np.array(VERDICTS)[below])
    return arena_hard(judged)["interval"]


def mt(rng: np.random.Generator, n: int) -> Estimate:
    """Two turns that share the question's quality."""
    quality, length = rng.beta(4, 2, n), 12 + rng.normal(3, 9, n)
    scores = [JUDGE.rating(quality, length, rng.standard_normal(n)) for _ in (1, 2)]
    judged = rows(n, turn=np.repeat([1, 2], n), score=np.concatenate(scores))
    return mt_bench(judged)["interval"]


@pytest.mark.parametrize("protocol", [alpaca, arena, mt])
def test_intervals_hold_the_truth_at_their_rate(protocol: Any) -> None:
    rng = np.random.default_rng(20)
    truth = protocol(rng, LARGE)
    found = [protocol(rng, QUESTIONS) for _ in range(RUNS)]
    width = np.mean([interval.high - interval.low for interval in found])
    assert truth.high - truth.low < 0.05 * width
    assert BAND[0] <= np.mean([i.low <= truth.value <= i.high for i in found]) <= BAND[1]
