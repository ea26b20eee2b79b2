"""The nano quadruples come from the commands that any user has: sample, score, pair."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from commandline import wrpo

from wrpo_lib.io import read_rows, write_rows
from wrpo_lib.nano import study
from wrpo_lib.nano.models import train_model
from wrpo_lib.nano.tasks import World, open_world
from wrpo_lib.quadruples import validate_quadruples


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """A tiny world: 96 prompts, for one SFT step of 32; its models are trained for a moment."""
    world = open_world(3, tmp_path_factory.mktemp("stages"))
    world.recipe["splits"] |= {"train": 96, "validation": 4, "test": 12, "multi_turn": 6}
    world.recipe["sampling"] |= {"n": 3, "max_new_tokens": 12}
    del world.recipe["sources"][2:]
    for spec in (world.recipe["target"], *world.recipe["sources"]):
        spec["steps"] = 12
        train_model(world, spec["name"])
    return world


def test_three_commands_build_the_quadruples_of_the_study(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made, split = study.quadruples(world, study.TARGET), world.split()
    rows = [{"prompt_id": t.prompt_id, "prompt": t.messages} for t in world.splits()["train"]]
    write_rows(rows, tmp_path / "all.jsonl")
    write_rows([r for r in rows if r["prompt_id"] in split.preference], tmp_path / "part.jsonl")
    files = []
    for name in (*world.sources, study.TARGET):
        prompts = tmp_path / ("part.jsonl" if name == study.TARGET else "all.jsonl")
        sampled, scored = tmp_path / f"{name}.jsonl", tmp_path / f"{name}-rewards.jsonl"
        model = ["--model", world.model_dir(name), "--name", name]
        options = ["--n", 3, "--max-tokens", 12, "--seed", study.sampling(world, name).seed]
        assert wrpo(capsys, "sample", prompts, *model, *options, "--out", sampled)[0] == 0
        assert wrpo(capsys, "score", sampled, "--nano", "--out", scored)[0] == 0
        files.append(scored)
    drawn = ["data", "split", tmp_path / "all.jsonl", tmp_path, "--seed", world.seed]
    assert wrpo(capsys, *drawn)[0] == 0
    out, part = tmp_path / "quadruples.jsonl", ("--split", tmp_path / "split.json")
    assert wrpo(capsys, "pair", *files, "--target", study.TARGET, *part, "--out", out)[0] == 0
    assert json.loads((tmp_path / "split.json").read_text())["preference"] == split.preference
    assert read_rows(out) == read_rows(made)
    assert not list(validate_quadruples(read_rows(out)))
    assert {r["prompt_id"] for r in read_rows(out)} <= set(split.preference)


def test_the_study_runs_shares_no_prompt_and_goes_on_where_it_stopped(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tables of two methods; a second pass needs no model."""
    monkeypatch.setattr(study, "METHODS", ("dpo_on", "wrpo"))
    monkeypatch.setattr(study, "DEVIATION_POLICIES", ("target", "wrpo"))
    monkeypatch.setattr(study, "SHOWN", 40)
    study.run_study([world], workers=1)
    monkeypatch.setattr(study, "load_model", None)
    study.run_study([world], workers=1)
    tables = study.result_tables([world])
    assert {"scores", "sources", "deviation", "answers_seed3"} < set(tables)
    assert all(len(table) for table in tables.values())
    assert set(tables["scores"]["model"]) == set(study.all_models(world))
    assert (tables["scores"].query("decoding == 'sampled'")["n"] == 3 * 12).all()
    pairing = tables["pairing"]
    assert (pairing["prompts"] == 64).all()
    assert (pairing["prompts"] == pairing.iloc[:, 4:].sum(axis=1)).all()
    assert not {r["prompt_id"] for r in read_rows(study.sft_rows(world))} & set(
        world.split().preference
    )
