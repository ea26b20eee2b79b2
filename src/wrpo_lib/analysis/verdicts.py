"""What the tracked results say of each claim of the plan. The paper has no tests; all is ours."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
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
    """A claim, its status, what that leaves out (a sentence or none), and what was found.

    ``adjusted``: the interval that excludes 0 exactly where the corrected ``p`` is below 0.05.
    """

    claim: Claim
    status: str
    remark: str
    found: Found | None = None
    adjusted: Estimate | None = None
    p: float = 1.0

    def ours(self) -> str:
        """Our estimate with its adjusted interval, in the unit it is shown in."""
        if self.adjusted is None or self.claim.test is None:
            return ""
        factor, unit = self.claim.test.unit
        return f"{self.adjusted.times(factor).text(1 if factor > 1 else 2)} {unit}"


def holm(p: Sequence[float]) -> np.ndarray:
    """Holm's adjusted p, in the order given."""
    order = np.argsort(p)
    steps = np.asarray(p)[order] * np.arange(len(p), 0, -1)
    adjusted = np.empty(len(p))
    adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1)
    return adjusted


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
    if results.plan.delta is None:
        raise WRPOError("paper/claims.yml has no delta; fill it in from the development seeds")
    claims = results.plan.claims
    tests = {c.id: _decided(results, c, c.test) for c in claims if c.test}
    corrected: dict[str, float] = {}
    for confirmatory, correct in ((True, holm), (False, stats.false_discovery_control)):
        ids = [c.id for c in claims if c.test and c.confirmatory == confirmatory]
        if ids:
            corrected |= dict(
                zip(ids, map(float, correct([tests[i][1] for i in ids])), strict=True)
            )
    return [
        _verdict(results, claim, claim.test, tests[claim.id][0], corrected[claim.id])
        if claim.test
        else Verdict(claim, "not tested", f"{claim.untested}.".capitalize())
        for claim in claims
    ]


def _decided(results: Results, claim: Claim, test: Comparison) -> tuple[Found, float]:
    """The estimate that decides a claim, and its p before the correction over claims.

    Of several contrasts (``best``) the least convincing decides. Against the claim it was picked as
    the worst of several, so there its p is multiplied by their number.
    """
    found = [results.find(weights, test.of, test.prompts) for weights in test.contrasts()]
    least = min(found, key=lambda f: claim.sign * f.t)
    picked = len(found) if claim.sign * least.value < 0 else 1
    return least, min(1.0, picked * least.p)


def _verdict(results: Results, claim: Claim, test: Comparison, found: Found, p: float) -> Verdict:
    delta = results.plan.delta if test.of in SHARES else None
    word, said = status(claim, found, p, delta), []
    if word == "inconclusive" and (least := detectable(found.interval())):
        factor, unit = test.unit
        said.append(f"{factor * least:.2g} {unit} would be found in 80 % of such studies.")
    if p < 0.05 and within(found, delta):
        said.append("The effect is there and smaller than δ.")
    said += _share(results, claim, test)
    if diverged := sum(results.diverged.get(arm, 0) for arm in test.arms()):
        said.append(f"Diverged runs, kept in it: {diverged}.")
    adjusted = found.interval(1 - 0.05 * found.p / p if p else 0.95)
    return Verdict(claim, word, " ".join(said), found, adjusted, p)


def _share(results: Results, claim: Claim, test: Comparison) -> list[str]:
    """Ours as a share of the reference's gain (delta method), where the paper has one too."""
    (weights, *more), reference = test.contrasts(), results.plan.reference
    if claim.paper.value is None or more or weights == reference:
        return []
    gain, base = results.find(weights), results.find(reference)
    ratio, arms = gain.value / base.value, weights | reference
    rest = {arm: weights.get(arm, 0) - ratio * reference.get(arm, 0) for arm in arms}
    ours = Found(ratio, results.find(rest).se / abs(base.value), gain.n).interval()
    theirs = claim.paper.value / results.plan.reference_lc
    verb = "covers" if ours.low <= theirs <= ours.high else "does not cover"
    share = f"As a share of the gain of DPO-on over Target-SFT: {ours.text()}"
    return [f"{share}, which {verb} the paper's {signed(theirs)}."]


def verdict_table(found: Sequence[Verdict]) -> pd.DataFrame:
    """A row per claim: what ``results/<profile>/verdicts.csv`` tracks."""
    rows = []
    for v in found:
        row: dict[str, Any] = {"id": v.claim.id, "confirmatory": v.claim.confirmatory}
        row |= {"status": v.status, "remark": v.remark}
        if v.found and v.adjusted:
            row |= {"value": v.found.value, "standard_error": v.found.se, "worlds": v.found.n}
            row |= {"low": v.adjusted.low, "high": v.adjusted.high, "p_adjusted": v.p}
        rows.append(row)
    return pd.DataFrame(rows).round(6)
