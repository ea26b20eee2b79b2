"""Files of quadruples: what is wrong is named, and nothing half-written is left."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wrpo_lib.errors import WRPOError
from wrpo_lib.quadruples import (
    from_official,
    read_quadruples,
    to_official,
    write_quadruples,
)
from wrpo_lib.quadruples.schema import count_warnings


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
    write_quadruples(rows, tmp_path / f"q{suffix}")
    assert read_quadruples(tmp_path / f"q{suffix}").to_list() == rows
    assert [p.name for p in tmp_path.iterdir()] == [f"q{suffix}"]


@pytest.mark.parametrize(
    ("changes", "field", "what"),
    [
        ({"rejected": None}, "rejected", r"missing; add the response"),
        ({"source_chosen": ""}, "source_chosen", "is empty"),
        ({"target_chosen": " \n"}, "target_chosen", "is empty"),
        ({"rejected": 3}, "rejected", "is of type int, not text"),
        ({"source_rejected": " "}, "source_rejected", "is empty"),
        ({"prompt": []}, "prompt", "missing or not a list of messages"),
        ({"prompt": " "}, "prompt", "is empty"),
        ({"prompt": [{"role": "user"}]}, "prompt", "message 1 has no text content"),
        ({"prompt": [{"role": "robot", "content": "x"}]}, "prompt", "role 'robot'; use one of"),
        (
            {"prompt": [{"role": "assistant", "content": "x"}]},
            "prompt",
            "does not end in a user turn",
        ),
        ({"prompt_id": ""}, "prompt_id", "missing or not text"),
        ({"prompt_id": "p1"}, "prompt_id", "'p1' stands in row 1 already"),
        ({"rejected_reward": float("nan")}, "rejected_reward", "is nan"),
        ({"rejected_reward": "0.2"}, "rejected_reward", "not a number"),
    ],
)
def test_a_bad_row_is_named(tmp_path: Path, changes: dict[str, Any], field: str, what: str) -> None:
    path = tmp_path / "q.jsonl"
    path.write_text("".join(json.dumps(r) + "\n" for r in (row(1), row(2, **changes))))
    with pytest.raises(WRPOError, match=rf"q\.jsonl, row 2, field '{field}': .*{what}"):
        read_quadruples(path)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


def cut_line(path: Path) -> None:
    path.write_text(path.read_text()[:-20])


@pytest.mark.parametrize(
    ("name", "damage", "what"),
    [
        ("q.jsonl", cut_line, "line 2: not JSON"),
        ("q.jsonl.gz", cut, "truncated, copy it again"),
        ("q.parquet", cut, "truncated, copy it again"),
        ("q.jsonl", lambda p: p.write_text(""), "has no rows"),
        ("q.jsonl", lambda p: p.write_text("[1]\n"), "line 1: not a JSON object"),
        ("q.jsonl", lambda p: p.unlink(), "does not exist"),
    ],
)
def test_a_damaged_file_is_said(
    tmp_path: Path, name: str, damage: Callable[[Path], Any], what: str
) -> None:
    path = tmp_path / name
    write_quadruples([row(1), row(2)], path)
    damage(path)
    with pytest.raises(WRPOError, match=what):
        read_quadruples(path)


def test_a_failed_write_leaves_the_old_file_whole(tmp_path: Path) -> None:
    path = tmp_path / "q.jsonl.gz"
    write_quadruples([row(1)], path)
    before = path.read_bytes()
    with pytest.raises(WRPOError, match="row 2, field 'rejected'"):
        write_quadruples([row(1), row(2, rejected="")], path)
    with pytest.raises(TypeError):
        write_quadruples([row(1, extra={1, 2})], path)  # fails midway, in the JSON writer
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    with gzip.open(path, "rt") as file:
        assert json.loads(file.read()) == row(1)


def test_what_is_odd_but_allowed_is_counted() -> None:
    rows = [
        row(1),
        row(2, rejected="good"),
        row(3, rejected_reward=0.9),
        row(4, source_chosen="good"),
    ]
    assert count_warnings(rows) == {
        "target_chosen equals rejected": 1,
        "target_chosen_reward below rejected_reward": 1,
        "source_chosen equals target_chosen": 1,
    }


text = st.text(min_size=1).filter(str.strip)
messages = st.lists(
    st.fixed_dictionaries({"role": st.sampled_from(["user", "assistant"]), "content": text}),
    min_size=1,
    max_size=3,
).map(lambda m: [*m[:-1], {**m[-1], "role": "user"}])


@given(messages, text, text, text)
def test_the_official_format_there_and_back(
    prompt: list[dict[str, str]], source: str, target: str, rejected: str
) -> None:
    mine = row(1, prompt=prompt, source_chosen=source, target_chosen=target, rejected=rejected)
    official = to_official(mine)
    assert [m["content"] for m in official["chosen"]] == [source, target]
    assert from_official(official) == mine


def test_an_official_row_with_the_wrong_count_is_named() -> None:
    official = to_official(row())
    official["chosen"] = official["chosen"][:1]
    with pytest.raises(WRPOError, match=r"row 7, field 'chosen': needs a list of 2"):
        from_official(official, "file, row 7")
