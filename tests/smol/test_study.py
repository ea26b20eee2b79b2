"""The real-text study on made-up published outputs: stages, resuming, numbers without texts."""

from __future__ import annotations

import gzip
import json
import random
from collections.abc import Iterable, Iterator
from pathlib import Path

import pandas as pd
import pytest

from wrpo_lib.errors import WRPOError
from wrpo_lib.generation.request import Request, Response, Sampling
from wrpo_lib.smol import study as smol
from wrpo_lib.smol.study import TARGET, Study, paired, run

WORDS = [f"w{k}" for k in range(40)]
SHORT = Sampling(n=3, max_tokens=6)


def say(seed: str, n: int) -> str:
    return " ".join(random.Random(seed).choices(WORDS, k=n))


@pytest.fixture
def published(tmp_path: Path) -> Path:
    """Eight prompts: a reference, a source that copies half of it, one that does not."""
    folder = tmp_path / "published"
    folder.mkdir()
    references = {f"prompt {k}": say(f"r{k}", 12 + k) for k in range(8)}
    for name in ("gpt4_1106_preview", "near", "far"):
        rows = []
        for prompt, text in references.items():
            half = " ".join(text.split()[: len(text.split()) // 2]) + " " + say("x" + prompt, 6)
            output = {"near": half, "far": say(prompt, 20)}.get(name, text)
            rows.append({"instruction": prompt, "output": output, "generator": name})
        with gzip.open(folder / f"{name}.json.gz", "wt") as file:
            json.dump(rows, file)
    return folder


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


def study_of(published: Path, tmp_path: Path, prompts: int = 6) -> Study:
    return Study(tmp_path / "run", published, prompts=prompts, sampling=SHORT)


def test_a_run_that_was_cut_goes_on_and_is_the_same(published: Path, tmp_path: Path) -> None:
    study, rest = study_of(published, tmp_path), Sayer()
    with pytest.raises(KeyboardInterrupt):
        run(study, Sayer(stop_after=7), "weights")
    for _ in range(2):  # the second time everything is there already
        cut = run(study, rest, "weights")
        assert rest.made == 6 * 3 - 7
    whole = run(Study(tmp_path / "whole", published, prompts=6, sampling=SHORT), Sayer(), "weights")
    assert paired(cut) == paired(whole)
    with pytest.raises(WRPOError, match=r"was made with prompts 6, not 5"):
        run(study_of(published, tmp_path, prompts=5), rest, "weights")


def test_tables_hold_numbers_that_agree_and_no_text(published: Path, tmp_path: Path) -> None:
    study = study_of(published, tmp_path)
    tables = smol.result_tables(run(study, Sayer(), "weights"), lambda text: len(text.split()))
    rewards, quadruples = tables["rewards"], tables["quadruples"]
    assert len(rewards) == 6 * (2 + 3)
    best = rewards.loc[rewards.groupby(["prompt_id", "model"])["reward"].idxmax()]
    won = best[best["model"] != TARGET].sort_values("reward").groupby("prompt_id").last()
    for row in quadruples.itertuples():
        assert row.source_chosen_reward == won.loc[row.prompt_id, "reward"]
        assert row.source_chosen_n_tokens == won.loc[row.prompt_id, "n_tokens"]
        assert row.target_chosen_reward > row.rejected_reward
    sources, options = (tables[n].set_index(tables[n].columns[0]) for n in ("sources", "pairing"))
    assert sources.loc["source-near", "share"] > 0.9
    assert sources["wins"].sum() == len(quadruples)
    assert 0 < sources.loc[TARGET, "truncated"] < 1
    assert tables["overlap"]["n"].tolist() == [6] * 3
    assert options.loc["gap of at least 3", "kept"] <= options.loc["as it is", "kept"]
    assert (options["prompts"] == 6).all()
    texts = pd.concat([t.select_dtypes(exclude="number").stack() for t in tables.values()])
    assert not texts.astype(str).str.contains(r"\bw\d").any()


def test_the_draw_is_seeded_and_needs_enough_prompts(published: Path, tmp_path: Path) -> None:
    drawn = []
    for k, seed in enumerate((0, 0, 1)):
        study = Study(tmp_path / f"s{k}", published, 4, seed, SHORT)
        drawn.append(set(run(study, Sayer(), "weights").frame["prompt_id"]))
    assert drawn[0] == drawn[1] != drawn[2]
    with pytest.raises(WRPOError, match="8 prompts that every file answers once, not 9"):
        run(study_of(published, tmp_path, prompts=9), Sayer(), "weights")
    with pytest.raises(WRPOError, match=r"gpt4_1106_preview\.json\.gz does not exist"):
        run(study_of(tmp_path, tmp_path), Sayer(), "weights")


def test_rank_correlation() -> None:
    """Against pandas over all; within prompts 1 where each prompt's order agrees."""
    tokens, rewards = [1, 2, 3, 9, 11, 12, 5, 6, 7], [7.0, 8, 9, 1, 2, 3, 4, 5, 6.5]
    rows = pd.DataFrame({"prompt_id": [*"aaabbbccc"], "n_tokens": tokens, "reward": rewards})
    over_all = smol.rank_correlation(rows, within=False)
    assert over_all.value == pytest.approx(rows["reward"].corr(rows["n_tokens"], "spearman"))
    assert (over_all.n, over_all.n_clusters) == (9, 3)
    assert smol.rank_correlation(rows, within=True).value == pytest.approx(1.0)
