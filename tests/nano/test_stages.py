"""The nano quadruples come from the commands that any user has: sample, score, pair."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from wrpo_lib import cli
from wrpo_lib.io import read_rows, write_rows
from wrpo_lib.nano import study
from wrpo_lib.nano.world import World, open_world
from wrpo_lib.quadruples import read_quadruples, validate_quadruples


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """A tiny world: 96 prompts, for one SFT step of 32; its models are trained for a moment."""
    world = open_world(3, tmp_path_factory.mktemp("stages"))
    world.recipe["splits"] |= {"train": 96, "validation": 4, "test": 4, "multi_turn": 2}
    world.recipe["sampling"] |= {"n": 3, "max_new_tokens": 12}
    del world.recipe["sources"][2:]
    for spec in (world.recipe["target"], *world.recipe["sources"]):
        spec["steps"] = 12
        world.train_model(spec["name"])
    return world


def wrpo(monkeypatch: pytest.MonkeyPatch, *arguments: Any) -> None:
    monkeypatch.setattr("sys.argv", ["wrpo", *map(str, arguments)])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert not stop.value.code


def test_three_commands_build_the_quadruples_of_the_study(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = study.quadruples(world, study.TARGET)
    tasks = world.splits().train
    preference = study.split(world).preference
    write_rows(
        ({"prompt_id": t.prompt_id, "prompt": t.messages} for t in tasks),
        tmp_path / "prompts.jsonl",
    )
    wanted = [r for r in read_rows(tmp_path / "prompts.jsonl") if r["prompt_id"] in preference]
    write_rows(wanted, tmp_path / "preference.jsonl")
    for name in (*world.sources, study.TARGET):
        prompts = "preference" if name == study.TARGET else "prompts"
        wrpo(
            monkeypatch, "sample", tmp_path / f"{prompts}.jsonl", "--model", world.model_dir(name),
            "--name", name, "--n", 3, "--max-tokens", 12,
            "--seed", study.sampling(world, name).seed,
            "--out", tmp_path / f"{name}.jsonl",
        )  # fmt: skip
        wrpo(monkeypatch, "score", tmp_path / f"{name}.jsonl", "--nano",
             "--out", tmp_path / f"{name}-rewards.jsonl")  # fmt: skip
    files = [tmp_path / f"{n}-rewards.jsonl" for n in (*world.sources, study.TARGET)]
    wrpo(monkeypatch, "pair", *files, "--target", study.TARGET, "--out", tmp_path / "q.jsonl",
         "--split", tmp_path / "split.json", "--seed", world.seed)  # fmt: skip
    assert json.loads((tmp_path / "split.json").read_text()) == json.loads(
        (world.folder / "split.json").read_text()
    )
    mine, theirs = read_rows(tmp_path / "q.jsonl"), read_rows(made)
    assert mine == theirs
    assert 0 < len(mine) <= 64
    assert not list(validate_quadruples(mine))
    assert {r["prompt_id"] for r in mine} <= set(preference)


def test_sft_rows_and_quadruples_share_no_prompt(world: World) -> None:
    sft = {r["prompt_id"] for r in read_rows(study.sft_rows(world))}
    quadruples = set(read_quadruples(study.quadruples(world, study.TARGET))["prompt_id"])
    assert len(sft) == 32
    assert not sft & quadruples
    report = study.pairing_report(world, study.TARGET, "target")
    assert report["prompts"] == 64
    assert report["prompts"] == sum(n for name, n in report.items() if name != "prompts")


def test_finished_stages_are_not_done_again(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    first = study.responses(world, world.sources[0], world.splits().train)
    monkeypatch.setattr(study, "load_model", None)  # a model would be needed to sample again
    again = study.responses(world, world.sources[0], world.splits().train)
    assert first.equals(again)
    assert set(first["reward_model"]) == {"nano"}


def test_the_rows_train(world: World) -> None:
    """Target-SFT from the SFT rows, its samples, and deviation of both kinds of responses."""
    assert (study.train_sft(world) / "config.json").is_file()
    report = study.pairing_report(world, study.TARGET_SFT, "source")
    assert report["kept"] > 0
    rows = study.deviation(world, study.TARGET)
    assert {r["kind"] for r in rows} == {"source", "own"}
    assert len(rows) == 2 * 64
