"""The study's tracked results, estimates over worlds, and what they say of each claim (ours).

A world (seed) is the unit. An estimate is a weighted sum of arms, prompt by prompt, averaged within
each world and then over worlds. Its standard error is the larger of that over worlds and that of a
bootstrap of worlds and then of prompts within them; for a mean the latter has a closed form.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from wrpo_lib.analysis.statistics import Estimate, detectable, signed
from wrpo_lib.errors import WRPOError
from wrpo_lib.paper import JUDGED, SHARES, Claim, Comparison, Plan, Weights, read_plan
from wrpo_lib.records import read_results, read_run

COUNTS = ("right", "style", "length", "repeats")  # totals over ``n`` samples in the outcomes


@dataclass(frozen=True)
class Found:
    """An estimate over ``n`` worlds with its standard error."""

    value: float
    se: float
    n: int

    def interval(self, level: float = 0.95) -> Estimate:
        """The t interval with n - 1 degrees of freedom."""
        half = float(stats.t.ppf((1 + level) / 2, self.n - 1)) * self.se
        how = f"{100 * level:.4g} % t interval over worlds"
        return Estimate(self.value, self.value - half, self.value + half, self.n, self.n, how)

    def within(self, delta: float | None) -> bool:
        """Whether the 90 % interval lies within ±``delta`` (two one-sided 5 % tests)."""
        ninety = self.interval(0.9)
        return delta is not None and -delta < ninety.low and ninety.high < delta

    @property
    def t(self) -> float:
        """Value in standard errors; 0 if every value is 0, huge if all are the same otherwise."""
        return self.value / self.se if self.se else float(np.sign(self.value)) * 1e9

    @property
    def p(self) -> float:
        """Two-sided p of no difference."""
        return float(2 * stats.t.sf(abs(self.t), self.n - 1))


def estimate(values: pd.Series) -> Found:
    """Mean over worlds of the means within them; ``values`` are indexed by ``seed`` first."""
    worlds = values.groupby(level="seed")
    means = worlds.mean()
    within = (worlds.var(ddof=0) / worlds.size()).mean()
    over = means.var(ddof=1) / len(means)
    bootstrap = (means.var(ddof=0) + within) / len(means)
    return Found(float(means.mean()), float(np.sqrt(max(over, bootstrap))), len(means))


class Results:
    """The tracked results of a study, checked against its plan.

    ``outcomes``: a row per (arm, seed, prompt) with what the answers to a held-out prompt are like;
    ``diverged``: how often an arm did, whose runs stay in every estimate.

    :raises WRPOError: if they belong to another plan or schema, lack a seed, or were edited.
    """

    def __init__(self, profile: str = "nano", plan: Plan | None = None) -> None:
        self.profile, self.plan, self.run = profile, plan or read_plan(), read_run(profile)
        hashes = {self.plan.sha256, *(change.was for change in self.plan.changes)}
        if self.run.get("plan") not in hashes:
            what = f"the results of {profile!r} were made with another plan than paper/claims.yml"
            raise WRPOError(f"{what}; run `make results`, or enter the change under its `changes`")
        self._wide: dict[str, pd.DataFrame] = {}
        self.outcomes = self.table("outcomes")
        self.diverged = self.table("arms").groupby("arm")["diverged"].sum().to_dict()
        for arm, own in self.outcomes.groupby("arm")["seed"].unique().items():
            if odd := set(self.plan.seeds) ^ set(own):
                what = f"the outcomes of {profile!r} and the plan differ in seed {min(odd)}"
                raise WRPOError(f"{what} of arm {arm!r}; run `make results`")

    def table(self, name: str) -> pd.DataFrame:
        """One tracked table, its categories as text."""
        rows = read_results(self.profile, name)
        return rows.astype(dict.fromkeys(rows.select_dtypes("category"), str))

    def wide(self, of: str, prompts: str = "all") -> pd.DataFrame:
        """A row per (seed, prompt or response) and a column per arm, of the measure ``of`` on
        ``prompts``: all, a class of skills, or ``unsampled``. Measures of training are means over
        the last tenth of the steps on held-out quadruples."""
        if of not in self._wide:
            index, value = ["seed"], of
            if of == "logp":
                rows, index = self.table("deviation"), ["seed", "response"]
                rows["arm"] = rows["model"] + "/" + rows["whose"]
            elif of in JUDGED:
                rows = self.table("judged").query("protocol == @of")
                index, value = ["seed", "question_id"], "value"
            elif of in (*SHARES, *COUNTS):
                rows, index = self.outcomes, ["seed", "prompt", "class"]
                rows = rows.assign(**{of: rows[of] / rows["n"]}) if of in COUNTS else rows
            else:
                rows = self.table("dynamics").query("split == 'heldout'")
                late = rows["step"] > 0.9 * rows.groupby(["arm", "seed"])["step"].transform("max")
                rows = rows[late].groupby(["seed", "arm"], as_index=False)[of].mean()
            self._wide[of] = rows.pivot(index=index, columns="arm", values=value)
        wide = self._wide[of]
        if prompts == "unsampled":
            return wide[self.wide("any5")["target_sft"] == 0]
        return wide if prompts == "all" else wide.xs(prompts, level="class", drop_level=False)

    def find(self, weights: Weights, of: str = "right", prompts: str = "all") -> Found:
        """The estimate of a weighted sum of arms."""
        wide = self.wide(of, prompts)
        if lacking := set(weights) - set(wide):
            raise WRPOError(f"the results lack the arm {min(lacking)!r}; run `make results`")
        values = wide[list(weights)] @ np.array(list(weights.values()))
        return estimate(values.round(12))  # what cancels is 0, not a rounding error

    def levels(self, arms: Sequence[str], of: str = "right", prompts: str = "all") -> pd.DataFrame:
        """A row per arm: its mean ``of`` with a 95 % interval, as :meth:`differences` has it."""
        rows = self.differences({arm: {arm: 1.0} for arm in arms}, of, prompts)
        most = np.inf if of in ("length", "mt_bench") else 100
        return rows.assign(low=rows["low"].clip(0), high=rows["high"].clip(upper=most))

    def differences(
        self, contrasts: Mapping[str, Weights], of: str = "right", prompts: str = "all"
    ) -> pd.DataFrame:
        """A row per contrast, named in the column ``arm``, in points of per cent with 95 %
        intervals; lengths in tokens, MT-Bench on its scale of ten."""
        found = {name: self.find(weights, of, prompts) for name, weights in contrasts.items()}
        return spread(found, 1 if of in ("length", "mt_bench") else 100)


def spread(found: Mapping[str, Found], times: float = 100) -> pd.DataFrame:
    """A row per estimate (arm, value, low, high) with its 95 % interval, ``times`` as large."""
    intervals = ((name, estimate.interval()) for name, estimate in found.items())
    rows = [(name, times * i.value, times * i.low, times * i.high) for name, i in intervals]
    return pd.DataFrame(rows, columns=["arm", "value", "low", "high"])


@dataclass(frozen=True)
class Verdict:
    """A claim, its status, what that leaves out, and what was found; ``adjusted``: the interval
    that excludes 0 exactly where the corrected ``p`` is below 0.05."""

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
    ordered = pd.Series(p).sort_values()
    steps = ordered * np.arange(len(p), 0, -1)
    return steps.cummax().clip(upper=1).sort_index().to_numpy()


def status(claim: Claim, found: Found, p: float, delta: float | None) -> str:
    """One of four words for an estimate, given its corrected p and the size that matters."""
    if p < 0.05:
        return "reproduced" if claim.sign * found.value > 0 else "contradicted"
    return "smaller than δ" if found.within(delta) else "inconclusive"


def verdicts(results: Results) -> list[Verdict]:
    """A verdict for each claim, in the plan's order.

    Of several contrasts (``best``) the least convincing decides; where it is against the claim, its
    p is multiplied by their number before the correction over claims.
    """
    if results.plan.delta is None:
        raise WRPOError("paper/claims.yml has no delta; fill it in from the development seeds")
    told: dict[str, Verdict] = {}
    tested: dict[bool, list[tuple[Claim, Comparison, Found, float]]] = {True: [], False: []}
    for claim in results.plan.claims:
        told[claim.id] = Verdict(claim, "not tested", f"{claim.untested}.".capitalize())
        if test := claim.test:
            against = [results.find(weights, test.of, test.prompts) for weights in test.contrasts()]
            least = min(against, key=lambda f: claim.sign * f.t)
            picked = len(against) if claim.sign * least.value < 0 else 1
            tested[claim.confirmatory].append((claim, test, least, min(1.0, picked * least.p)))
    for confirmatory, correct in ((True, holm), (False, stats.false_discovery_control)):
        adjusted = correct([p for *_, p in tested[confirmatory]])
        for (claim, test, found, _), p in zip(tested[confirmatory], adjusted, strict=True):
            told[claim.id] = _verdict(results, claim, test, found, float(p))
    return list(told.values())


def _verdict(results: Results, claim: Claim, test: Comparison, found: Found, p: float) -> Verdict:
    delta = results.plan.delta if test.of in SHARES else None
    word, said = status(claim, found, p, delta), []
    if word == "inconclusive" and (least := detectable(found.interval())):
        factor, unit = test.unit
        said.append(f"{factor * least:.2g} {unit} would be found in 80 % of such studies.")
    if p < 0.05 and found.within(delta):
        said.append("The effect is there and smaller than δ.")
    (weights, *more), reference = test.contrasts(), results.plan.reference
    if claim.paper.value is not None and not more and weights != reference:
        # as a share of the reference's gain (delta method), where the paper has one too
        gain, base = results.find(weights), results.find(reference)
        ratio, arms = gain.value / base.value, weights | reference
        rest = {arm: weights.get(arm, 0) - ratio * reference.get(arm, 0) for arm in arms}
        ours = Found(ratio, results.find(rest).se / abs(base.value), gain.n).interval()
        theirs = claim.paper.value / results.plan.reference_lc
        verb = "covers" if ours.low <= theirs <= ours.high else "does not cover"
        share = f"As a share of the gain of DPO-on over Target-SFT: {ours.text()}"
        said.append(f"{share}, which {verb} the paper's {signed(theirs)}.")
    if diverged := sum(results.diverged.get(arm, 0) for arm in test.arms()):
        said.append(f"Diverged runs, kept in it: {diverged}.")
    adjusted = found.interval(1 - 0.05 * found.p / p if p else 0.95)
    return Verdict(claim, word, " ".join(said), found, adjusted, p)


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
