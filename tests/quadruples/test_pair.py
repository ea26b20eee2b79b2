"""``wrpo pair``: what is chosen, what is left out and why, and bad input."""

import json
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from trl.data_utils import is_conversational

from wrpo_lib.io import read_rows
from wrpo_lib.quadruples import (
    Pairing,
    build_quadruples,
    build_rows,
    draw_split,
    read_responses,
    validate_quadruples,
)


def said(prompt: str, model: str, sample: int, reward: float, **changes: Any) -> dict[str, Any]:
    return {
        "prompt_id": prompt,
        "prompt": [{"role": "user", "content": f"do {prompt}"}],
        "model": model,
        "sample": sample,
        "text": f"{model} says {prompt} {sample}",
        "reward": reward,
        **changes,
    }


REWARDS = {"a": (3.0, 4.0), "b": (1.0, 2.0), "t": (0.5, 0.9)}
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
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return path

    return file


def paired(path: Path, **options: Any) -> tuple[list[dict[str, Any]], dict[str, int]]:
    found, counts = build_rows(read_responses([path]), Pairing(target="t", **options))
    prompts, kept = counts.pop("prompts"), counts.pop("kept")
    assert (kept, prompts) == (len(found), kept + sum(counts.values()))
    return found, {reason: n for reason, n in counts.items() if n}


def test_a_row_holds_the_texts_and_where_they_are_from(write: Any) -> None:
    (row, _), dropped = paired(write(rows("x", "y")))
    assert not dropped
    assert row == {
        "prompt_id": "x",
        "prompt": [{"role": "user", "content": "do x"}],
        "source_chosen": "a says x 1",
        "source_model": "a",
        "source_chosen_reward": 4.0,
        "target_chosen": "t says x 1",
        "target_chosen_reward": 0.9,
        "rejected": "t says x 0",
        "rejected_reward": 0.5,
    }


@pytest.mark.parametrize(
    ("options", "role", "chosen"),
    [
        ({"rank": 2}, "source_chosen", "a says x 0"),
        ({"sources": ("b",)}, "source_chosen", "b says x 1"),
        ({"dispreferred": True}, "source_rejected", "b says x 0"),
        ({"rejected_from": "source"}, "rejected", "b says x 0"),
    ],
)
def test_options_change_who_is_chosen(
    write: Any, options: dict[str, Any], role: str, chosen: str
) -> None:
    (row,), _ = paired(write(rows("x")), **options)
    assert row[role] == chosen
    assert not list(validate_quadruples([row]))


@pytest.mark.parametrize(
    ("pairs", "won", "lost", "sources"),
    [
        ("dpo-on", "t says x 1", "t says x 0", {}),
        ("dpo-hybrid", "a says x 1", "t says x 0", {"a": 1}),
        ("dpo-off", "a says x 1", "b says x 0", {"a": 1}),
    ],
)
def test_pairs_are_in_trls_form_and_the_report_counts_sources(
    write: Any, wrpo: Any, tmp_path: Path, pairs: str, won: str, lost: str, sources: Any
) -> None:
    """A prompt as text is written as one user turn, whichever way the rows have it."""
    text = [{**r, "prompt": "do x"} if r["model"] == "a" else r for r in rows("x")]
    command = ("pair", write(text), "--target", "t", "--pairs", pairs)
    assert wrpo(*command, "--out", tmp_path / "Pairs.JSONL.gz")[0] == 0
    (row,) = read_rows(tmp_path / "Pairs.JSONL.gz")
    assert is_conversational(row)
    assert row["prompt"] == [{"role": "user", "content": "do x"}]
    for side, said in (("chosen", won), ("rejected", lost)):
        assert row[side] == [{"role": "assistant", "content": said}]
        assert row[f"{side}_model"] == said.split()[0]
    report = json.loads((tmp_path / "Pairs.report.json").read_text())
    assert (report["chosen_from"], report["part"]) == (sources, "all")


@settings(max_examples=40)
@given(st.lists(st.tuples(*[st.sampled_from([0.0, 0.5, 1.0])] * 6), min_size=1, max_size=4))
def test_data_frames_pair_as_plain_python_does(rewards: list[tuple[float, ...]]) -> None:
    """Against a stable sort of rows in the order of the tie rule, whatever order they come in."""
    made = [
        said(f"p{p}", model, k % 2, reward)
        for p, six in enumerate(rewards)
        for k, (model, reward) in enumerate(zip("aabbtt", six, strict=True))
    ]
    prompts = {row["prompt_id"]: row["prompt"] for row in made}
    frame = pd.DataFrame(made).sample(frac=1, random_state=len(set(rewards)))
    target = frame["model"] == "t"
    found, counts = build_quadruples(prompts, frame[~target], frame[target])
    expected = []
    for p, (*_, first, second) in enumerate(rewards):
        mine = sorted(made[6 * p : 6 * p + 6], key=lambda r: -r["reward"])  # a stable sort
        source = next(r for r in mine if r["model"] != "t")
        if first != second:
            expected.append((source["text"], f"t says p{p} {int(second > first)}"))
    assert [(r["source_chosen"], r["target_chosen"]) for r in found] == expected
    kept = {"prompts": len(rewards), "kept": len(expected), "tied": len(rewards) - len(expected)}
    assert counts == {**kept, "identical": 0, "missing": 0}


def changed(model: str, **changes: Any) -> list[dict[str, Any]]:
    return [{**r, **changes} if r["model"] == model else r for r in rows("x")]


@pytest.mark.parametrize(
    ("bad", "options", "reason"),
    [
        (rows("x", rewards={**REWARDS, "t": (0.5, 0.5)}), {}, "tied"),
        (changed("t", text="same"), {}, "identical"),
        (rows("x", rewards={**REWARDS, "t": (0.5, 0.6)}), {"min_gap": 0.3}, "small_gap"),
        (changed("t", text=" \n"), {}, "missing"),
        (changed("t", finish_reason="length"), {"drop_truncated": True}, "missing"),
    ],
)
def test_what_is_left_out_is_counted_by_reason(
    write: Any, bad: list[Any], options: dict[str, Any], reason: str
) -> None:
    found, dropped = paired(write(bad + rows("good")), **options)
    assert dropped == {reason: 1}
    assert [r["prompt_id"] for r in found] == ["good"]


def test_the_commands_of_a_run(write: Any, wrpo: Any, tmp_path: Path) -> None:
    """SFT rows from sources alone, then quadruples from the rest of the same split."""
    prompts = [f"p{i:02d}" for i in range(30)]
    files = [write([r for r in rows(*prompts) if r["model"] == m], f"{m}.jsonl") for m in "abt"]
    assert wrpo("data", "split", files[0], tmp_path, "--seed", 7)[0] == 0
    parts, split = draw_split(reversed(prompts), 7), ("--split", tmp_path / "split.json")
    sft, quadruples = tmp_path / "sft.jsonl", tmp_path / "q.jsonl"
    code, out, _ = wrpo("pair", *files[:2], "--pairs", "sft", *split, "--out", sft)
    assert (code, "prompts 10, kept 10" in out) == (0, True)
    code, out, err = wrpo("pair", *files, "--target", "t", *split, "--out", quadruples)
    assert (code, "prompts 20, kept 20" in out) == (0, True), err
    assert [r["prompt_id"] for r in read_rows(sft)] == parts["sft"]
    assert draw_split(prompts, 8)["sft"] != parts["sft"]
    assert sorted(parts["sft"] + parts["preference"]) == prompts
    assert [r["prompt_id"] for r in read_rows(quadruples)] == parts["preference"]
    report = json.loads((tmp_path / "q.report.json").read_text())
    assert (report["kept"], report["part"], report["seed"]) == (20, "preference", 7)
    assert report["chosen_from"] == {"a": 20}


def broken(**changes: Any) -> list[Any]:
    return [*rows("x"), {**said("x", "a", 2, 0.3), **changes}]


@pytest.mark.parametrize(
    ("bad", "sentence"),
    [
        (
            broken(reward=None),
            "row 7, field 'reward': Input should be a valid number, not None; score it",
        ),
        (broken(sample=1), "row 7: sample 1 of 'a' for prompt 'x' repeats"),
        ([], "no rows"),
        (broken(prompt="do y"), "row 7, field 'prompt': is another one than before"),
        (
            [said("x", model, 0, 0.3, reward_model=model) for model in "ab"],
            "row 2, field 'reward_model': 'a' scored this prompt before",
        ),
        (rows("x", rewards={**REWARDS, "t": (1.0, 1.0)}), "(prompts 1, tied 1)"),
    ],
)
def test_bad_input_is_one_sentence_and_leaves_nothing(
    write: Any, wrpo: Any, tmp_path: Path, bad: list[Any], sentence: str
) -> None:
    path = write(bad)
    code, out, err = wrpo("pair", path, "--target", "t", "--out", tmp_path / "q.jsonl")
    assert (code, out, len(err.strip().splitlines())) == (2, "", 1)
    assert sentence in err
    assert str(path) in err
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ("--pairs best", "choose one of quadruples"),
        ("--rank 1", "needs the target's name"),
        ("--target t --out r.jsonl", "r.jsonl is read and would be overwritten"),
        ("--target c", "no response of 'c' in the files; they have a, b, t"),
        ("--target t --sources a,t", "'t' is target and source"),
        ("--target t --sources a,c", "no response of 'c' in the files; they have a, b, t"),
        ("--target t --split none.json", "none.json is no recorded split"),
    ],
)
def test_bad_options_are_one_sentence(
    write: Any, wrpo: Any, monkeypatch: Any, tmp_path: Path, options: str, sentence: str
) -> None:
    monkeypatch.chdir(tmp_path)
    code, _, err = wrpo("pair", write(rows("x")), "--out", "q.jsonl", *options.split())
    assert (code, len(err.strip().splitlines())) == (2, 1)
    assert sentence in err


# --- at size: the memory of `wrpo pair` in a process of its own -----------------------------------

MEASURE = r"""
import re, time
from wrpo_lib import cli
cli.app(standalone_mode=False)
peak = re.search(r"VmHWM:\s+(\d+) kB", open("/proc/self/status").read())  # maxrss has the parent's
print(time.process_time(), int(peak.group(1)) / 1024)
"""


def measure(folder: Path, prompts: int) -> tuple[float, float]:
    """MiB of five responses of 11 models to each prompt, and peak MiB of pairing them.

    Their lengths are like those of UltraFeedback's answers.
    """
    data, out, draw = folder / f"{prompts}.jsonl", folder / "q.jsonl", random.Random(0)
    sea = "".join(draw.choices("etaoin shrdlu,.", k=100_000))
    with data.open("w", encoding="utf-8") as file:
        for p, k in ((p, k) for p in range(prompts) for k in range(55)):
            start, size = draw.randrange(90_000), draw.lognormvariate(7.2, 0.7)  # median 1,340
            row = {"prompt_id": f"{p:064x}", "model": f"model-{k // 5:02d}", "sample": k % 5}
            row["prompt"] = [{"role": "user", "content": sea[p : p + 300]}]
            row["text"] = sea[start : start + min(max(int(size), 40), 8000)]
            row |= {"finish_reason": "stop", "reward": draw.gauss(0.13, 0.03)}
            file.write(json.dumps(row) + "\n")
    command = [sys.executable, "-c", MEASURE, "pair", data, "--target", "model-00", "--out", out]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    seconds, memory = map(float, done.stdout.splitlines()[-1].split())
    size = data.stat().st_size / 2**20
    print(f"{size:.0f} MiB of responses: {seconds:.0f} s of CPU, {memory:.0f} MiB")
    with out.open() as file:
        assert sum(1 for _ in file) == prompts
    return size, memory


def test_pairing_keeps_numbers_not_texts(tmp_path: Path) -> None:
    """A file six times as large costs a fraction of its size in memory."""
    small, large = measure(tmp_path, 150), measure(tmp_path, 900)
    assert large[1] - small[1] < 0.5 * (large[0] - small[0])


@pytest.mark.slow
def test_sixty_thousand_prompts_with_55_responses(tmp_path: Path) -> None:
    assert measure(tmp_path, 60_000)[1] < 4096
