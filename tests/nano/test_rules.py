"""The world leaves room for fusion: the rules it was built to, on development seeds only."""

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from wrpo_lib.analysis.report import world_rules
from wrpo_lib.nano.arms import Stage
from wrpo_lib.nano.runner import for_development, headroom, stages
from wrpo_lib.nano.world import World
from wrpo_lib.records import read_results


def broken(table: pd.DataFrame) -> list[str]:
    """The rules that a headroom table does not keep, on the mean over its worlds."""
    means = table.mean()
    return [name for name, (low, high) in world_rules().items() if not low <= means[name] <= high]


@pytest.mark.slow
def test_ten_development_worlds_keep_the_rules(recipe: dict[str, Any], tmp_path: Path) -> None:
    """Ten worlds' target and sources from scratch, two kinds of SFT: about twenty minutes."""
    parts = stages(for_development(recipe), tmp_path)
    table = pd.concat([headroom(stage) for stage in parts])
    assert len(table) == 10
    assert not broken(table), table.to_string()


def test_the_tracked_development_worlds_keep_the_rules() -> None:
    table = read_results("development", "headroom")
    assert not broken(table)
    assert broken(table.assign(b_pass5=0.3)) == ["b_pass5"]


def test_every_method_has_as_many_points(recipe: dict[str, Any], tmp_path: Path) -> None:
    arms = Stage([World(100, for_development(recipe))], tmp_path).arms
    points = pd.Series([name.partition("/")[0] for name in arms if "/" in name]).value_counts()
    assert points.drop("alpha").nunique() == 1
    rates = {arm.settings["learning_rate"] for arm in arms.values()}
    assert rates >= set(recipe["development"]["grid"]["wrpo"]["learning_rate"])


@pytest.mark.parametrize("name", ["dpo_on", "ipo_on", "simpo_on", "alpha"])
def test_the_settings_are_the_best_and_not_on_the_edge(
    recipe: dict[str, Any], name: str, tmp_path: Path
) -> None:
    """The form's settings are the baseline's best, alpha is WRPO's."""
    arms = Stage([World(100, recipe)], tmp_path).arms
    used, tried = {"alpha": arms["wrpo"].alpha}, {"alpha": recipe["development"]["alpha"]}
    if name != "alpha":
        used, tried = arms[name].settings, recipe["development"]["grid"][name]
    rows = read_results("development", "grid").query("method == @name and arm != @name")
    best = rows.groupby("arm")["sampled"].mean().idxmax()
    assert best == "/".join([name, *(f"{used[field]:g}" for field in tried)])
    assert all(min(values) < used[field] < max(values) for field, values in tried.items())
