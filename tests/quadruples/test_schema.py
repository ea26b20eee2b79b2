"""Files of quadruples: what is wrong is named, and nothing half-written is left."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wrpo_lib.errors import WRPOError
from wrpo_lib.io import iter_rows, write_rows
from wrpo_lib.quadruples import from_official, read_quadruples, to_official


def row(number: int = 1, **changes: Any) -> dict[str, Any]:
    return {
        "prompt_id": f"p{number}",
        "prompt": [{"role": "user", "content": "say it"}],
        "source_chosen": "best of all",
        "target_chosen": "good",
        "rejected": "bad",
        "target_chosen_reward": 0.5,
        "rejected_reward": 0.1,
        **changes,
    }


@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz", ".parquet"])
def test_every_kind_of_file_gives_back_what_was_written(tmp_path: Path, suffix: str) -> None:
    rows = [row(1), row(2, source_chosen="ünïcode\n\nlines")]
    write_rows(rows, tmp_path / f"q{suffix}")
    assert read_quadruples(tmp_path / f"q{suffix}").to_list() == rows
    assert [p.name for p in tmp_path.iterdir()] == [f"q{suffix}"]


def turn(role: str, content: Any = "x") -> list[dict[str, Any]]:
    return [{"role": role, "content": content}]


@pytest.mark.parametrize(
    ("field", "value", "what"),
    [
        ("rejected", None, "missing"),
        ("source_chosen", "", "is empty"),
        ("target_chosen", " \n", "is empty"),
        ("rejected", 3, "3 should be a valid string"),
        ("source_rejected", " ", "is empty"),
        ("prompt", [], "missing or not a list of messages"),
        ("prompt", " ", "is empty"),
        ("prompt", turn("user", None), "message 1 has no text content"),
        ("prompt", turn("robot"), "role 'robot'; use one of"),
        ("prompt", turn("assistant"), "does not end in a user turn"),
        ("prompt_id", "", "is empty"),
        ("prompt_id", "p1", "'p1' stands in row 1 already"),
        ("rejected_reward", float("nan"), "nan should be a finite number"),
        ("rejected_reward", "0.2", "'0.2' should be a valid number"),
    ],
)
def test_a_bad_row_is_named(tmp_path: Path, field: str, value: Any, what: str) -> None:
    path = tmp_path / "q.jsonl"
    path.write_text("".join(json.dumps(r) + "\n" for r in (row(1), row(2, **{field: value}))))
    with pytest.raises(WRPOError, match=rf"q\.jsonl, row 2, field '{field}': .*{what}"):
        read_quadruples(path)


@pytest.mark.parametrize("suffix", [".jsonl.gz", ".parquet"])
def test_a_file_cut_short_is_said(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"q{suffix}"
    write_rows([row(1), row(2)], path)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(WRPOError, match="truncated, copy it again"):
        read_quadruples(path)


@pytest.mark.parametrize(
    ("text", "what"),
    [('[{"a": 1}', "truncated"), ('{"a": 1}', "not a JSON list"), ("[1]", "not a JSON list")],
)
def test_a_broken_json_file_is_named(tmp_path: Path, text: str, what: str) -> None:
    (tmp_path / "m.json").write_text(text)
    with pytest.raises(WRPOError, match=rf"m\.json.*{what}"):
        list(iter_rows(tmp_path / "m.json"))


def test_a_failed_write_leaves_the_old_file_whole(tmp_path: Path) -> None:
    path = tmp_path / "q.jsonl.gz"
    write_rows([row(1)], path)
    before = path.read_bytes()
    with pytest.raises(WRPOError, match="row 2, field 'rejected'"):
        write_rows([row(1), row(2, rejected="")], path)
    with pytest.raises(TypeError):
        write_rows([row(1), row(2, extra={1, 2})], path)  # fails midway, in the JSON writer
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


text = st.text(min_size=1).filter(str.strip)


@given(st.lists(text, min_size=1, max_size=3), text, text, text)
def test_the_official_format_there_and_back(
    turns: list[str], source: str, target: str, rejected: str
) -> None:
    prompt = [message for content in turns for message in turn("user", content)]
    mine = row(1, prompt=prompt, source_chosen=source, target_chosen=target, rejected=rejected)
    official = to_official(mine)
    assert [m["content"] for m in official["chosen"]] == [source, target]
    assert from_official(official) == mine
