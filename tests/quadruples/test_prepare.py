"""`wrpo data prepare`: from published forms to the files that recipes name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from commandline import wrpo

from wrpo_lib.io import iter_rows, read_rows, write_rows
from wrpo_lib.recipes import load_recipe, recipes_dir


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project of its own, with the recipes of the real one."""
    home = tmp_path / "project"
    home.mkdir()
    (home / "recipes").symlink_to(recipes_dir())
    (home / "pyproject.toml").touch()
    monkeypatch.setenv("WRPO_HOME", str(home))
    monkeypatch.chdir(tmp_path)
    return home


def simpo_rows(n: int, **extra: Any) -> list[dict[str, Any]]:
    """The form of princeton-nlp/llama3-ultrafeedback-armorm."""
    return [
        {
            "prompt_id": f"id{i}",
            "prompt": f"Question {i}?",
            "all_generated_responses": [f"Answer {i}, {k}." for k in range(5)],
            "all_rm_scores": [0.1 * ((i + k) % 5) for k in range(5)],
            **extra,
        }
        for i in range(n)
    ]


def test_files_are_those_that_the_recipes_name(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    again = {**simpo_rows(1)[0], "prompt_id": "other"}  # the first prompt under another id
    for name, model in (("a", "model-a"), ("b", "model-b")):
        rows = [*simpo_rows(12, generator=model), again]
        made = [
            {
                "prompt_id": row["prompt_id"],
                "prompt": row["prompt"],
                "model": model,
                "sample": k,
                "text": f"{text} {name}",
                "reward": score + (name == "b"),
                "reward_model": "rm",
            }
            for row in rows
            for k, (text, score) in enumerate(
                zip(row["all_generated_responses"], row["all_rm_scores"], strict=True)
            )
        ]
        write_rows(made, tmp_path / f"{name}.jsonl")
    files = ["--file", tmp_path / "a.jsonl", "--file", tmp_path / "b.jsonl"]
    code, out, err = wrpo(capsys, "data", "prepare", "workstation", *files)
    assert code == 0, err
    assert "120 responses, 10 repeated ones left out" in out
    recipe = load_recipe("workstation", "sft")
    sft = read_rows(str(recipe.data))
    assert str(home) in str(recipe.data)
    split = json.loads((home / "data" / "split.json").read_text())
    assert [row["prompt_id"] for row in sft] == split["sft"]
    assert len(sft) == 4
    for row in sft:
        assert row["source_model"] == "model-b"
        assert row["source_chosen_reward"] == pytest.approx(1.4)
    off = read_rows(str(load_recipe("workstation", "dpo_off").data))
    prompts = read_rows(home / "data" / "prompts.jsonl")
    assert {r["prompt_id"] for r in off} == {r["prompt_id"] for r in prompts}
    assert len(prompts) == 8
    assert sum(1 for _ in iter_rows(home / "data" / "source_rewards.jsonl.gz")) == 120
    assert wrpo(capsys, "data", "check", str(recipe.data))[0] == 0


def test_a_download_in_the_published_form(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    hub = tmp_path / "hub"
    write_rows(simpo_rows(6), hub / "data" / "train-00000-of-00001.parquet")
    write_rows(simpo_rows(2), hub / "data" / "test-00000-of-00001.parquet")
    asked: dict[str, Any] = {}

    def snapshot(name: str, **options: Any) -> str:
        asked.update(options, name=name)
        return str(hub)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot)
    named = ["--hub", "a/b", "--model", "llama", "--reward-model", "armo"]
    code, _, err = wrpo(capsys, "data", "prepare", "workstation", *named)
    assert code == 0, err
    assert (asked["name"], asked["repo_type"]) == ("a/b", "dataset")
    assert len(read_rows(home / "data" / "prompts.jsonl")) == 4


BAD = {
    "has no reward; run `wrpo score`": {
        "prompt_id": "a",
        "prompt": "b",
        "model": "m",
        "sample": 0,
        "text": "c",
    },
    "holds sft, not responses": {"prompt_id": "a", "prompt": "b", "source_chosen": "c"},
}


@pytest.mark.parametrize("sentence", BAD)
def test_other_rows_are_refused(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], sentence: str
) -> None:
    write_rows([BAD[sentence]], tmp_path / "bad.jsonl")
    code, _, err = wrpo(capsys, "data", "prepare", "workstation", "--file", tmp_path / "bad.jsonl")
    assert code == 2
    assert sentence in err
    assert not (home / "data").exists() or not list((home / "data").iterdir())


def test_no_network_is_one_sentence(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = wrpo(capsys, "data", "prepare", "workstation")
    assert code == 2
    assert "cannot download the data set 'AALF/ultrafeedback_wrpo'" in err.splitlines()[-1]
