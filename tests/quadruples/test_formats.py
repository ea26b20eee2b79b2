"""Kinds of rows and published forms: what one command passes, the others can use."""

import json
import math
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wrpo_lib.io import read_rows, write_rows
from wrpo_lib.quadruples import from_official, read_responses, to_official, validate_quadruples
from wrpo_lib.recipes import load_recipe, recipes_dir


def turn(role: str, content: Any = "x") -> dict[str, Any]:
    return {"role": role, "content": content}


PROMPT = [turn("user", "Say it.")]
GOOD, BAD = turn("assistant", "good"), turn("assistant", "bad")
SIMPO = {
    "prompt_id": "3ebac",
    "prompt": "Say it.",
    "all_generated_responses": ["one", "two", "three"],
    "all_rm_scores": [0.1, 0.3, 0.2],
    "chosen": [*PROMPT, turn("assistant", "two")],
    "rejected": [*PROMPT, turn("assistant", "one")],
}
ALPACA = {"dataset": "koala", "instruction": "Say it.", "output": "It.", "generator": "m"}
OFFICIAL = {
    "prompt_id": "3ebac",
    "prompt": PROMPT[0],
    "chosen": [turn("assistant", "best of all"), GOOD],
    "rejected": [BAD],
}
PROMPTS = {"prompt_id": "p", "prompt": PROMPT}
RESPONSE = {"prompt_id": "p", "prompt": PROMPT, "model": "m", "sample": 0, "text": "It."}
CUT = {**RESPONSE, "sample": 1, "text": "", "finish_reason": "length"}
REWARD = {**RESPONSE, "reward": 1}
PAIR = {"prompt": PROMPT, "chosen": [GOOD], "rejected": [BAD], "chosen_reward": 8}
SFT = {"prompt_id": "p", "prompt": PROMPT, "source_chosen": "best"}
QUADRUPLE = {**SFT, "target_chosen": "good", "rejected": "bad", "source_model": "m"}
WHOLE = {"chosen": [*PROMPT, GOOD], "rejected": [*PROMPT, BAD]}
SYSTEM = [turn("system", "Be brief."), *PROMPT]
SHAREGPT = {
    "conversations": [
        {"from": "system", "value": "Be brief."},
        {"from": "human", "value": "Say it."},
    ],
    "chosen": {"from": "gpt", "value": "good"},
    "rejected": {"from": "gpt", "value": "bad"},
}


def jsonl(path: Path, *rows: Any) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([SIMPO], "3 rows (simpo)"),
        ([ALPACA], "1 rows (alpaca_eval)"),
        ([OFFICIAL], "1 rows (official)"),
        ([WHOLE], "1 rows (conversations)"),
        ([PROMPTS], "1 rows (prompts)"),
        ([RESPONSE, CUT], "2 rows (responses)"),
        ([REWARD, {**REWARD, "sample": 1}], "2 rows (rewards)"),
        ([PAIR, PAIR], "2 rows (pairs)"),
        ([{**PAIR, "prompt": "Say it.", "chosen": "good"}], "1 rows (pairs)"),
        ([SFT], "1 rows (sft)"),
        ([QUADRUPLE], "1 rows (quadruples)"),
    ],
)
def test_a_form_is_known_by_its_fields(tmp_path: Path, wrpo: Any, rows: Any, said: str) -> None:
    code, out, err = wrpo("data", "check", jsonl(tmp_path / "f.jsonl", *rows))
    assert (code, err) == (0, "")
    assert f"{said}, nothing wrong" in out


@pytest.mark.parametrize(
    ("row", "prompt"),
    [
        ({**WHOLE, "prompt": "Say it.", "prompt_id": "u0", "score_chosen": 8.5}, PROMPT),
        ({k: [SYSTEM[0], *WHOLE[k]] for k in WHOLE}, SYSTEM),
        (SHAREGPT, SYSTEM),
    ],
)
def test_whole_conversations_become_pairs(tmp_path: Path, wrpo: Any, row: Any, prompt: Any) -> None:
    path, out = jsonl(tmp_path / "f.jsonl", row), tmp_path / "pairs.jsonl"
    assert wrpo("data", "import", path, out)[0] == 0
    (pair,) = read_rows(out)
    assert (pair["prompt"], pair["chosen"], pair["rejected"]) == (prompt, [GOOD], [BAD])
    assert "1 rows (pairs), nothing wrong" in wrpo("data", "check", out)[1]


def test_the_simpo_pipeline_gives_scored_responses(tmp_path: Path, wrpo: Any) -> None:
    path, out = jsonl(tmp_path / "train.jsonl", SIMPO), tmp_path / "rewards.parquet"
    code, _, err = wrpo("data", "import", path, out)
    assert (code, "name it (`--model`" in err, out.exists()) == (2, True, False)
    named = ("--model", "llama", "--reward-model", "armorm")
    assert wrpo("data", "import", path, out, *named)[0] == 0
    rest = {"prompt": PROMPT, "model": "llama", "reward_model": "armorm"}
    for k, row in enumerate(read_rows(out)):
        scored = {"text": ("one", "two", "three")[k], "reward": (0.1, 0.3, 0.2)[k]}
        assert row == {"prompt_id": "3ebac", "sample": k, **scored, **rest}


def test_alpaca_eval_outputs_give_responses(shared: Path, tmp_path: Path, wrpo: Any) -> None:
    path, out = shared / "alpaca_eval" / "gpt4_1106_preview.json.gz", tmp_path / "m.jsonl"
    assert wrpo("data", "import", path, out)[0] == 0
    assert read_responses([out], scored=False).frame["prompt_id"].nunique() == 805
    (first, *_), (row, *_) = read_rows(path), read_rows(out)
    assert row["prompt_id"] == sha256(first["instruction"].encode()).hexdigest()
    assert (row["model"], row["text"]) == (first["generator"], first["output"])


text = st.text(min_size=1).filter(str.strip)


@given(st.lists(text, min_size=1, max_size=3), text, text, text)
def test_the_official_format_there_and_back(
    turns: list[str], source: str, target: str, rejected: str
) -> None:
    prompt = [turn("user", content) for content in turns]
    said = {"source_chosen": source, "target_chosen": target, "rejected": rejected}
    mine = {"prompt_id": "p", "prompt": prompt, **said, "rejected_reward": 0.1}
    official = to_official(mine)
    assert [m["content"] for m in official["chosen"]] == [source, target]
    assert from_official(official) == mine
    (problem, *_) = validate_quadruples([official])  # what training says of such a file
    assert "official form: `wrpo data import` converts it" in problem.sentence("q.jsonl")


def test_fields_that_nobody_reads_may_be_anything(tmp_path: Path, wrpo: Any) -> None:
    """And prompts may be text in one row, rendered or not, and messages in the next."""
    odd: list[Any] = [{"a": 1}, {}, "text", 10**30, [1, "b"]]
    rows = [{**QUADRUPLE, "prompt_id": str(k), "meta": meta} for k, meta in enumerate(odd)]
    rows[1]["prompt"] = "Say it."
    rows[2]["prompt"] = rendered = "<|im_start|>user\nSay it.<|im_end|>"
    mine, theirs, back = (tmp_path / n for n in ("q.jsonl", "official.jsonl", "back.jsonl"))
    jsonl(mine, *rows)
    for command in (["check", mine], ["export", mine, theirs], ["import", theirs, back]):
        assert wrpo("data", *command)[0] == 0
    expected = [PROMPT, PROMPT, rendered, PROMPT, PROMPT]
    assert read_rows(back) == [{**r, "prompt": p} for r, p in zip(rows, expected, strict=True)]


def bad(field: str, value: Any) -> list[Any]:
    """A good quadruple and one with that field."""
    return [QUADRUPLE, {**QUADRUPLE, "prompt_id": "q", field: value}]


@pytest.mark.parametrize(
    ("rows", "sentence"),
    [
        (bad("rejected", None), "row 2, field 'rejected': Input should be a valid string"),
        (bad("source_rejected", " "), "'source_rejected': String should have at least 1 character"),
        (bad("prompt", 7), "row 2, field 'prompt': is not a list of messages"),
        (bad("prompt_id", "p"), "'p' repeats row 1"),
        (bad("rejected_reward", math.nan), "should be a finite number, not nan"),
        ([PAIR, WHOLE], "looks like the conversations form: `wrpo data import` converts it"),
        ([{**WHOLE, "rejected": [BAD]}], "row 1: 'chosen' and 'rejected' are no conversations"),
        ([WHOLE, {"rejected": [BAD]}], "row 2: 'chosen' and 'rejected' are no conversations"),
        ([{"a": 1}], "row 1: the fields a are of no known form"),
        ([{**SIMPO, "all_rm_scores": 7}], "row 1: as many scores as responses are needed"),
        ([{**ALPACA, "output": None}], "row 1, field 'text': Input should be"),
        ([OFFICIAL, {**OFFICIAL, "rejected": []}], "row 2: two chosen and one rejected assistant"),
    ],
)
def test_a_bad_file_of_any_kind_is_one_sentence(
    tmp_path: Path, wrpo: Any, rows: list[Any], sentence: str
) -> None:
    code, out, err = wrpo("data", "check", jsonl(tmp_path / "f.jsonl", *rows))
    assert (code, out, len(err.strip().splitlines())) == (2, "", 1)
    assert "f.jsonl, " in err
    assert sentence in err


def test_no_command_writes_over_what_it_reads_or_splits_repeated_ids(
    tmp_path: Path, wrpo: Any
) -> None:
    path = jsonl(tmp_path / "f.jsonl", OFFICIAL)
    twice, before = jsonl(tmp_path / "twice.jsonl", *[PROMPTS] * 2), path.read_bytes()
    for command, why in (
        (["import", path, path], "is read and would be overwritten"),
        (["split", twice, tmp_path / "parts"], "row 2, field 'prompt_id': 'p' repeats"),
    ):
        code, _, err = wrpo("data", *command)
        assert (code, why in err) == (2, True)
    assert path.read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 2


# --- `wrpo data prepare`: from published forms to the files that recipes name ---------------------


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project of its own, with the recipes of the real one."""
    home = tmp_path / "project"
    home.mkdir()
    (home / "recipes").symlink_to(recipes_dir())
    (home / "pyproject.toml").touch()
    monkeypatch.setenv("WRPO_HOME", str(home))
    return home


def test_a_download_becomes_the_files_that_the_recipes_name(
    home: Path, tmp_path: Path, wrpo: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Repeated responses are left out; test files are not read."""
    hub, asked = tmp_path / "hub", dict[str, Any]()
    for name, model, more in (("train-a", "a", 0), ("train-b", "b", 1), ("train-c", "a", 0)):
        rows = []
        for i in range(12):
            scores = [0.1 * ((i + k) % 5) + more for k in range(5)]
            said = {"generator": model, "all_generated_responses": [*"vwxyz"]}
            head = {"prompt_id": f"id{i}", "prompt": f"{i}?"}
            rows.append({**head, **said, "all_rm_scores": scores})
        write_rows(rows, hub / "data" / f"{name}.parquet")
    write_rows([RESPONSE], hub / "data" / "test-0.parquet")

    def snapshot(name: str, **options: Any) -> str:
        asked.update(options, name=name)
        return str(hub)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot)
    code, out, err = wrpo("data", "prepare", "workstation")
    assert code == 0, err
    assert (asked["name"], asked["repo_type"]) == ("AALF/ultrafeedback_wrpo", "dataset")
    assert "120 responses, 60 repeated ones left out" in out
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
    code, _, err = wrpo("data", "prepare", "workstation", data["sft"])
    assert (code, "holds sft, not responses" in err) == (2, True)
