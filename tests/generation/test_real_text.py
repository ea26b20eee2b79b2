"""Real text from end to end: SmolLM2 and published outputs, sampled, scored, paired."""

from __future__ import annotations

import gzip
import json
import sys
from pathlib import Path

import pytest
from generation_rows import read_rows, write_rows

from wrpo_lib.cli import main


def wrpo(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> None:
    monkeypatch.setattr(sys, "argv", ["wrpo", *map(str, arguments)])
    with pytest.raises(SystemExit) as stop:
        main()
    assert not stop.value.code


def test_quadruples_of_real_text(
    smollm2_file: Path, shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """Five samples of the target on short prompts, two published sources, BLEU against GPT-4."""
    outputs = shared / "alpaca_eval"
    names = ("Meta-Llama-3-70B-Instruct", "mistral-large-2402")
    for name in names:
        published = outputs / f"{name}.json.gz"
        wrpo(monkeypatch, "data", "import", published, tmp_path / f"{name}.jsonl")
    sources = [tmp_path / f"{name}.jsonl" for name in names]
    short = [r for r in read_rows(sources[0]) if len(r["prompt"][0]["content"]) < 40][:3]
    keep = {r["prompt_id"] for r in short}
    for path in sources:
        write_rows(path, [r for r in read_rows(path) if r["prompt_id"] in keep])
    made, scored = tmp_path / "target.jsonl", tmp_path / "scored.jsonl"
    wrpo(monkeypatch, "sample", sources[0], "--out", made, "--model", smollm2_file,
         "--name", "SmolLM2", "--n", 5, "--max-tokens", 12)  # fmt: skip
    assert "made 15 responses to 3 prompts" in capsys.readouterr().out
    texts = [r["text"] for r in read_rows(made)]
    assert len(set(texts)) > 10
    assert all(r["n_tokens"] <= 12 for r in read_rows(made))
    wrpo(monkeypatch, "score", *sources, made, "--out", scored,
         "--bleu", outputs / "gpt4_1106_preview.json.gz")  # fmt: skip
    assert "made 21 rewards" in capsys.readouterr().out
    quadruples = tmp_path / "quadruples.jsonl"
    wrpo(monkeypatch, "pair", scored, "--out", quadruples, "--target", "SmolLM2")
    rows = read_rows(quadruples)
    assert 1 <= len(rows) <= 3
    best = {
        prompt_id: max(
            (r for r in read_rows(scored) if r["prompt_id"] == prompt_id and r["model"] in names),
            key=lambda r: r["reward"],
        )
        for prompt_id in keep
    }
    with gzip.open(outputs / "gpt4_1106_preview.json.gz", "rt") as file:
        references = {r["instruction"]: r["output"] for r in json.load(file)}
    for row in rows:
        assert row["source_chosen"] == best[row["prompt_id"]]["text"]
        assert row["source_chosen_reward"] > row["target_chosen_reward"] > row["rejected_reward"]
        assert {row["target_chosen"], row["rejected"]} <= set(texts)
        assert row["prompt"][0]["content"] in references
    wrpo(monkeypatch, "data", "check", quadruples)
