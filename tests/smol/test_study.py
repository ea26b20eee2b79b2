"""The real-text study on made-up published outputs: stages, resuming, numbers without texts."""

import gzip
import json
import random
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import sacrebleu

from wrpo_lib.errors import WRPOError
from wrpo_lib.generation.stage import Request, Response, Sampling
from wrpo_lib.io import iter_rows
from wrpo_lib.quadruples import Pairing, ResponseTable, build_rows, validate_quadruples
from wrpo_lib.smol import REFERENCE, TARGET, result_tables, run

WORDS = [f"w{k}" for k in range(40)]


def say(seed: str, n: int) -> str:
    return " ".join(random.Random(seed).choices(WORDS, k=n))


@pytest.fixture
def published(tmp_path: Path) -> Path:
    """Eight prompts: a reference, a source that copies half of it, one that does not."""
    published = tmp_path / "published"
    published.mkdir()
    references = {f"prompt {k}": say(f"r{k}", 12 + k) for k in range(8)}
    for name in ("gpt4_1106_preview", "near", "far"):
        rows = []
        for prompt, text in references.items():
            half = " ".join(text.split()[: len(text.split()) // 2]) + " " + say("x" + prompt, 6)
            output = {"near": half, "far": say(prompt, 20)}.get(name, text)
            rows.append({"instruction": prompt, "output": output, "generator": name})
        with gzip.open(published / f"{name}.json.gz", "wt") as file:
            json.dump(rows, file)
    return published


class Sayer:
    """An engine that says seeded words, and counts; it can stop midway as a kill would."""

    def __init__(self, stop_after: int | None = None) -> None:
        self.made, self.stop_after = 0, stop_after

    def __call__(self, requests: Iterable[Request]) -> Iterator[Response]:
        for request in requests:
            if self.made == self.stop_after:
                raise KeyboardInterrupt
            self.made += 1
            seed, reason = request.seed, "length" if request.seed % 2 else "stop"
            text = say(f"{seed}", 2 + seed % 5)
            yield Response(request.key, request.sample, text, 6, reason, seed)


def results(published: Path, name: str, engine: Any, prompts: int = 6) -> ResponseTable:
    sampling = Sampling(n=3, max_tokens=6)
    return run(published.with_name(name), published, engine, "weights", prompts, sampling)


def test_a_run_that_was_cut_goes_on_and_is_the_same(published: Path) -> None:
    rest = Sayer()
    with pytest.raises(KeyboardInterrupt):
        results(published, "cut", Sayer(stop_after=7))
    for _ in range(2):  # the second time everything is there already
        cut = results(published, "cut", rest)
        assert rest.made == 6 * 3 - 7
    whole = results(published, "whole", Sayer())
    assert build_rows(cut, Pairing(TARGET)) == build_rows(whole, Pairing(TARGET))
    with pytest.raises(WRPOError, match=r"was made with prompts 6, not 5"):
        results(published, "cut", rest, prompts=5)
    with pytest.raises(WRPOError, match="8 prompts that every file answers once, not 9"):
        results(published, "more", rest, prompts=9)


def test_tables_hold_numbers_that_agree_and_no_text(published: Path) -> None:
    table = results(published, "run", Sayer())
    made, _ = build_rows(table, Pairing(TARGET))
    assert not list(validate_quadruples(made))
    asked = {r["instruction"]: r["output"] for r in iter_rows(published / REFERENCE)}
    for row in table.fetch(table.frame.index).values():
        reference = [asked[row["prompt"][0]["content"]]]
        bleu = sacrebleu.sentence_bleu(row["text"], reference)
        assert row["reward"] == pytest.approx(bleu.score)
    tables = result_tables(table, made, lambda text: len(text.split()))
    rewards, sources = tables["rewards"], tables["sources"].set_index("source")
    assert len(rewards) == 6 * (2 + 3)
    for row, quadruple in zip(tables["quadruples"].itertuples(), made, strict=True):
        assert row.source_chosen_reward == quadruple["source_chosen_reward"]
        for role in ("source_chosen", "target_chosen", "rejected"):
            assert getattr(row, f"{role}_n_tokens") == len(quadruple[role].split())
        assert not row.source_chosen_truncated
    assert sources.loc["source-near", "share"] > 0.9
    assert sources["share"].sum() == pytest.approx(1)
    cut = rewards[rewards["model"] == TARGET]["truncated"]
    assert 0 < sources.loc[TARGET, "truncated"] == cut.mean() < 1
    texts = pd.concat([t.select_dtypes(exclude="number").stack() for t in tables.values()])
    assert not texts.astype(str).str.contains(r"\bw\d").any()
