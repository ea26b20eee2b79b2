"""What the tracked results say of each claim of the plan. The paper has no tests; all is ours."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from wrpo_lib.analysis.outcomes import Found, Results
from wrpo_lib.analysis.statistics import Estimate, detectable, signed
from wrpo_lib.errors import WRPOError
from wrpo_lib.paper.plan import SHARES, Claim, Comparison


@dataclass(frozen=True)
class Verdict:
    """A claim, what was found, and what that says of it.

    ``adjusted``: the interval that excludes 0 exactly where the corrected p is below 0.05.
    ``ratio``: ours as a share of the gain of DPO-on over Target-SFT, where the paper has one too.
    ``small``: the 90 % interval lies within ±δ, whatever the status is.
    ``diverged``: how many runs behind the estimate diverged; they are kept in it.
    """

    claim: Claim
    status: str
    found: Found | None = None
    adjusted: Estimate | None = None
    p: float = 1.0
    ratio: Estimate | None = None
    paper_ratio: float | None = None
    small: bool = False
    diverged: int = 0

    def ours(self) -> str:
        """Our estimate with its adjusted interval, in the unit it is shown in."""
        return shown(self.claim.test, self.adjusted) if self.adjusted else ""

    def remark(self) -> str:
        """What the status leaves out, in a sentence or none."""
        test = self.claim.test
        if self.found is None or test is None:
            return f"{self.claim.untested}.".capitalize()
        said = []
        if self.status == "inconclusive" and (least := detectable(self.found.interval())):
            factor, unit = test.unit
            said.append(f"{factor * least:.2g} {unit} would be found in 80 % of such studies.")
        if self.small and self.status in ("reproduced", "contradicted"):
            said.append("The effect is there and smaller than δ.")
        if self.ratio and self.paper_ratio is not None:
            covers = self.ratio.low <= self.paper_ratio <= self.ratio.high
            verb = "covers" if covers else "does not cover"
            said.append(
                f"As a share of the gain of DPO-on over Target-SFT: {self.ratio.text()}, which "
                f"{verb} the paper's {signed(self.paper_ratio)}."
            )
        if self.diverged:
            said.append(f"Diverged runs, kept in it: {self.diverged}.")
        return " ".join(said)


def shown(test: Comparison | None, found: Estimate) -> str:
    """An estimate with its interval and unit."""
    factor, unit = test.unit if test else (1, "")
    scaled = replace(found, **{k: factor * getattr(found, k) for k in ("value", "low", "high")})
    return f"{scaled.text(1 if factor > 1 else 2)} {unit}"


def holm(p: Sequence[float]) -> np.ndarray:
    """Holm's adjusted p, in the order given."""
    order = np.argsort(p)
    steps = np.asarray(p)[order] * np.arange(len(p), 0, -1)
    adjusted = np.empty(len(p))
    adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1)
    return adjusted


def decided(results: Results, claim: Claim, test: Comparison) -> tuple[Found, float]:
    """The estimate that decides a claim, and its p before the correction over claims.

    Of several contrasts (``best``) the least convincing decides. Against the claim it was picked as
    the worst of several, so there its p is multiplied by their number.
    """
    found = [results.find(weights, test.of, test.prompts) for weights in test.contrasts()]
    least = min(found, key=lambda f: claim.sign * f.t)
    picked = len(found) if claim.sign * least.value < 0 else 1
    return least, min(1.0, picked * least.p)


def status(claim: Claim, found: Found, p: float, delta: float | None) -> str:
    """One of four words for an estimate, given its corrected p and the size that matters."""
    if p < 0.05:
        return "reproduced" if claim.sign * found.value > 0 else "contradicted"
    return "smaller than δ" if within(found, delta) else "inconclusive"


def within(found: Found, delta: float | None) -> bool:
    """Whether the 90 % interval lies within ±``delta``: two one-sided 5 % tests of a large effect.

    Without a ``delta`` nothing does.
    """
    ninety = found.interval(0.9)
    return delta is not None and -delta < ninety.low and ninety.high < delta


def verdicts(results: Results) -> list[Verdict]:
    """A verdict for each claim, in the plan's order."""
    plan = results.plan
    if plan.delta is None:
        raise WRPOError("paper/claims.yml has no delta; fill it in from the development seeds")
    corrected: dict[str, float] = {}
    tests = {c.id: decided(results, c, c.test) for c in plan.claims if c.test}
    for confirmatory, correct in ((True, holm), (False, stats.false_discovery_control)):
        ids = [c.id for c in plan.claims if c.id in tests and c.confirmatory == confirmatory]
        if ids:
            corrected |= dict(zip(ids, correct([tests[i][1] for i in ids]), strict=True))
    return [
        _verdict(results, claim, claim.test, tests[claim.id][0], float(corrected[claim.id]))
        if claim.test
        else Verdict(claim, "not tested")
        for claim in plan.claims
    ]


def verdict_table(found: Sequence[Verdict]) -> pd.DataFrame:
    """A row per claim: what ``results/<profile>/verdicts.csv`` tracks."""
    rows = []
    for v in found:
        row: dict[str, Any] = {"id": v.claim.id, "confirmatory": v.claim.confirmatory}
        row |= {"status": v.status, "remark": v.remark()}
        if v.found and v.adjusted:
            row |= {"value": v.found.value, "standard_error": v.found.se, "worlds": v.found.n}
            row |= {"low": v.adjusted.low, "high": v.adjusted.high, "p_adjusted": v.p}
        rows.append(row)
    return pd.DataFrame(rows).round(6)


def _verdict(results: Results, claim: Claim, test: Comparison, found: Found, p: float) -> Verdict:
    delta = results.plan.delta if test.of in SHARES else None
    diverged = sum(len(results.diverged.get(arm, [])) for arm in test.arms())
    return Verdict(
        claim,
        status(claim, found, p, delta),
        found,
        found.interval(1 - 0.05 * found.p / p if p else 0.95),
        p,
        small=within(found, delta),
        diverged=diverged,
        **_ratios(results, claim, test),
    )


def _ratios(results: Results, claim: Claim, test: Comparison) -> dict[str, Any]:
    """Gain over the reference's gain: ours, with a delta-method interval, and the paper's."""
    (weights, *more), reference = test.contrasts(), results.plan.reference
    if claim.paper.value is None or more or weights == reference:
        return {}
    gain, base = results.find(weights), results.find(reference)
    ratio, arms = gain.value / base.value, weights | reference
    rest = {arm: weights.get(arm, 0) - ratio * reference.get(arm, 0) for arm in arms}
    ours = Found(ratio, results.find(rest).se / abs(base.value), gain.n)
    return {"ratio": ours.interval(), "paper_ratio": claim.paper.value / results.plan.reference_lc}
