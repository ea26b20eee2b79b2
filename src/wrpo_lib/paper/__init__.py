"""The paper's own numbers (arXiv 2412.03187, version 1 tables) and claims, as data.

``claims.yml`` holds the claims and their tests: the plan that results are judged by.
"""

from fractions import Fraction
from pathlib import Path
from statistics import fmean
from typing import Annotated, Literal, get_args

import pandas as pd
from pydantic import BaseModel, BeforeValidator, Field

from wrpo_lib.io import file_hash
from wrpo_lib.recipes import read_yaml

TYPICAL_LC_SE = 0.8
"""Of a length-controlled win rate; the paper prints none. On published judgements 0.7 to 0.9."""


def table(name: str, as_printed: bool = False) -> pd.DataFrame:
    """One table of the paper, for example ``table02_main_results``.

    ``as_printed`` keeps every cell as text with the decimals of the paper.
    """
    path = Path(__file__).with_name(f"{name}.csv")
    return pd.read_csv(path, dtype=str, na_filter=False) if as_printed else pd.read_csv(path)


# a number, or a fraction such as 1/3
Number = Annotated[float, BeforeValidator(lambda text: float(Fraction(str(text))))]
Weights = dict[str, Number]
Outcome = Literal["right", "greedy", "any5", "style", "length", "repeats"]
Reward = Literal["margin", "reward_ws", "reward_wt", "reward_l"]
Accuracy = Literal["accuracy", "accuracy_wt"]
Judged = Literal["alpaca_eval", "arena_hard", "mt_bench"]
PLAN = Path(__file__).with_name("claims.yml")
JUDGED = get_args(Judged)  # the protocols in which the nano judge compares answers
SHARES = ("right", "greedy", "any5")  # of correct answers, to which the plan's ``delta`` applies
# units of estimates that are not shown in points, a hundredth each
UNITS = dict.fromkeys(get_args(Reward), "of reward")
UNITS |= {"logp": "nats", "length": "tokens", "mt_bench": "of ten"}


class Comparison(BaseModel, extra="forbid", frozen=True):
    """What is measured on which prompts, and the weights of the arms that it compares.

    The keys of weights are arms; for ``logp`` they are ``model/whose``.
    """

    of: Outcome | Reward | Accuracy | Judged | Literal["logp"] = "right"
    prompts: Literal["all", "A", "B", "C", "D", "unsampled"] = "all"
    difference: Weights | None = None
    slope: Weights | None = Field(default=None, min_length=3)
    best: str | None = None
    among: tuple[str, ...] = ()

    @property
    def unit(self) -> tuple[int, str]:
        """What an estimate is multiplied by to be shown, and its unit."""
        return (1, UNITS[self.of]) if self.of in UNITS else (100, "points")

    def contrasts(self) -> list[Weights]:
        """Weights of arms: one contrast, or for ``best`` one against each of the others."""
        if self.best:
            return [{self.best: 1.0, other: -1.0} for other in self.among]
        if self.slope is None:
            return [self.difference or {}]
        places = list(self.slope.values())
        mean, span = fmean(places), max(places) - min(places)
        spread = sum((x - mean) ** 2 for x in places)
        return [{arm: (x - mean) / spread * span for arm, x in self.slope.items()}]

    def arms(self) -> list[str]:
        """The arms that must be there, without what follows a slash."""
        named = [key.partition("/")[0] for weights in self.contrasts() for key in weights]
        return list(dict.fromkeys(named))


class Quoted(BaseModel, extra="forbid", frozen=True):
    """The paper's words, and its difference in points of LC where it has one."""

    words: str
    value: float | None = None


class Claim(BaseModel, extra="forbid", frozen=True):
    """A claim of the paper, or a control of ours, with its test or why there is none."""

    id: str = Field(pattern=r"^[a-z0-9-]+$")
    statement: str
    where: str
    paper: Quoted
    test: Comparison | None = None
    direction: Literal["above", "below"] = "above"
    confirmatory: bool = False
    untested: str | None = None
    figure: str

    @property
    def sign(self) -> int:
        """1 where the claim puts the estimate above 0, otherwise -1."""
        return 1 if self.direction == "above" else -1


class Change(BaseModel, extra="forbid", frozen=True):
    """A change of the plan after it was first committed: its hash before, what changed and why."""

    was: str = Field(pattern="^[0-9a-f]{64}$")
    what: str
    why: str


class Plan(BaseModel, extra="forbid", frozen=True):
    """All claims, the seeds they are judged on, and the smallest difference that matters."""

    schema_: int = Field(alias="schema")
    delta: float | None = Field(gt=0)
    reference: Weights
    reference_lc: float
    seeds: tuple[int, ...]
    changes: tuple[Change, ...]
    claims: tuple[Claim, ...]
    sha256: str


def read_plan(path: Path = PLAN) -> Plan:
    """The plan in ``path``; what is wrong with it is pydantic's error."""
    return Plan(**read_yaml(path), sha256=file_hash(path))
