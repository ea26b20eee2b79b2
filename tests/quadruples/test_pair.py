"""``wrpo pair``: what is chosen, what is left out and why, and bad input."""

from __future__ import annotations

import gzip
import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from wrpo_lib.errors import WRPOError
from wrpo_lib.io import read_rows, write_rows
from wrpo_lib.quadruples import Pairing, build_rows, read_quadruples, read_responses
from wrpo_lib.quadruples.schema import row_problems
from wrpo_lib.quadruples.split import make_split, read_split

Wrpo = Callable[..., tuple[int, str, str]]


def said(prompt: str, model: str, sample: int, reward: float, **changes: Any) -> dict[str, Any]:
    return {
        "prompt_id": prompt,
        "prompt": [{"role": "user", "content": f"do {prompt}"}],
        "model": model,
        "sample": sample,
        "text": f"{model} says {prompt} {sample}",
        "n_tokens": 4,
        "finish_reason": "stop",
        "seed": 13,
        "reward_model": "test",
        "reward": reward,
        **changes,
    }


REWARDS = {"a": (1.0, 4.0), "b": (3.0, 2.0), "t": (0.5, 0.9)}
"""The rewards of two samples of sources a and b and of the target t, the same for every prompt."""


def rows(*prompts: str, rewards: dict[str, tuple[float, ...]] = REWARDS) -> list[dict[str, Any]]:
    return [
        said(p, model, k, reward)
        for p in prompts
        for model, values in rewards.items()
        for k, reward in enumerate(values)
    ]


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    def file(rows: list[Any], name: str = "r.jsonl") -> Path:
        path = tmp_path / name
        if path.suffix == ".parquet":
            write_rows(rows, path)
            return path
        text = "".join((r if isinstance(r, str) else json.dumps(r)) + "\n" for r in rows)
        path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
        return path

    return file


def paired(path: Path, **options: Any) -> tuple[list[dict[str, Any]], dict[str, int]]:
    table = read_responses([path])
    found, report = build_rows(table, Pairing(target="t", **options))
    assert report.kept == len(found)
    assert report.prompts == report.kept + sum(report.dropped.values())
    return found, {k: n for k, n in report.dropped.items() if n}


@pytest.mark.parametrize("name", ["r.jsonl", "r.jsonl.gz", "r.parquet"])
def test_every_kind_of_file_gives_the_same_rows(write: Any, name: str) -> None:
    (row, _), dropped = paired(write(rows("x", "y"), name))
    assert not dropped
    assert {k: row[k] for k in ("prompt_id", "source_chosen", "target_chosen", "rejected")} == {
        "prompt_id": "x",
        "source_chosen": "a says x 1",
        "target_chosen": "t says x 1",
        "rejected": "t says x 0",
    }
    assert (row["source_model"], row["source_chosen_reward"]) == ("a", 4.0)
    assert row["prompt"] == [{"role": "user", "content": "do x"}]


@pytest.mark.parametrize(
    ("options", "chosen"),
    [
        ({"rank": 2}, "b says x 0"),
        ({"rank": 4}, "a says x 0"),
        ({"sources": ("b",)}, "b says x 0"),
        ({"sources": ("b", "a"), "rank": 3}, "b says x 1"),
    ],
)
def test_rank_and_group_of_sources(write: Any, options: dict[str, Any], chosen: str) -> None:
    (row,), _ = paired(write(rows("x")), **options)
    assert row["source_chosen"] == chosen


def test_a_dispreferred_source_response(write: Any) -> None:
    rewards = {"a": (3.0, 4.0), "b": (1.0, 2.0), "t": (0.5, 0.9)}
    (row,), _ = paired(write(rows("x", rewards=rewards)), dispreferred=True)
    assert not list(row_problems(row, 1))
    assert (row["source_chosen"], row["source_rejected"]) == ("a says x 1", "b says x 0")
    assert (row["source_rejected_model"], row["source_rejected_reward"]) == ("b", 1.0)


@pytest.mark.parametrize(
    ("pairs", "won", "lost"),
    [
        ("dpo-on", "t says x 1", "t says x 0"),
        ("dpo-hybrid", "a says x 1", "t says x 0"),
        ("dpo-off", "a says x 1", "b says x 0"),
        ("within-source", "a says x 1", "a says x 0"),
    ],
)
def test_pair_sets_are_in_trl_format(write: Any, pairs: str, won: str, lost: str) -> None:
    from trl.data_utils import is_conversational

    rewards = {"a": (3.0, 4.0), "b": (1.0, 2.0), "t": (0.5, 0.9)}
    (row,), _ = paired(write(rows("x", rewards=rewards)), pairs=pairs)
    assert is_conversational(row)
    assert row["chosen"] == [{"role": "assistant", "content": won}]
    assert row["rejected"] == [{"role": "assistant", "content": lost}]
    assert (row["chosen_model"], row["rejected_model"]) == (won.split()[0], lost.split()[0])
    assert row["chosen_reward"] > row["rejected_reward"]


def test_sft_rows_need_no_target(write: Any) -> None:
    sources = [r for r in rows("x") if r["model"] != "t"]
    table = read_responses([write(sources)])
    (row,), _ = build_rows(table, Pairing(pairs="sft"))
    assert row["source_chosen"] == "a says x 1"
    assert set(row) == {"prompt_id", "prompt", "source_chosen", "source_model",
                        "source_chosen_reward"}  # fmt: skip


def test_the_order_of_rows_and_files_changes_nothing(write: Any) -> None:
    same = {"a": (1.0, 1.0), "b": (1.0, 1.0), "t": (0.2, 0.7, 0.7, 0.2)}
    all_rows = rows("x", "y", "z", rewards=same)
    expected, _ = paired(write(all_rows))
    assert expected[0]["source_chosen"] == "a says x 0"
    assert expected[0]["target_chosen"] == "t says x 1"
    assert expected[0]["rejected"] == "t says x 0"
    for seed in range(5):
        random.Random(seed).shuffle(all_rows)
        path, other = write(all_rows[:7]), write(all_rows[7:], "s.parquet")
        table = read_responses([other, path])
        assert build_rows(table, Pairing(target="t"))[0] == expected


LEFT_OUT: dict[str, tuple[list[dict[str, Any]], dict[str, Any], str]] = {
    "equal rewards": (rows("x", rewards={**REWARDS, "t": (0.5, 0.5)}), {}, "tied"),
    "same text": (
        [{**r, "text": "same"} if r["model"] == "t" else r for r in rows("x")], {}, "identical"
    ),
    "small gap": (rows("x"), {"min_gap": 0.5}, "small_gap"),
    "large gap": (rows("x"), {"max_gap": 0.3}, "large_gap"),
    "length": (
        [{**r, "text": r["text"] * 9} if r["reward"] == 0.9 else r for r in rows("x")],
        {"max_length_ratio": 8}, "length_ratio",
    ),
    "no source": ([r for r in rows("x") if r["model"] == "t"], {}, "missing_source"),
    "no target": ([r for r in rows("x") if r["model"] != "t"], {}, "missing_target"),
    "only empty": (
        [{**r, "text": " \n"} if r["model"] == "t" else r for r in rows("x")], {}, "missing_target"
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", LEFT_OUT)
def test_what_is_left_out_is_counted_by_reason(write: Any, case: str) -> None:
    bad, options, reason = LEFT_OUT[case]
    found, dropped = paired(write(bad + rows("good", rewards={**REWARDS, "t": (0.5, 0.9)})),
                            **options)  # fmt: skip
    if case == "same text":
        assert len(paired(write(bad), keep_identical=True)[0]) == 1
    assert dropped.pop(reason) == (1 if case not in ("small gap", "large gap") else 2)
    assert not dropped
    assert {r["prompt_id"] for r in found} <= {"good"}


def test_empty_and_truncated_responses_are_never_chosen(write: Any) -> None:
    changed = [{**r, "text": ""} if r["reward"] == 4.0 else r for r in rows("x")]
    (row,), _ = paired(write(changed))
    assert row["source_chosen"] == "b says x 0"
    changed = [{**r, "finish_reason": "length"} if r["reward"] == 4.0 else r for r in rows("x")]
    assert paired(write(changed))[0][0]["source_model"] == "a"
    assert paired(write(changed), drop_truncated=True)[0][0]["source_model"] == "b"


def test_the_three_commands_of_a_run(write: Any, wrpo: Wrpo, tmp_path: Path) -> None:
    """SFT rows from sources alone, then quadruples from the rest of the same split."""
    prompts = [f"p{i:02d}" for i in range(30)]
    files = [write([r for r in rows(*prompts) if r["model"] == m], f"{m}.jsonl") for m in "abt"]
    split = tmp_path / "split.json"
    code, out, _ = wrpo("pair", *files[:2], "--pairs", "sft", "--split", split, "--seed", 7,
                        "--out", tmp_path / "sft.jsonl")  # fmt: skip
    assert (code, "10 of 10 prompts kept" in out) == (0, True)
    seen = write([{"prompt_id": make_split(prompts, 7).preference[0]}], "overlap.jsonl")
    code, out, err = wrpo("pair", *files, "--target", "t", "--split", split, "--exclude", seen,
                          "--out", tmp_path / "q.jsonl")  # fmt: skip
    assert (code, "19 of 20 prompts kept; left out: excluded 1" in out) == (0, True), err
    parts = read_split(split)
    assert parts == make_split(reversed(prompts), 7)
    sft = [r["prompt_id"] for r in read_rows(tmp_path / "sft.jsonl")]
    quadruples = read_quadruples(tmp_path / "q.jsonl")["prompt_id"]
    assert sft == parts.sft
    assert list(quadruples) == parts.preference[1:]
    report = json.loads((tmp_path / "q.report.json").read_text())
    assert (report["kept"], report["part"], report["split"]["seed"]) == (19, "preference", 7)
    assert report["chosen_from"] == {"t": 19}
    assert "alphabetical" in report["tie_rule"]


def broken(**changes: Any) -> list[Any]:
    return [*rows("x"), {**said("x", "a", 2, 0.3), **changes}]


NOT_NUMBER = json.dumps(said("x", "a", 2, float("nan")))
BAD = {
    "malformed": ([*rows("x"), '{"prompt_id": "x", '], "line 7: not JSON"),
    "two rows": ([*rows("x"), '{"a": 1} {"a": 2}'], "line 7: not JSON"),
    "blank line": ([*rows("x"), "", *rows("y")], "line 7: not JSON"),
    "no object": ([*rows("x"), "[1]"], "line 7: not a JSON object"),
    "no text": (broken(text=None), "row 7, field 'text': missing"),
    "id a number": (broken(prompt_id=3), "row 7, field 'prompt_id': missing or not text"),
    "empty model": (broken(model=" "), "row 7, field 'model': missing"),
    "sample a text": (broken(sample="2"), "row 7, field 'sample': missing or no whole number"),
    "negative sample": (broken(sample=-1), "row 7, field 'sample'"),
    "not scored": (broken(reward=None), "row 7, field 'reward': missing; score it first"),
    "text reward": (broken(reward="high"), "row 7, field 'reward': is 'high'"),
    "NaN reward": ([*rows("x"), NOT_NUMBER], "row 7, field 'reward': is nan"),
    "duplicate": (broken(sample=1), "row 7: sample 1 of 'a' for prompt 'x' stands in"),
    "no rows": ([], "no rows"),
    "unknown target": ([r for r in rows("x") if r["model"] != "t"], "no response of 't'"),
    "no prompt": ([{**r, "prompt": None} for r in rows("x")], "field 'prompt': is missing"),
    "all tied": (rows("x", rewards={**REWARDS, "t": (1.0, 1.0)}), "nothing to write"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_sentence_and_leaves_nothing(
    write: Any, wrpo: Wrpo, tmp_path: Path, case: str
) -> None:
    bad, sentence = BAD[case]
    path = write(bad)
    code, out, err = wrpo("pair", path, "--target", "t", "--out", tmp_path / "q.jsonl")
    assert (code, out) == (2, "")
    assert sentence in err
    assert len(err.strip().splitlines()) == 1
    assert str(path) in err or case in ("no prompt", "unknown target")
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def parquet_cases() -> Iterator[tuple[list[dict[str, Any]], str]]:
    yield [*rows("x"), said("x", "a", 2, float("nan"))], "row 7, field 'reward': is nan"
    yield broken(text=None), "row 7, field 'text': missing"
    yield [{k: v for k, v in r.items() if k != "model"} for r in rows("x")], "field 'model'"


@pytest.mark.parametrize(("bad", "sentence"), list(parquet_cases()))
def test_bad_parquet_is_named_too(write: Any, bad: list[dict[str, Any]], sentence: str) -> None:
    with pytest.raises(WRPOError, match=sentence):
        read_responses([write(bad, "r.parquet")])


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--pairs", "best"], "choose one of quadruples"),
        ([], "needs the target's name"),
        (["--target", "t", "--rank", "0"], "must be 1 or more"),
        (
            ["--target", "t", "--sources", "a,c"],
            "no response of 'c' in the files; they have a, b, t",
        ),
        (["--target", "t", "--seed", "3"], "belong to a recorded split"),
        (["--target", "t", "--out", "q.csv"], "q.csv: unknown kind of file"),
        (["--target", "t", "--exclude", "none.jsonl"], "none.jsonl does not exist"),
    ],
)
def test_bad_options_are_one_sentence(
    write: Any, wrpo: Wrpo, tmp_path: Path, options: list[str], sentence: str
) -> None:
    out = [] if "--out" in options else ["--out", tmp_path / "q.jsonl"]
    code, _, err = wrpo("pair", write(rows("x")), *out, *options)
    assert code == 2
    assert sentence in err
    assert len(err.strip().splitlines()) == 1


def test_a_recorded_split_is_not_drawn_again(write: Any, wrpo: Wrpo, tmp_path: Path) -> None:
    path, split = write(rows("x", "y", "z")), tmp_path / "split.json"
    make_split("xyz", 1).write(split)
    asked = ("pair", path, "--target", "t", "--split", split, "--out", tmp_path / "q.jsonl")
    code, _, err = wrpo(*asked, "--seed", 2)
    assert (code, "was drawn with seed 1" in err) == (2, True)
    split.write_text('{"seed": 1}')
    code, _, err = wrpo(*asked)
    assert (code, "is no recorded split" in err) == (2, True)
    split.write_text('{"seed": 1, "share": 0.3, "sft": ["x"], "preference": ["x"]}')
    code, _, err = wrpo(*asked)
    assert (code, "'x' stands in both parts" in err) == (2, True)
