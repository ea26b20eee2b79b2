"""Claims are judged as the plan says: known effects get the right words at the stated rate."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from statsmodels.stats.multitest import multipletests
from study_results import write_study

from wrpo_lib.analysis.outcomes import Found, Results, Verdict, estimate, holm, status, verdicts
from wrpo_lib.errors import WRPOError
from wrpo_lib.paper import PLAN, Plan, read_plan
from wrpo_lib.records import read_results

SEEDS = tuple(range(1, 11))
DELTA = 0.02


def changed_plan(path: Path, **changes: Any) -> Plan:
    """The plan with a delta and other values at the top."""
    values = yaml.safe_load(PLAN.read_text("utf-8")) | {"delta": DELTA} | changes
    path.write_text(yaml.safe_dump(values, allow_unicode=True), "utf-8")
    return read_plan(path)


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Writes a study with the levels given and judges it."""

    def made(level: dict[str, float], **changes: Any) -> dict[str, Verdict]:
        plan = changed_plan(tmp_path / "claims.yml", **changes)
        write_study(tmp_path, level, plan)
        monkeypatch.setenv("WRPO_HOME", str(tmp_path))
        return {v.claim.id: v for v in verdicts(Results(plan=plan))}

    return made


def test_planted_effects_are_told_apart(study: Any) -> None:
    level = {"target": 0.3, "target_sft": 0.35, "dpo_on": 0.5, "wrpo": 0.6, "dpo_hybrid": 0.3}
    level |= {f"wrpo_k{k}": 0.6 - 0.02 * (6 - k) for k in (1, 2, 3)}
    level |= {"target_dpo_on": 0.4, "dpo_off": 0.5}
    found = study(level)
    for claim in ("wrpo", "preference", "hybrid", "more-sources", "hybrid-margin", "deviation"):
        assert found[claim].status == "reproduced", claim
        assert found[claim].adjusted.low > 0
    assert found["off-policy"].status == "contradicted"
    assert found["off-policy"].adjusted.high < 0
    assert found["wrpo"].found.value == pytest.approx(0.1, abs=0.02)
    assert found["explicit-fusion"].status == "not tested"
    assert "vocabularies" in found["explicit-fusion"].remark
    assert "Diverged runs, kept in it: 1." in found["alpha-slope"].remark
    assert "iverged" not in found["wrpo"].remark
    assert found["alpha-accuracy-own"].found.value == 0  # the same for all: no rounding error
    _, low, high = map(float, re.findall(r"\d\.\d+", found["wrpo"].remark)[:3])
    assert low < 0.1 / 0.15 < high
    assert "the paper's 0.22." in found["wrpo"].remark  # 5.2 / 23.5


@pytest.mark.parametrize(
    ("effect", "spread", "expected"),
    [
        *[(0.05, 0.002, "reproduced"), (-0.05, 0.002, "contradicted")],
        *[(0.0, 0.002, "smaller than δ"), (0.0, 0.2, "inconclusive")],
    ],
)
def test_no_difference_and_could_not_tell_are_two_words(
    effect: float, spread: float, expected: str
) -> None:
    claim = next(c for c in read_plan().claims if c.id == "wrpo")
    rng = np.random.default_rng(3)
    index = pd.MultiIndex.from_product([SEEDS, range(50)], names=["seed", "prompt"])
    worlds = pd.Series(rng.normal(effect, spread, len(SEEDS)), index=SEEDS)
    values = pd.Series(rng.normal(0, 0.02, len(index)), index=index)
    found = estimate(values.add(worlds, level="seed"))
    assert status(claim, found, found.p, DELTA) == expected
    assert status(claim, found, found.p, None) != "smaller than δ"  # nats have no delta
    assert found.within(DELTA) == (expected == "smaller than δ")


def test_the_standard_error_is_that_of_worlds_or_of_worlds_and_prompts() -> None:
    """The closed form equals a simulated bootstrap of worlds, then of prompts within them."""
    rng = np.random.default_rng(0)
    index = pd.MultiIndex.from_product([range(6), range(12)], names=["seed", "prompt"])
    values = pd.Series(rng.normal(0, 1, len(index)), index=index)
    table = values.to_numpy().reshape(6, 12)
    table -= table.mean(1, keepdims=True)  # worlds alike: only the prompts vary
    drawn = []
    for _ in range(8000):
        rows = table[rng.integers(6, size=6)]
        drawn.append(np.mean([row[rng.integers(12, size=12)].mean() for row in rows]))
    found = estimate(pd.Series(table.ravel(), index=index))
    assert found.se == pytest.approx(np.std(drawn), rel=0.03)
    alike = pd.Series(np.repeat(np.arange(6.0), 12), index=index)  # prompts alike: worlds alone
    assert estimate(alike).se == pytest.approx(np.arange(6.0).std(ddof=1) / np.sqrt(6))


def test_holm_is_step_down_and_the_adjusted_interval_agrees_with_it() -> None:
    p = np.random.default_rng(1).random(20) ** 3
    assert holm(p) == pytest.approx(multipletests(p, method="holm")[1])
    for value in (0.5, 2.0, 3.0, 6.0):
        found = Found(value, 1.0, 10)
        adjusted = min(1.0, 5 * found.p)
        interval = found.interval(1 - 0.05 * found.p / adjusted)
        assert (interval.low > 0) == (adjusted < 0.05)


def test_results_of_another_plan_seed_or_hand_are_refused(study: Any, tmp_path: Path) -> None:
    study({})
    plan = read_plan(tmp_path / "claims.yml")
    other = changed_plan(tmp_path / "other.yml", delta=0.5)
    with pytest.raises(WRPOError, match="made with another plan than"):
        Results(plan=other)
    entered = {"was": plan.sha256, "what": "delta", "why": "a slip of the pen"}
    allowed = changed_plan(tmp_path / "other.yml", delta=0.5, changes=[entered])
    assert Results(plan=allowed).plan.changes[0].why == "a slip of the pen"
    more = changed_plan(tmp_path / "more.yml", seeds=[*SEEDS, 11], changes=[entered])
    with pytest.raises(WRPOError, match="differ in seed 11 of arm"):
        Results(plan=more)
    folder = tmp_path / "results" / "nano"
    (folder / "arms.csv").write_text("arm,seed\n")
    with pytest.raises(WRPOError, match=r"arms\.csv differs from what its run\.json records"):
        verdicts(Results(plan=plan))
    record = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps(record | {"schema": 99}))
    with pytest.raises(WRPOError, match="schema 99, this version reads 1"):
        Results(plan=plan)


def test_the_plan_covers_the_paper_and_is_whole() -> None:
    """Every claim has one id, and one test or a reason; each test compares in one way."""
    claims = read_plan().claims
    told = " ".join(claim.where for claim in claims)
    assert all(f"Figure {k}" in told for k in (1, 3, 4, 5, 6))
    for k in (*range(1, 11), 12):  # Table 11 lists model ids
        assert f"Table {k}" in told or f"Tables {k}" in told or f"and {k}" in told
    assert len({claim.id for claim in claims}) == len(claims) >= 24
    for claim in claims:
        assert (claim.test is None) == (claim.untested is not None)
        assert claim.test or not claim.confirmatory
        if test := claim.test:
            kinds = [test.difference, test.slope, test.best]
            assert sum(kind is not None for kind in kinds) == 1
            assert bool(test.among) == bool(test.best)


def test_delta_is_a_tenth_of_the_gain_on_the_development_seeds() -> None:
    right = read_results("development", "grid").pivot(index="seed", columns="arm", values="sampled")
    gain = (right["dpo_on"] - right["target_sft"]).mean()
    assert read_plan().delta == pytest.approx(round(0.1 * gain, 3))
