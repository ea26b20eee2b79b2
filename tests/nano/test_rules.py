"""The world leaves room for fusion: the rules it was built to, on development seeds only."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from wrpo_lib.nano.arms import Stage
from wrpo_lib.nano.development import for_development, grid, headroom
from wrpo_lib.nano.rules import RULES, broken, rank_correlation
from wrpo_lib.nano.runner import stages
from wrpo_lib.nano.world import World
from wrpo_lib.records import read_results


@pytest.mark.slow
def test_ten_development_worlds_keep_the_rules(recipe: dict, tmp_path: Path) -> None:
    """Ten worlds' target and sources from scratch, two kinds of SFT: about twenty minutes."""
    parts = stages(for_development(recipe), tmp_path)
    table = pd.concat([headroom(stage) for stage in parts])
    assert len(table) == 10
    assert not broken(table), table.to_string()


def test_the_tracked_development_worlds_keep_the_rules() -> None:
    assert not broken(read_results("development", "headroom"))


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


def test_every_method_has_as_many_points(recipe: dict, tmp_path: Path) -> None:
    points = pd.Series(list(grid(recipe))).str.partition("/")[0].value_counts()
    assert points.drop("alpha").nunique() == 1
    stage = Stage([World(100, for_development(recipe))], tmp_path)
    rates = {arm.settings["learning_rate"] for arm in stage.arms.values()}
    assert rates >= set(recipe["development"]["grid"]["wrpo"]["learning_rate"])


@pytest.mark.parametrize("name", ["dpo_on", "ipo_on", "simpo_on"])
def test_the_settings_are_the_baselines_best_and_not_on_the_edge(
    recipe: dict, name: str, tmp_path: Path
) -> None:
    used = Stage([World(100, recipe)], tmp_path).arms[name].settings
    tried = recipe["development"]["grid"][name]
    rows = read_results("development", "grid").query("method == @name and arm != @name")
    best = rows.groupby("arm")["sampled"].mean().idxmax()
    assert best == "/".join([name, *(f"{used[field]:g}" for field in tried)])
    assert all(min(values) < used[field] < max(values) for field, values in tried.items())


def test_the_chosen_alpha_is_the_best_and_not_on_the_edge(recipe: dict) -> None:
    means = read_results("development", "grid").query("method == 'alpha'").groupby("alpha")
    best = means["sampled"].mean().idxmax()
    assert best == recipe["arms"]["wrpo"]["alpha"]
    assert min(recipe["development"]["alpha"]) < best < max(recipe["development"]["alpha"])
