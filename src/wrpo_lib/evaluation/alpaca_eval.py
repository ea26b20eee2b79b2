"""AlpacaEval-2: win rate over a baseline.

A judgement is a preference in [1, 2]; 2 means the model certainly wins, 1.5 is a tie.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

import numpy as np
import pandas as pd

from wrpo_lib.analysis.statistics import Estimate, mean_interval
from wrpo_lib.errors import WRPOError


def is_switched(instruction: str) -> bool:
    """Whether upstream shows the model first for this instruction: its seeded random choice.

    Of the 805 instructions, 406 are switched (alpaca-eval 0.6.6, ``random_seeded_choice``).
    """
    return random.Random(f"is_switched_outputs{instruction}0").choices([False, True])[0]


@dataclass(frozen=True)
class WinRate:
    """Fields named as upstream names them; ``win_rate`` and errors in percent.

    ``standard_error`` is upstream's, over rows; ``interval`` clusters by question, which matters
    where both orders are judged. ``n_duplicates`` rows repeat a (question, order) and are kept, as
    upstream keeps them. ``n_missing`` rows have no preference and are left out.
    """

    win_rate: float
    standard_error: float
    n_wins: int
    n_wins_base: int
    n_draws: int
    n_total: int
    discrete_win_rate: float
    avg_length: int | None
    n_missing: int
    n_duplicates: int
    n_questions: int
    interval: Estimate


def checked(judgements: pd.DataFrame) -> pd.DataFrame:
    """The rows with a preference, at least two."""
    known = judgements[judgements["preference"].notna()]
    if len(known) < 2:
        raise WRPOError(
            f"{len(known)} of {len(judgements)} judgements have a preference; judge the rest first"
        )
    return known


def win_rate(judgements: pd.DataFrame) -> WinRate:
    """Win rate of one model from rows with ``question_id`` and ``preference``.

    ``order`` and ``length_model`` (characters) are used where they are there.
    """
    known = checked(judgements)
    percent = 100 * (known["preference"].to_numpy(float) - 1)
    wins, losses = int((percent > 50).sum()), int((percent < 50).sum())
    draws = len(known) - wins - losses
    key = [c for c in ("question_id", "order") if c in judgements]
    lengths = judgements["length_model"].dropna() if "length_model" in judgements else []
    return WinRate(
        win_rate=float(percent.mean()),
        standard_error=float(percent.std(ddof=1) / np.sqrt(len(percent))),
        n_wins=wins,
        n_wins_base=losses,
        n_draws=draws,
        n_total=len(percent),
        discrete_win_rate=100 * (wins + draws / 2) / len(percent),
        avg_length=int(np.mean(lengths)) if len(lengths) else None,
        n_missing=len(judgements) - len(known),
        n_duplicates=int(judgements.duplicated(key).sum()),
        n_questions=known["question_id"].nunique(),
        interval=mean_interval(percent, known["question_id"]),
    )
