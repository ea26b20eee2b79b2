"""Published formats, in and checked; every file here is made in the test in the documented form."""

from __future__ import annotations

import gzip
import json
import math
from pathlib import Path
from typing import Any

import pytest

from wrpo_lib.errors import WRPOError
from wrpo_lib.io import iter_rows, read_rows
from wrpo_lib.quadruples import read_responses
from wrpo_lib.quadruples.convert import (
    MIRROR,
    PUBLISHED,
    as_responses,
    hub_rows,
    kind_of,
    prompt_hash,
)

ARMORM = "princeton-nlp/llama3-ultrafeedback-armorm"
SIMPO = {
    "prompt_id": "3ebac",
    "prompt": "Say it.",
    "all_generated_responses": ["one", "two", "three"],
    "all_rm_scores": [0.1, 0.3, 0.2],
    "chosen": [{"role": "user", "content": "Say it."}, {"role": "assistant", "content": "two"}],
    "rejected": [{"role": "user", "content": "Say it."}, {"role": "assistant", "content": "one"}],
}
ALPACA = {"dataset": "koala", "instruction": "Say it.", "output": "It.", "generator": "m"}
OFFICIAL = {
    "prompt_id": "3ebac",
    "prompt": {"role": "user", "content": "Say it."},
    "chosen": [{"role": "assistant", "content": t} for t in ("best of all", "good")],
    "rejected": [{"role": "assistant", "content": "bad"}],
}
RESPONSE = {"prompt_id": "p", "prompt": [{"role": "user", "content": "Say it."}], "model": "m",
            "sample": 0, "text": "It.", "finish_reason": "stop"}  # fmt: skip
PAIR = {"prompt_id": "p", "prompt": RESPONSE["prompt"], "chosen_reward": 0.2,
        "chosen": [{"role": "assistant", "content": "good"}],
        "rejected": [{"role": "assistant", "content": "bad"}]}  # fmt: skip
SFT = {"prompt_id": "p", "prompt": RESPONSE["prompt"], "source_chosen": "best"}


def jsonl(path: Path, *rows: Any) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.parametrize(
    ("row", "kind"),
    [
        (SIMPO, "simpo"), (ALPACA, "alpaca_eval"), (OFFICIAL, "official"), (RESPONSE, "responses"),
        ({**RESPONSE, "reward": 1.0}, "rewards"), (PAIR, "pairs"), (SFT, "sft"),
        ({**SFT, "target_chosen": "good"}, "quadruples"),
    ],
)  # fmt: skip
def test_a_format_is_known_by_its_fields(row: dict[str, Any], kind: str) -> None:
    assert kind_of(row, "here") == kind


def test_the_simpo_pipeline_gives_scored_responses(tmp_path: Path, wrpo: Any) -> None:
    path, out = jsonl(tmp_path / "train.jsonl", SIMPO), tmp_path / "rewards.parquet"
    code, text, _ = wrpo("data", "check", path)
    assert (code, "3 responses to 1 prompts (simpo format), nothing wrong" in text) == (0, True)
    code, _, err = wrpo("data", "import", path, out)
    assert (code, "name them with --model" in err) == (2, True)
    assert not out.exists()
    assert wrpo("data", "import", path, out, "--model", "llama")[0] == 0
    table = read_responses([out])
    assert table.frame["reward"].tolist() == [0.1, 0.3, 0.2]
    assert table.frame["sample"].tolist() == [0, 1, 2]
    assert set(table.frame["model"]) == {"llama"}
    assert read_rows(out)[0]["prompt"] == [{"role": "user", "content": "Say it."}]


def test_alpaca_eval_outputs_give_responses(tmp_path: Path, wrpo: Any) -> None:
    path = tmp_path / "m.json.gz"
    path.write_bytes(gzip.compress(json.dumps([ALPACA, {**ALPACA, "output": "Again."}]).encode()))
    out = tmp_path / "m.jsonl"
    assert wrpo("data", "import", path, out)[0] == 0
    first, second = read_rows(out)
    assert first["prompt_id"] == prompt_hash("Say it.")
    assert [first["sample"], second["sample"]] == [0, 1]  # the same instruction twice
    assert (first["model"], first["text"]) == ("m", "It.")
    assert len(read_responses([out], scored=False)) == 2


def test_real_alpaca_eval_outputs(shared: Path, tmp_path: Path, wrpo: Any) -> None:
    out = tmp_path / "r.jsonl"
    for path in sorted((shared / "alpaca_eval").glob("*.json.gz"))[:2]:
        assert "805 responses to 805 prompts" in wrpo("data", "check", path)[1]
        assert wrpo("data", "import", path, out)[0] == 0
    assert len(read_responses([out], scored=False)) == 805
    code, text, _ = wrpo("data", "check", out)
    assert (code, "805 responses, nothing wrong" in text) == (0, True)


def test_official_rows_become_quadruples(tmp_path: Path, wrpo: Any) -> None:
    out = tmp_path / "q.jsonl"
    assert wrpo("data", "import", jsonl(tmp_path / "o.jsonl", OFFICIAL), out)[0] == 0
    (row,) = read_rows(out)
    texts = [row[k] for k in ("source_chosen", "target_chosen", "rejected")]
    assert texts == ["best of all", "good", "bad"]


def test_a_local_mirror_stands_in_for_the_hub(
    tmp_path: Path, wrpo: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "mirror" / ARMORM / "data"
    folder.mkdir(parents=True)
    jsonl(folder / "train-00000.jsonl", SIMPO)
    jsonl(folder / "test-00000.jsonl", {**SIMPO, "prompt_id": "other"})
    monkeypatch.setenv(MIRROR, str(tmp_path / "mirror"))
    out = tmp_path / "rewards.jsonl"
    assert wrpo("data", "import", ARMORM, out)[0] == 0
    rows = read_rows(out)
    assert {r["prompt_id"] for r in rows} == {"3ebac"}
    assert {r["model"] for r in rows} == {"meta-llama/Meta-Llama-3-8B-Instruct"}
    assert {r["reward_model"] for r in rows} == {"RLHFlow/ArmoRM-Llama3-8B-v0.1"}
    code, _, err = wrpo("data", "import", "AALF/ultrafeedback_wrpo", out)
    assert (code, "has no 'train' file" in err) == (2, True)


def test_the_hub_is_asked_for_a_pinned_revision(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def load_dataset(name: str, **options: Any) -> list[dict[str, Any]]:
        asked.append((name, options))
        if options["split"] == "nosplit":
            raise ValueError("Bad split: nosplit\nand more")
        return [SIMPO]

    monkeypatch.delenv(MIRROR, raising=False)
    monkeypatch.setattr("datasets.load_dataset", load_dataset)
    assert list(hub_rows(ARMORM)) == [SIMPO]
    assert asked == [
        (ARMORM, {"split": "train", "revision": PUBLISHED[ARMORM].revision, "streaming": True})
    ]
    assert len(PUBLISHED[ARMORM].revision or "") == 40
    with pytest.raises(WRPOError, match="no revision of AALF/ultrafeedback_wrpo is pinned"):
        next(hub_rows("AALF/ultrafeedback_wrpo"))
    with pytest.raises(WRPOError, match=r"\(Bad split: nosplit\); check the network"):
        next(hub_rows(ARMORM, "nosplit"))


@pytest.mark.parametrize(
    ("row", "sentence"),
    [
        ({**SIMPO, "all_rm_scores": [0.1]}, "row 1: 3 responses, 1 scores"),
        ({**SIMPO, "all_generated_responses": [None]}, "'all_generated_responses': not texts"),
        ({**SIMPO, "prompt": None}, "row 1, fields 'prompt' and"),
        ({**ALPACA, "output": None}, "row 1, fields 'instruction' and 'output': not texts"),
        ({**ALPACA, "generator": None}, "says not whose responses"),
    ],
)
def test_broken_published_rows_are_named(row: dict[str, Any], sentence: str) -> None:
    with pytest.raises(WRPOError, match=sentence):
        list(as_responses([row], "file"))


@pytest.mark.parametrize(
    ("text", "sentence"),
    [('[{"a": 1}', "no whole JSON"), ('{"a": 1}', "not a JSON list"), ("[1]", "not a JSON list")],
)
def test_a_broken_json_file_is_named(tmp_path: Path, text: str, sentence: str) -> None:
    (tmp_path / "m.json").write_text(text)
    with pytest.raises(WRPOError, match=rf"m\.json: {sentence}"):
        list(iter_rows(tmp_path / "m.json"))


CHECKED = {
    "responses": ([RESPONSE, {**RESPONSE, "sample": 1, "text": "", "finish_reason": "length"}],
                  ["2 responses, nothing wrong", "empty", "truncated"]),
    "rewards": ([{**RESPONSE, "reward": 0.5}, {**RESPONSE, "sample": 1, "reward": 1.5}],
                ["2 rewards, nothing wrong", "mean_reward"]),
    "pairs": ([PAIR], ["1 preference pairs, nothing wrong"]),
    "sft": ([SFT], ["1 SFT rows, nothing wrong"]),
}  # fmt: skip


@pytest.mark.parametrize("kind", CHECKED)
def test_every_kind_of_file_is_summed_up(tmp_path: Path, wrpo: Any, kind: str) -> None:
    rows, lines = CHECKED[kind]
    code, out, err = wrpo("data", "check", jsonl(tmp_path / "f.jsonl", *rows))
    assert (code, err) == (0, "")
    assert all(line in out for line in lines), out


@pytest.mark.parametrize(
    ("rows", "sentence"),
    [
        ([RESPONSE, RESPONSE], "row 2: sample 0 of 'm' for prompt 'p' stands in"),
        ([RESPONSE, {**RESPONSE, "text": 3}], "row 2, field 'text': missing or not text"),
        ([{**RESPONSE, "reward": 1.0}, {**RESPONSE, "sample": 1}], "row 2, field 'reward'"),
        ([{**RESPONSE, "reward": math.nan}], "row 1, field 'reward': is nan"),
        ([PAIR, {**PAIR, "prompt_id": "q", "chosen": []}], "row 2, field 'chosen': missing"),
        ([PAIR, PAIR], "row 2, field 'prompt_id': 'p' stands in row 1"),
        ([{**SFT, "source_chosen": " "}], "row 1, field 'source_chosen': is empty"),
        ([{"a": 1}], "row 1: the fields a are of no known format"),
    ],
)
def test_a_bad_file_of_any_kind_is_one_sentence(
    tmp_path: Path, wrpo: Any, rows: list[Any], sentence: str
) -> None:
    code, out, err = wrpo("data", "check", jsonl(tmp_path / "f.jsonl", *rows))
    assert (code, out) == (2, "")
    assert sentence in err
    assert len(err.strip().splitlines()) == 1


def test_prompts_are_split_and_the_draw_recorded(tmp_path: Path, wrpo: Any) -> None:
    path = jsonl(tmp_path / "p.jsonl", *({"prompt_id": f"p{i}", "prompt": "x"} for i in range(9)))
    assert wrpo("data", "split", path, tmp_path / "parts", "--seed", 3)[0] == 0
    made = json.loads((tmp_path / "parts" / "split.json").read_text())
    assert (made["seed"], len(made["sft"]), len(made["preference"])) == (3, 3, 6)
    for name in ("sft", "preference"):
        rows = read_rows(tmp_path / "parts" / f"{name}.jsonl")
        assert [r["prompt_id"] for r in rows] == made[name]
    jsonl(path, {"prompt_id": "p", "prompt": "x"}, {"prompt_id": "p", "prompt": "x"})
    code, _, err = wrpo("data", "split", path, tmp_path / "again")
    assert (code, "row 2, field 'prompt_id': 'p' stands in row 1" in err) == (2, True)
    assert not (tmp_path / "again").exists()
