"""The judge's biases are what it says, and the protocols' corrections remove them."""

from __future__ import annotations

import numpy as np
import pandas as pd

from wrpo_lib.evaluation import verdicts
from wrpo_lib.evaluation.alpaca_eval import length_controlled, win_rate
from wrpo_lib.nano.judge import Judge, judge_alpaca, judge_arena, judge_mt_bench


def answers(n: int, quality: float = 0.0, longer: int = 0, spread: int = 0) -> pd.DataFrame:
    """A baseline and a model of equal quality but for ``quality``; the model's texts are longer."""
    rng = np.random.default_rng(0)
    rows = []
    for i in range(n):
        base = float(rng.uniform(0, 1))
        size = int(rng.integers(-spread // 2, spread + 1))  # longer on average, not always
        rows.append((f"q{i}", 1, "base", "b" * 40, base))
        rows.append((f"q{i}", 1, "model", "m" * (40 + longer + size), base + quality))
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


def test_better_answers_win_in_every_protocol() -> None:
    judge = Judge()
    table = answers(200, quality=0.5)
    assert win_rate(judge_alpaca(table, "base", judge))["interval"].low > 60
    assert verdicts.arena_hard(judge_arena(table, "base", judge))["interval"].low > 60
    scores = judge_mt_bench(table, judge)
    means = {m: verdicts.mt_bench(rows)["overall"] for m, rows in scores.groupby("model")}
    assert means["model"] > means["base"] + 1


def test_judgements_do_not_depend_on_the_order_of_calls_and_the_same_text_ties() -> None:
    table = answers(30)
    once, again = (
        judge_alpaca(rows, "base", Judge()).sort_values(["question_id", "order"])
        for rows in (table, table.sample(frac=1, random_state=1))
    )
    assert once["preference"].tolist() == again["preference"].tolist()
    same = judge_alpaca(table.assign(text="same"), "base", Judge())
    assert set(same["preference"]) == {1.5}
