"""The testbed's judge: true quality seen through known biases (ours).

A logistic judge with a quality weight, a position bias, a length bias and noise. It answers in the
forms of the three benchmarks, so the same statistics run on its judgements and on real ones, and
their corrections can be held against the truth. Every draw depends on (seed, protocol, question,
model, order) alone, never on the order of the calls.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.special import expit

from wrpo_lib.errors import WRPOError
from wrpo_lib.evaluation.arena_hard import FOR_A

if TYPE_CHECKING:
    import pandas as pd

VERDICTS = tuple(FOR_A)  # from strongly for A to strongly for B
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

    def rng(self, *key: object) -> np.random.Generator:
        """The generator of one judgement."""
        text = "|".join(map(str, (self.seed, *key)))
        return np.random.default_rng(zlib.crc32(text.encode()))

    def bias(self, quality: Any, length: Any, second: bool) -> Any:
        """Preference in logits before noise, by the differences; scalars or arrays."""
        position = self.position if second else -self.position
        return self.quality * quality + self.length * length / self.length_unit + position

    def latent(self, quality: float, length: float, second: bool, key: tuple[object, ...]) -> float:
        """Preference in logits for a response over another, by their differences."""
        noise = self.noise * self.rng(*key).standard_normal()
        return float(self.bias(quality, length, second) + noise)

    def rating(self, quality: Any, length: Any, noise: Any) -> Any:
        """A whole score from 1 to 10 for an answer of ``length`` characters, N(0, 1) ``noise``."""
        usual = 2 * self.length_unit
        longer = self.length * (length - usual) / usual
        score = 2.0 + 5.5 * quality + longer + self.noise * noise
        return np.clip(np.round(score), 1, 10).astype(int)


def verdict(for_a: float) -> str:
    """Arena-Hard's label for a latent preference for A, in logits."""
    return VERDICTS[sum(for_a < edge for edge in EDGES)]


def _pairs(answers: pd.DataFrame, baseline: str) -> Iterator[tuple[Any, float, int]]:
    """First answers beside the baseline's; how much better, and how many characters longer."""
    columns = ["prompt_id", "model", "quality", "length", "text"]
    first = answers[answers["turn"] == 1].assign(length=lambda d: d["text"].str.len())[columns]
    base = first[first["model"] == baseline].drop(columns="model")
    if base.empty:
        raise WRPOError(f"the baseline {baseline!r} has no answers; answer with it first")
    rest = first[first["model"] != baseline]
    both = rest.merge(base, on="prompt_id", suffixes=("", "_baseline"), validate="many_to_one")
    for pair in both.itertuples(index=False):
        yield pair, pair.quality - pair.quality_baseline, pair.length - pair.length_baseline


def judge_alpaca(answers: pd.DataFrame, baseline: str, judge: Judge) -> pd.DataFrame:
    """AlpacaEval-2's form: preference in [1, 2] for the model, both orders."""
    import pandas as pd

    rows = []
    for pair, gap, longer in _pairs(answers, baseline):
        for order in ("baseline first", "model first"):
            key = ("alpaca", pair.prompt_id, pair.model, order)
            logit = judge.latent(gap, longer, order == "baseline first", key)
            same = pair.text == pair.text_baseline
            preference = 1.5 if same else 1.0 + float(expit(logit))
            lengths = (pair.length, pair.length_baseline)
            rows.append((pair.prompt_id, pair.model, order, preference, *lengths))
    columns = ["question_id", "model", "order", "preference", "length_model", "length_baseline"]
    return pd.DataFrame(rows, columns=columns)


def judge_arena(answers: pd.DataFrame, baseline: str, judge: Judge) -> pd.DataFrame:
    """Arena-Hard's form: two games, positions swapped, five verdicts (game 1: baseline is A)."""
    import pandas as pd

    rows = []
    for pair, gap, longer in _pairs(answers, baseline):
        for game in (1, 2):
            logit = judge.latent(
                gap, longer, game == 1, ("arena", pair.prompt_id, pair.model, game)
            )
            rows.append((pair.prompt_id, pair.model, game, verdict(-logit if game == 1 else logit)))
    return pd.DataFrame(rows, columns=["question_id", "model", "game", "verdict"])


def judge_mt_bench(answers: pd.DataFrame, judge: Judge) -> pd.DataFrame:
    """MT-Bench's form: a score from 1 to 10 for each turn, as a reply that holds ``[[x]]``."""
    import pandas as pd

    rows = []
    for row in answers.itertuples(index=False):
        rng = judge.rng("mt", row.prompt_id, row.model, row.turn)
        reply = f"Rating: [[{judge.rating(row.quality, len(row.text), rng.standard_normal())}]]"
        rows.append((row.prompt_id, row.turn, row.model, reply))
    return pd.DataFrame(rows, columns=["question_id", "turn", "model", "judgment"])
