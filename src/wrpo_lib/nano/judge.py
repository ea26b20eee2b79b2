"""The testbed's judge: true quality seen through known biases (ours).

A logistic judge with a quality weight, a position bias, a length bias and noise. It answers in the
forms of the three benchmarks, so the same statistics run on its judgements and on real ones, and
their corrections can be held against the truth. Every draw depends on (seed, protocol, question,
model, order) alone, never on the order of the calls. Judging is a pure function of the tracked
answers, so the judgements are made again wherever they are needed instead of being stored.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import expit

from wrpo_lib.errors import WRPOError
from wrpo_lib.evaluation import alpaca_eval, verdicts
from wrpo_lib.nano.tasks import task_from_id
from wrpo_lib.records import read_results, read_run

VERDICTS = tuple(verdicts.FOR_A)  # from strongly for A to strongly for B
EDGES = (2.5, 0.5, -0.5, -2.5)  # of the latent preference for A


@dataclass(frozen=True)
class Judge:
    """``quality``: logits a unit of quality; ``position``: logits for what is shown second;
    ``length``: logits for ``length_unit`` characters more; ``noise``: s.d. in logits."""

    quality: float = 4.0
    position: float = 0.35  # published judgements: models score 8.6 points higher when shown second
    length: float = 0.5
    noise: float = 0.5
    seed: int = 0
    length_unit: float = 20.0  # characters; real answers need thousands

    def normal(self, *key: object) -> float:
        """The N(0, 1) draw of one judgement."""
        text = "|".join(map(str, (self.seed, *key)))
        return float(np.random.default_rng(zlib.crc32(text.encode())).standard_normal())

    def bias(self, quality: Any, length: Any, second: bool) -> Any:
        """Preference in logits before noise, by the differences; scalars or arrays."""
        position = self.position if second else -self.position
        return self.quality * quality + self.length * length / self.length_unit + position

    def latent(self, quality: float, length: float, second: bool, key: tuple[object, ...]) -> float:
        """Preference in logits for a response over another, by their differences."""
        return float(self.bias(quality, length, second) + self.noise * self.normal(*key))

    def rating(self, quality: Any, length: Any, noise: Any) -> Any:
        """A whole score from 1 to 10 for an answer of ``length`` characters, N(0, 1) ``noise``."""
        usual = 2 * self.length_unit
        longer = self.length * (length - usual) / usual
        score = 2.0 + 5.5 * quality + longer + self.noise * noise
        return np.clip(np.round(score), 1, 10).astype(int)

    def rated(self, quality: float, text: str, key: tuple[object, ...]) -> str:
        """MT-Bench's reply, with the rating of ``text`` in it."""
        return f"Rating: [[{self.rating(quality, len(text), self.normal(*key))}]]"


def verdict(for_a: float) -> str:
    """Arena-Hard's label for a latent preference for A, in logits."""
    return VERDICTS[sum(for_a < edge for edge in EDGES)]


def _both_orders(
    answers: pd.DataFrame, baseline: str, judge: Judge, protocol: str, orders: tuple[Any, Any]
) -> pd.DataFrame:
    """First answers beside the baseline's, once an order: ``logit``, the preference for the model.

    In the first of ``orders`` the baseline is shown first.
    """
    columns = ["prompt_id", "model", "quality", "length", "text"]
    first = answers[answers["turn"] == 1].assign(length=lambda d: d["text"].str.len())[columns]
    base = first[first["model"] == baseline].drop(columns="model")
    if base.empty:
        raise WRPOError(f"the baseline {baseline!r} has no answers; answer with it first")
    rest = first[first["model"] != baseline]
    both = rest.merge(base, on="prompt_id", suffixes=("", "_baseline"), validate="many_to_one")
    both = both.merge(pd.DataFrame({"order": orders}), how="cross")
    both["logit"] = [
        judge.latent(
            pair.quality - pair.quality_baseline,
            pair.length - pair.length_baseline,
            pair.order == orders[0],
            (protocol, pair.prompt_id, pair.model, pair.order),
        )
        for pair in both.itertuples(index=False)
    ]
    return both.rename(columns={"prompt_id": "question_id", "length": "length_model"})


def judge_alpaca(answers: pd.DataFrame, baseline: str, judge: Judge) -> pd.DataFrame:
    """AlpacaEval-2's form: preference in [1, 2] for the model, both orders."""
    judged = _both_orders(answers, baseline, judge, "alpaca", ("baseline first", "model first"))
    same = judged["text"] == judged["text_baseline"]
    judged["preference"] = np.where(same, 1.5, 1.0 + expit(judged["logit"]))
    columns = ["question_id", "model", "order", "preference", "length_model", "length_baseline"]
    return judged[columns]


def judge_arena(answers: pd.DataFrame, baseline: str, judge: Judge) -> pd.DataFrame:
    """Arena-Hard's form: two games, positions swapped, five verdicts (game 1: baseline is A)."""
    judged = _both_orders(answers, baseline, judge, "arena", (1, 2))
    for_a = judged["logit"].mask(judged["order"] == 1, -judged["logit"])
    judged = judged.assign(game=judged["order"], verdict=for_a.map(verdict))
    return judged[["question_id", "model", "game", "verdict"]]


def judge_mt_bench(answers: pd.DataFrame, judge: Judge) -> pd.DataFrame:
    """MT-Bench's form: a score from 1 to 10 for each turn, as a reply that holds ``[[x]]``."""
    judged = answers.rename(columns={"prompt_id": "question_id"})
    judged["judgment"] = [
        judge.rated(row.quality, row.text, ("mt", row.question_id, row.model, row.turn))
        for row in judged.itertuples(index=False)
    ]
    return judged[["question_id", "turn", "model", "judgment"]]


def judged_rows(answers: pd.DataFrame, models: list[str], baseline: str) -> pd.DataFrame:
    """AlpacaEval-2's form of judgements of greedy answers, as :mod:`wrpo_lib.evaluation.forms`
    reads files."""
    greedy = answers[answers["decoding"] == "greedy"]
    judged = judge_alpaca(greedy[greedy["model"].isin([*models, baseline])], baseline, Judge())
    return judged.assign(
        baseline=baseline, judge="nano judge", version="nano", template="", metric="weighted"
    )


def benchmark_table(profile: str, models: list[str]) -> pd.DataFrame:
    """Scores of ``models`` under the three protocols, a row per seed, protocol and model."""
    run, judge, rows = read_run(profile), Judge(), []
    settings = run["world"]["evaluation"]  # the baselines, how many letters make a prompt hard
    base, arena_base = settings["baseline"], settings["arena_baseline"]
    for seed in run["seeds"]:
        answers = read_results(profile, f"answers_seed{seed}")
        answers = answers[answers["model"].isin([*models, base, arena_base])]
        greedy = answers[answers["decoding"] == "greedy"]
        turns = answers[(answers["decoding"] == "two_turn") & answers["model"].isin(models)]
        letters = greedy["prompt_id"].map(lambda i: len(task_from_id(i).letters))
        hard = greedy[letters >= settings["arena_letters"]]
        forms: dict[str, tuple[pd.DataFrame, Any]] = {
            "alpaca_eval2": (judge_alpaca(greedy, base, judge), alpaca_eval.win_rate),
            "arena_hard": (judge_arena(hard, arena_base, judge), verdicts.arena_hard),
            "mt_bench": (judge_mt_bench(turns, judge), verdicts.mt_bench),
        }
        for benchmark, (judged, summarise) in forms.items():
            for model in models:
                found = summarise(judged[judged["model"] == model])["interval"]
                rows.append((seed, benchmark, model, found.value, found.low, found.high))
    return pd.DataFrame(rows, columns=["seed", "benchmark", "model", "value", "low", "high"])
