"""The study end to end in small: every kind of arm, finished steps kept, the tables' form."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import spearmanr
from study_results import write_study

from wrpo_lib.errors import WRPOError
from wrpo_lib.nano import arms, preference, runner
from wrpo_lib.nano.arms import COLLECTIVE, Stage, choose
from wrpo_lib.nano.preference import LS, WS, WT, L, Run, quadruples
from wrpo_lib.nano.runner import develop, for_development
from wrpo_lib.nano.world import Prompt, World
from wrpo_lib.records import read_results

ARMS = (  # one arm of each kind
    *("dpo_on", "dpo_off", "target_dpo_on", "wrpo", "wrpo_simpo", "wrpo_ipo", "wrpo_k1"),
    *("wrpo_dispreferred", "sft_true", "dpo_mix"),
)

Tables = dict[str, pd.DataFrame]


@pytest.fixture(scope="module")
def stage(small: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    few = small | {"arms": {name: small["arms"][name] for name in small["arms"] if name in ARMS}}
    with pytest.MonkeyPatch.context() as patch:  # most of the time would go to the dynamics
        patch.setattr(preference, "PROBE", 6)
        yield Stage([World(seed, few) for seed in (100, 101)], tmp_path_factory.mktemp("arms"))


@pytest.fixture(scope="module")
def tables(stage: Stage) -> Tables:
    return runner.run(stage)


def test_the_tables_have_every_arm_world_and_prompt(stage: Stage, tables: Tables) -> None:
    found = tables["outcomes.parquet"]
    assert len(found) == len(stage.names) * 2 * 24
    assert found.groupby(["arm", "seed"]).size().eq(24).all()
    assert found["right"].between(0, found["n"]).all()
    assert (found["any5"] <= found["right"]).all()
    assert set(tables["dynamics.csv.gz"]["arm"]) == set(ARMS)
    assert set(tables["arms"]["arm"]) == set(found["arm"]) == set(stage.names)
    assert not tables["arms"]["diverged"].any()
    assert tables["headroom"]["seed"].tolist() == [100, 101]
    assert tables["sources"].groupby("seed")["share"].sum().tolist() == pytest.approx([1, 1])
    pool = stage.pool("preference", "target_sft")
    for found, *both in zip(
        tables["headroom"]["rank_correlation"], pool.quality, pool.rewards(0.3), strict=True
    ):  # of prompts whose responses differ
        ours = [spearmanr(*pair)[0] for pair in zip(*both, strict=True) if np.ptp(pair[0])]
        assert found == pytest.approx(np.mean(ours))


def test_the_tables_have_the_columns_that_readers_are_tested_on(
    stage: Stage, tables: Tables, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The invented studies of other tests are in the form of this one."""
    write_study(tmp_path, {})
    monkeypatch.setenv("WRPO_HOME", str(tmp_path))
    for name, table in tables.items():
        assert set(read_results("nano", name.partition(".")[0])) == set(table), name
    knobs = {"wrpo_simpo": "beta", "wrpo_ipo": "tau"}
    points = {arm: {"learning_rate": [3e-4], knob: [0.5]} for arm, knob in knobs.items()}
    asked = {"grid": points, "grid_alpha": 0.3, "alpha": [], "seeds": [100, 101]}
    recipe = for_development(stage.recipe | {"development": asked})
    worlds = [World(seed, recipe) for seed in recipe["seeds"]]
    for name, table in develop(Stage(worlds, stage.folder)).items():
        assert set(read_results("development", name)) == set(table), name


def test_a_finished_step_is_not_made_again(
    stage: Stage, tables: Tables, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("pretrained", "sft", "Run", "choose", "pool"):
        monkeypatch.setattr(arms, name, None)
    for name, again in runner.run(Stage(stage.worlds, stage.folder)).items():
        pd.testing.assert_frame_equal(tables[name], again)


def test_the_dynamics_start_at_the_reference(tables: Tables) -> None:
    moves = tables["dynamics.csv.gz"].set_index("arm")
    first = moves[moves["step"] == 0].loc[["dpo_on", "wrpo", "dpo_off"]]
    assert np.allclose(first[["margin", "reward_ws", "reward_l"]], 0, atol=1e-4)
    assert np.allclose(first["loss"], np.log(2), atol=1e-4)
    assert moves.loc["wrpo"]["source_share"].max() > 0
    assert (moves.loc["dpo_on"]["source_share"].dropna() == 0).all()


def test_roles_are_what_their_names_say(stage: Stage, tables: Tables) -> None:
    pool, worlds = stage.pool("preference", "target_sft"), stage.worlds
    rewards = torch.from_numpy(pool.rewards(0.3))
    own, spare = pool.slots["target_sft"], pool.slots["target_sft_spare"]
    sources = [k for name in stage.sources for k in pool.slots[name]]
    for setting, role, of, sign in (
        ({}, WS, sources, 1),
        ({}, WT, own, 1),
        ({}, L, own, -1),
        ({}, LS, sources, -1),
        ({"take": "spare"}, WS, spare, 1),
        ({"own_samples": 10}, WT, [*own, *spare], 1),
        ({"rejected": "source"}, L, sources, -1),
    ):
        arm = replace(stage.arms["wrpo"], **setting)
        expected = pool.rows(torch.tensor(of)[(sign * rewards[..., of]).argmax(-1)])
        assert torch.equal(quadruples(worlds, pool, arm, 0.3)[0][:, :, role], expected)
    half = replace(pool, quality=np.where(pool.noise > -0.5, 1.0, 0.5))  # one in three is wrong
    found = torch.from_numpy(half.rewards(0.3))[..., sources]
    wrong = torch.from_numpy(half.quality < 1)[..., sources]
    best = found.masked_fill(~wrong, -torch.inf).argmax(-1)
    arm = replace(stage.arms["wrpo"], take="wrong")
    rows_of_wrong = quadruples(worlds, half, arm, 0.3)[0][:, :, WS]
    expected = half.rows(torch.tensor(sources)[best])
    assert torch.equal(rows_of_wrong[wrong.any(-1)], expected[wrong.any(-1)])


def test_a_mix_takes_y_ws_as_often_as_alpha_says(stage: Stage) -> None:
    pools = {part: stage.pool(part, "target_sft") for part in ("preference", "heldout")}
    arms = (replace(stage.arms["wrpo"], alpha=1.0, mix=mix) for mix in (False, True))
    given = stage.answers("target_sft").model, pools, {"steps": 100, "batch": 4}
    plain, mix = (Run(stage.worlds, arm, *given).rows for arm in arms)
    swapped = (mix[:, :, 0] == plain[:, :, WS]).all(-1).float()
    assert swapped[:, :40].mean() < 0.2 < 0.8 < swapped[:, -40:].mean()
    assert torch.equal(mix[:, :, 1], plain[:, :, L])


def test_every_arm_of_the_recipe_is_one(recipe: dict[str, Any], tmp_path: Path) -> None:
    starts = {"target", *recipe["sft"]}
    arms = Stage([World(100, recipe)], tmp_path).arms
    assert all({arm.start, arm.own} <= starts for arm in arms.values())
    with pytest.raises(WRPOError, match=r"arms\.dpo_on\.alhpa.*did you mean 'alpha'"):
        Stage([World(100, recipe | {"arms": {"dpo_on": {"alhpa": 0.1}}})], tmp_path)


def test_what_has_no_weight_is_left_out_of_the_loss_alone(stage: Stage, tables: Tables) -> None:
    """DPO-on trains the same with and without y_ws in the batch."""
    pools = {part: stage.pool(part, "target_sft") for part in ("preference", "heldout")}
    losses = []
    for alpha in (0.0, 1e-12):
        arm = replace(stage.arms["dpo_on"], alpha=alpha)
        assert arm.roles == ([WT, L] if alpha == 0 else [WS, WT, L])
        given = stage.answers("target_sft").model, pools, {"steps": 8, "batch": 4}
        run = Run(stage.worlds, arm, *given)
        run.train()
        losses.append(run.losses)
    assert torch.allclose(*losses, atol=1e-5)


def test_collective_rules_choose_what_they_say() -> None:
    texts = ["we get ABCD!", "we get BCDA!", "try out ABCD?", "we get BCAD!"]
    known = [-3.0, -2.0, -1.0, -4.0]
    found = [choose(rule, Prompt("drift", "ABCD"), texts, 0.0, known) for rule in COLLECTIVE]
    assert found == [1, 1, 2, 0]  # by reward, in pairs, by the prompt's perplexity, by a vote
