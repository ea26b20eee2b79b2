"""Real text from end to end: SmolLM2 and published outputs, sampled, scored, paired."""

from __future__ import annotations

from pathlib import Path

import pytest
import sacrebleu

from wrpo_lib.generation import Sampling, make_engine
from wrpo_lib.io import read_rows
from wrpo_lib.quadruples import Pairing, build_rows, validate_quadruples
from wrpo_lib.smol.study import TARGET, Study, run


def test_quadruples_of_real_text(smollm2_file: Path, shared: Path, tmp_path: Path) -> None:
    """Three samples of the target, published sources, BLEU against GPT-4."""
    published = tmp_path / "published"
    published.mkdir()
    names = ("Meta-Llama-3-70B-Instruct", "mistral-large-2402", "gpt4_1106_preview")
    for name in names:
        (published / f"{name}.json.gz").symlink_to(shared / "alpaca_eval" / f"{name}.json.gz")
    study = Study(tmp_path, published, prompts=3, sampling=Sampling(n=3, max_tokens=12))
    table = run(study, make_engine("transformers", str(smollm2_file)), "weights")
    made, scored = (read_rows(tmp_path / f"{name}.jsonl") for name in ("target", "scored"))
    assert len({r["text"] for r in made}) > 6
    answers = {r["instruction"]: r["output"] for r in read_rows(published / f"{names[-1]}.json.gz")}
    for r in scored:
        reference = answers[r["prompt"][0]["content"]]
        assert r["reward"] == pytest.approx(sacrebleu.sentence_bleu(r["text"], [reference]).score)
    rows, _ = build_rows(table, Pairing(TARGET))
    assert not list(validate_quadruples(rows))
    for row in rows:
        own = [r for r in scored if r["prompt_id"] == row["prompt_id"]]
        best = max((r for r in own if r["model"] != TARGET), key=lambda r: r["reward"])
        assert row["source_chosen"] == best["text"]
