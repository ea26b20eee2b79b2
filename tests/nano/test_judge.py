"""The judge's biases are what it says, and the protocols' corrections remove them; behind HTTP it
reads every real prompt and says the same."""

import zlib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.special import expit

from wrpo_lib.evaluation.benchmarks import OWN, load
from wrpo_lib.evaluation.scores import length_controlled, win_rate
from wrpo_lib.io import read_rows
from wrpo_lib.nano.judge import (
    MODEL,
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


@pytest.mark.parametrize("part", ["[Question]\n", '"instruction": """a""",\n}', "### User:\n"])
def test_no_prompt_makes_it_search_for_ever(part: str) -> None:
    """Patterns with several gaps would try every way of placing them."""
    assert recognise(part * 20_000) is None


def test_a_testbed_answer_is_judged_by_its_true_quality() -> None:
    first, second = read_prompt("carve ABCD"), read_prompt("carve EFGH")
    for text in ("it is DCBA.", "it is HGFE.", "it is HGEF."):
        asked = Seen("mt", 1, first.text, "", text)
        assert true_quality(asked, text) == quality(first, text)
        asked = Seen("mt", 2, first.text, second.text, text)
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
    assert respond(body, Judge()) == respond(body, Judge())
    assert respond(body, Judge())[1]["choices"][0]["message"]["content"] == "I cannot tell."


def test_the_committed_baselines_are_wrong_in_every_second_answer() -> None:
    for name in ("alpaca-eval", "arena-hard"):
        for k, row in enumerate(read_rows(OWN / f"baseline-{name}.jsonl")):
            prompt = read_prompt(row["question_id"].replace("-", " "))
            right = quality(prompt, row["text"]) == 1
            assert right == (k % 2 == 0)
