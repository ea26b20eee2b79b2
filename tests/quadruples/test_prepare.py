"""`wrpo data prepare`: from published forms to the files that recipes name."""

import json
from pathlib import Path
from typing import Any

import pytest

from wrpo_lib.io import read_rows, write_rows
from wrpo_lib.recipes import load_recipe, recipes_dir


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project of its own, with the recipes of the real one."""
    home = tmp_path / "project"
    home.mkdir()
    (home / "recipes").symlink_to(recipes_dir())
    (home / "pyproject.toml").touch()
    monkeypatch.setenv("WRPO_HOME", str(home))
    return home


def simpo(number: int, model: str, more: float) -> dict[str, Any]:
    """The form of princeton-nlp/llama3-ultrafeedback-armorm."""
    return {
        "prompt_id": f"id{number}",
        "prompt": f"Question {number}?",
        "generator": model,
        "all_generated_responses": [f"{model} says {number}, {k}." for k in range(5)],
        "all_rm_scores": [0.1 * ((number + k) % 5) + more for k in range(5)],
    }


def test_files_are_those_that_the_recipes_name(home: Path, tmp_path: Path, wrpo: Any) -> None:
    files = [tmp_path / f"{name}.parquet" for name in "ab"]
    for more, path in enumerate(files):
        write_rows([simpo(i, path.stem, more) for i in range(12)], path)
    code, out, err = wrpo("data", "prepare", "workstation", *files)
    assert code == 0, err
    assert "8 prompts for the target to answer" in out
    data = {name: load_recipe("workstation", name).data for name in ("sft", "dpo_off")}
    sft, off = (read_rows(str(path)) for path in data.values())
    split = json.loads((home / "data" / "split.json").read_text())
    assert [row["prompt_id"] for row in sft] == split["sft"]
    assert len(sft) == 4
    for row in sft:
        assert row["source_model"] == "b"
        assert row["source_chosen_reward"] == pytest.approx(1.4)
    prompts = read_rows(home / "data" / "prompts.jsonl")
    assert [r["prompt_id"] for r in off] == [r["prompt_id"] for r in prompts] == split["preference"]
    assert len(read_rows(home / "data" / "source_rewards.jsonl.gz")) == 120
    assert wrpo("data", "check", data["sft"])[0] == 0


def test_a_download_is_taken_once_each(
    home: Path, tmp_path: Path, wrpo: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Repeated responses and a prompt under a second id are left out; test files are not read."""
    hub, asked = tmp_path / "hub", dict[str, Any]()
    heads = [{"prompt_id": f"id{i}", "prompt": f"{i}?", "model": "m"} for i in range(6)]
    tails = [{"sample": k, "text": f"{k}.", "reward": k, "reward_model": "rm"} for k in (0, 1)]
    rows = [head | tail for head in heads for tail in tails]
    again = [rows[0], {**rows[2], "prompt_id": "other"}]
    write_rows([*rows, *again], hub / "data" / "train-0.parquet")
    write_rows(rows[:2], hub / "data" / "test-0.parquet")

    def snapshot(name: str, **options: Any) -> str:
        asked.update(options, name=name)
        return str(hub)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot)
    code, out, err = wrpo("data", "prepare", "workstation")
    assert code == 0, err
    assert (asked["name"], asked["repo_type"]) == ("AALF/ultrafeedback_wrpo", "dataset")
    assert "12 responses, 2 repeated ones left out" in out
    assert len(read_rows(home / "data" / "prompts.jsonl")) == 4


PROMPT = {"prompt_id": "a", "prompt": "b"}


@pytest.mark.parametrize(
    ("row", "sentence"),
    [
        ({**PROMPT, "model": "m", "sample": 0, "text": "c"}, "score it (`wrpo score`)"),
        ({**PROMPT, "source_chosen": "c"}, "holds sft, not responses"),
    ],
)
def test_other_rows_are_refused(
    home: Path, tmp_path: Path, wrpo: Any, row: dict[str, Any], sentence: str
) -> None:
    write_rows([row], tmp_path / "bad.jsonl")
    code, _, err = wrpo("data", "prepare", "workstation", tmp_path / "bad.jsonl")
    assert (code, sentence in err) == (2, True)
    assert not list(home.glob("data/*.json"))
