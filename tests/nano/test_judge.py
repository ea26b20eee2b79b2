"""The judge's biases are what it says, and the protocols' corrections remove them; reported
intervals hold the truth at their rate; behind HTTP it reads every real prompt and says the same."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.special import expit

from wrpo_lib.analysis.statistics import Estimate
from wrpo_lib.evaluation.benchmarks import PLACEHOLDER, load
from wrpo_lib.evaluation.scores import length_controlled, mt_bench, win_rate
from wrpo_lib.nano.judge import (
    JUDGE,
    MODEL,
    Judge,
    Seen,
    judge_alpaca,
    judge_arena,
    judge_mt_bench,
    recognise,
    reply,
    respond,
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


def test_both_orders_and_length_control_remove_the_judges_biases(answers: pd.DataFrame) -> None:
    judged = judge_alpaca(answers, "base", Judge(position=1.0, length=0.0))
    different = judged[judged["length_model"] != judged["length_baseline"]]
    by_order = different.groupby("order")["preference"].mean() - 1
    assert by_order["baseline first"] > 0.68  # sigmoid(1) = 0.73, shrunk by noise
    assert by_order["model first"] < 0.32
    interval = win_rate(judged)["interval"]
    assert interval.low < 50 < interval.high
    judged = judge_alpaca(answers, "base", Judge(position=0.0, length=2.0, noise=0.1))
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
        values = {p: f"the {p}\n\nin *two* lines" for p in PLACEHOLDER.findall(template.user)}
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


def test_an_answer_is_judged_by_its_true_quality_and_log_probabilities_say_so() -> None:
    exact = Judge(length=0.0, noise=0.0)
    for text, rating in (("it is DCBA.", 2), ("it is HGFE.", 9), ("it is HGEF.", 4)):
        seen = Seen("mt", 2, "carve ABCD", "carve EFGH", text)  # graded on the second question
        assert reply(seen, exact) == (f"Rating: [[{rating}]]", None)
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
    other = {"model": MODEL, "messages": [{"role": "user", "content": "What is love?"}]}
    assert respond(other)[1]["choices"][0]["message"]["content"] == "I cannot tell."


def test_an_interval_holds_the_truth_at_its_rate_when_two_turns_share_a_question() -> None:
    """AlpacaEval-2's orders and Arena-Hard's games are clustered by the same function."""
    rng = np.random.default_rng(20)

    def interval(n: int) -> Estimate:
        quality, length = rng.beta(4, 2, n), 12 + rng.normal(3, 9, n)
        scores = [JUDGE.rating(quality, length, rng.standard_normal(n)) for _ in (1, 2)]
        columns = {"turn": np.repeat([1, 2], n), "score": np.concatenate(scores)}
        return mt_bench(pd.DataFrame({"question_id": np.tile(range(n), 2), **columns}))["interval"]

    truth, found = interval(100_000), [interval(100) for _ in range(400)]
    width = np.mean([i.high - i.low for i in found])
    assert truth.high - truth.low < 0.05 * width
    # 0.95 ± 3.3 standard errors of a share of 400: one test in a thousand is outside
    assert 0.914 <= np.mean([i.low <= truth.value <= i.high for i in found]) <= 0.986
