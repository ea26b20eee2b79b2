"""The world leaves room for fusion: the rules it was built to, on development seeds only."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from wrpo_lib.nano.development import RULES, broken, grid, headroom, rank_correlation
from wrpo_lib.nano.runner import stages


@pytest.mark.slow
def test_ten_development_worlds_keep_the_rules(recipe: dict, tmp_path: Path) -> None:
    """Ten worlds' target and sources from scratch, two kinds of SFT: about ten minutes."""
    recipe = recipe | {"seeds": recipe["development"]["seeds"]}
    table = pd.concat([headroom(stage) for stage in stages(recipe, tmp_path)])
    assert len(table) == 10
    assert not broken(table), table.to_string()


def test_a_rule_that_is_not_kept_is_named() -> None:
    kept = {name: [max(low, 0.0) / 2 + min(high, 3.0) / 2] for name, (low, high) in RULES.items()}
    assert not broken(pd.DataFrame(kept))
    kept["b_pass5"] = [0.3]
    assert broken(pd.DataFrame(kept)) == ["b_pass5 is 0.300, not between 0.0 and 0.1"]


def test_the_rank_correlation_is_spearmans_mean_over_prompts_that_differ() -> None:
    truth = np.array([[0.0, 0.5, 1.0], [1.0, 1.0, 1.0], [0.0, 0.5, 1.0]])
    rewards = np.array([[0.1, 0.2, 0.3], [0.3, 0.1, 0.2], [0.3, 0.2, 0.1]])
    assert rank_correlation(truth, rewards) == 0
    assert rank_correlation(truth[:2], rewards[:2]) == pytest.approx(1)


def test_every_method_has_as_many_points(recipe: dict) -> None:
    points = Counter(name.partition("/")[0] for name in grid(recipe))
    assert points.pop("alpha") == len(recipe["development"]["alpha"])
    assert set(points) == set(recipe["development"]["grid"])
    assert len(set(points.values())) == 1
