"""Published formats, in and checked; every file here is made in the test in the documented form."""

from __future__ import annotations

import gzip
import json
import math
from pathlib import Path
from typing import Any

import pytest

from wrpo_lib.io import iter_rows, read_rows
from wrpo_lib.quadruples import read_responses
from wrpo_lib.quadruples.convert import prompt_hash
from wrpo_lib.quadruples.schema import kind_of

PROMPT = [{"role": "user", "content": "Say it."}]
SIMPO = {
    "prompt_id": "3ebac",
    "prompt": "Say it.",
    "all_generated_responses": ["one", "two", "three"],
    "all_rm_scores": [0.1, 0.3, 0.2],
    "chosen": [*PROMPT, {"role": "assistant", "content": "two"}],
    "rejected": [*PROMPT, {"role": "assistant", "content": "one"}],
}
ALPACA = {"dataset": "koala", "instruction": "Say it.", "output": "It.", "generator": "m"}
OFFICIAL = {
    "prompt_id": "3ebac",
    "prompt": {"role": "user", "content": "Say it."},
    "chosen": [{"role": "assistant", "content": t} for t in ("best of all", "good")],
    "rejected": [{"role": "assistant", "content": "bad"}],
}
RESPONSE = {"prompt_id": "p", "prompt": PROMPT, "model": "m", "sample": 0, "text": "It."}
CUT = {**RESPONSE, "sample": 1, "text": "", "finish_reason": "length"}
REWARD = {**RESPONSE, "reward": 1}
PAIR = {
    "prompt_id": "p",
    "prompt": PROMPT,
    "chosen": [{"role": "assistant", "content": "good"}],
    "rejected": [{"role": "assistant", "content": "bad"}],
    "chosen_reward": 8,
}
SFT = {"prompt_id": "p", "prompt": PROMPT, "source_chosen": "best"}
QUADRUPLE = {**SFT, "target_chosen": "good", "rejected": "bad", "source_model": "m"}


def jsonl(path: Path, *rows: Any) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.parametrize(
    ("rows", "kind", "said"),
    [
        ([SIMPO], "simpo", "3 rows (simpo), nothing wrong"),
        ([ALPACA], "alpaca_eval", "1 rows (alpaca_eval), nothing wrong"),
        ([OFFICIAL], "official", "1 rows (official), nothing wrong"),
        ([RESPONSE, CUT], "responses", "2 rows (responses), nothing wrong"),
        ([REWARD, {**REWARD, "sample": 1}], "rewards", "2 rows (rewards), nothing wrong"),
        ([PAIR], "pairs", "1 rows (pairs), nothing wrong"),
        ([SFT], "sft", "1 rows (sft), nothing wrong"),
        ([QUADRUPLE], "quadruples", "1 rows (quadruples), nothing wrong"),
    ],
)
def test_a_format_is_known_by_its_fields(
    tmp_path: Path, wrpo: Any, rows: list[Any], kind: str, said: str
) -> None:
    assert kind_of(rows[0]) == kind
    code, out, err = wrpo("data", "check", jsonl(tmp_path / "f.jsonl", *rows))
    assert (code, err) == (0, "")
    assert said in out


def test_the_simpo_pipeline_gives_scored_responses(tmp_path: Path, wrpo: Any) -> None:
    path, out = jsonl(tmp_path / "train.jsonl", SIMPO), tmp_path / "rewards.parquet"
    code, _, err = wrpo("data", "import", path, out)
    assert (code, "name them with --model" in err, out.exists()) == (2, True, False)
    named = ("--model", "llama", "--reward-model", "armorm")
    assert wrpo("data", "import", path, out, *named)[0] == 0
    rest = {"prompt": PROMPT, "model": "llama", "reward_model": "armorm"}
    for k, row in enumerate(read_rows(out)):
        scored = {"text": ("one", "two", "three")[k], "reward": (0.1, 0.3, 0.2)[k]}
        assert row == {"prompt_id": "3ebac", "sample": k, **scored, **rest}


def test_alpaca_eval_outputs_give_responses(tmp_path: Path, wrpo: Any) -> None:
    path, out = tmp_path / "m.json.gz", tmp_path / "m.jsonl"
    path.write_bytes(gzip.compress(json.dumps([ALPACA, {**ALPACA, "output": "Again."}]).encode()))
    assert wrpo("data", "import", path, out)[0] == 0
    for k, row in enumerate(read_rows(out)):  # the same instruction twice
        assert (row["prompt_id"], row["model"]) == (prompt_hash("Say it."), "m")
        assert (row["sample"], row["text"]) == (k, ("It.", "Again.")[k])


def test_real_alpaca_eval_outputs(shared: Path, tmp_path: Path, wrpo: Any) -> None:
    out = tmp_path / "r.jsonl"
    for path in sorted((shared / "alpaca_eval").glob("*.json.gz"))[:2]:
        assert "805 rows (alpaca_eval)" in wrpo("data", "check", path)[1]
        assert wrpo("data", "import", path, out)[0] == 0
    assert read_responses([out], scored=False).frame["prompt_id"].nunique() == 805


@pytest.mark.parametrize(
    ("rows", "sentence"),
    [
        ([RESPONSE, RESPONSE], "row 2: sample 0 of 'm' for prompt 'p' stands in"),
        ([RESPONSE, {**RESPONSE, "text": 3}], "row 2, field 'text': 3 should be a valid string"),
        ([REWARD, {**RESPONSE, "sample": 1}], "row 2, field 'reward'"),
        ([{**RESPONSE, "reward": math.nan}], "row 1, field 'reward': nan"),
        ([PAIR, {**PAIR, "prompt_id": "q", "chosen": []}], "row 2, field 'chosen': missing"),
        ([PAIR, PAIR], "row 2, field 'prompt_id': 'p' stands in row 1"),
        ([{**SFT, "source_chosen": " "}], "row 1, field 'source_chosen': is empty"),
        ([{"a": 1}], "row 1: the fields a are of no known format"),
        ([{**SIMPO, "all_rm_scores": [0.1]}], "row 1: 3 responses, 1 scores"),
        ([{**SIMPO, "all_generated_responses": [None]}], "'all_generated_responses.0': missing"),
        ([SIMPO, {**SIMPO, "prompt": None}], "row 2, field 'prompt': missing"),
        ([{**ALPACA, "output": None}], "row 1, field 'output': missing"),
        (
            [OFFICIAL, {**OFFICIAL, "chosen": []}],
            "row 2, field 'chosen': [] List should have at least 2",
        ),
    ],
)
def test_a_bad_file_of_any_kind_is_one_sentence(
    tmp_path: Path, wrpo: Any, rows: list[Any], sentence: str
) -> None:
    code, out, err = wrpo("data", "check", jsonl(tmp_path / "f.jsonl", *rows))
    assert (code, out, len(err.strip().splitlines())) == (2, "", 1)
    assert "f.jsonl, " in err
    assert sentence in err


def test_prompts_are_split_and_the_draw_recorded(tmp_path: Path, wrpo: Any) -> None:
    path = jsonl(tmp_path / "p.jsonl", *({"prompt_id": f"p{i}", "prompt": "x"} for i in range(9)))
    assert wrpo("data", "split", path, tmp_path / "parts", "--seed", 3)[0] == 0
    made = json.loads((tmp_path / "parts" / "split.json").read_text())
    assert (made["seed"], len(made["sft"]), len(made["preference"])) == (3, 3, 6)
    for name in ("sft", "preference"):
        rows = iter_rows(tmp_path / "parts" / f"{name}.jsonl")
        assert [r["prompt_id"] for r in rows] == made[name]
    jsonl(path, *[{"prompt_id": "p", "prompt": "x"}] * 2)
    code, _, err = wrpo("data", "split", path, tmp_path / "again")
    assert (code, "row 2, field 'prompt_id': 'p' stands in" in err) == (2, True)
