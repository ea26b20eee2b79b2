"""The claims and their tests (``claims.yml``), checked: the plan that results are judged by."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from wrpo_lib.errors import WRPOError
from wrpo_lib.io import file_hash
from wrpo_lib.recipes import read_yaml

Number = Annotated[float, BeforeValidator(lambda text: float(Fraction(str(text))))]
"""A number, or a fraction such as 1/3."""

Weights = dict[str, Number]
Outcome = Literal["right", "greedy", "any5", "style", "length", "repeats"]
Dynamic = Literal["margin", "reward_ws", "reward_wt", "reward_l", "accuracy", "accuracy_wt"]
Judged = Literal["alpaca_eval", "arena_hard", "mt_bench"]
PLAN = Path(__file__).with_name("claims.yml")
JUDGED = {"alpaca_eval": (100, "points"), "arena_hard": (100, "points"), "mt_bench": (1, "of ten")}
"""The protocols in which the nano judge compares answers, with the units they are shown in."""

SHARES = ("right", "greedy", "any5")
"""Measures of correctness, to which the plan's ``delta`` applies."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Comparison(_Strict):
    """What is measured on which prompts, and the weights of the arms that it compares.

    The keys of weights are arms; for ``logp`` they are ``model/whose``.
    """

    of: Outcome | Dynamic | Judged | Literal["logp"] = "right"
    prompts: Literal["all", "A", "B", "C", "D", "unsampled"] = "all"
    difference: Weights | None = None
    slope: Weights | None = Field(default=None, min_length=3)
    best: str | None = None
    among: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _one_kind(self) -> Comparison:
        kinds = [self.difference, self.slope, self.best]
        if sum(kind is not None for kind in kinds) != 1 or bool(self.among) != bool(self.best):
            raise ValueError("give one of difference, slope, or best with among")
        return self

    @property
    def unit(self) -> tuple[int, str]:
        """What an estimate is multiplied by to be shown, and its unit."""
        if self.of in ("right", "greedy", "any5", "style", "repeats", "accuracy", "accuracy_wt"):
            return 100, "points"
        if self.of in JUDGED:
            return JUDGED[self.of]
        return 1, {"logp": "nats", "length": "tokens"}.get(self.of, "of reward")

    def contrasts(self) -> list[Weights]:
        """Weights of arms: one contrast, or for ``best`` one against each of the others."""
        if self.best:
            return [{self.best: 1.0, other: -1.0} for other in self.among]
        if self.slope is None:
            return [self.difference or {}]
        mean = sum(self.slope.values()) / len(self.slope)
        spread = sum((x - mean) ** 2 for x in self.slope.values())
        span = max(self.slope.values()) - min(self.slope.values())
        return [{arm: (x - mean) / spread * span for arm, x in self.slope.items()}]

    def arms(self) -> list[str]:
        """The arms that must be there, without what follows a slash."""
        named = [key.partition("/")[0] for weights in self.contrasts() for key in weights]
        return list(dict.fromkeys(named))


class Quoted(_Strict):
    """The paper's words, and its difference in points of LC where it has one."""

    words: str
    value: float | None = None


class Claim(_Strict):
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

    @model_validator(mode="after")
    def _tested_or_not(self) -> Claim:
        if (self.test is None) == (self.untested is None):
            raise ValueError("give a test, or say under untested why there is none")
        if self.confirmatory and self.test is None:
            raise ValueError("a confirmatory claim needs a test")
        return self

    @property
    def sign(self) -> int:
        """1 where the claim puts the estimate above 0, otherwise -1."""
        return 1 if self.direction == "above" else -1


class Change(_Strict):
    """A change of the plan after it was first committed: its hash before, what changed and why."""

    was: str = Field(pattern="^[0-9a-f]{64}$")
    what: str
    why: str


class Plan(_Strict):
    """All claims, the seeds they are judged on, and the smallest difference that matters."""

    schema_: int = Field(alias="schema")
    delta: float | None = Field(gt=0)
    reference: Weights
    reference_lc: float
    seeds: tuple[int, ...]
    changes: tuple[Change, ...]
    claims: tuple[Claim, ...]
    sha256: str

    @model_validator(mode="after")
    def _distinct(self) -> Plan:
        ids = [claim.id for claim in self.claims]
        if twice := {name for name in ids if ids.count(name) > 1}:
            raise ValueError(f"the id {min(twice)!r} stands twice")
        return self

    def accepts(self, sha256: str | None) -> bool:
        """Whether results made with the plan of that hash are results of this one."""
        return sha256 in {self.sha256, *(change.was for change in self.changes)}

    def claim(self, name: str) -> Claim:
        """The claim of that id."""
        return next(claim for claim in self.claims if claim.id == name)


def read_plan(path: Path = PLAN) -> Plan:
    """The plan in ``path``.

    :raises WRPOError: names the file, the claim and the field that is wrong.
    """
    values: dict[str, Any] = read_yaml(path)
    try:
        return Plan(**values, sha256=file_hash(path))
    except ValidationError as error:
        found = error.errors()[0]
        where = [str(part) for part in found["loc"]]
        if where[:1] == ["claims"] and len(where) > 1:
            where[1] = str(values["claims"][int(where[1])].get("id", where[1]))
        what = found["msg"].removeprefix("Value error, ")
        raise WRPOError(f"{path}: {'.'.join(where) or 'plan'}: {what}; correct it") from error
