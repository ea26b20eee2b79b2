"""Quadruples of real text, by the stages of ``wrpo sample``, ``score`` and ``pair``.

The target is a real small model (SmolLM2-135M-Instruct), sampled here; the sources are published
responses of real models to AlpacaEval's prompts, one per prompt; the reward is sentence BLEU
against the published response of one more model. The stages' files lie under ``runs/smol/`` and
are never part of the project: the published texts are under CC BY-NC. A run that was cut goes on.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wrpo_lib.errors import WRPOError
from wrpo_lib.generation.request import Engine, Sampling
from wrpo_lib.generation.rewards import Bleu, read_references
from wrpo_lib.generation.stage import keep_record, sample_responses, score_responses
from wrpo_lib.io import file_hash, iter_rows, write_rows
from wrpo_lib.quadruples import Pairing, ResponseTable, build_rows, read_responses, write_pairs
from wrpo_lib.quadruples.convert import as_responses
from wrpo_lib.quadruples.split import read_prompts

TARGET = "target"
"""The target's name in files and figures; which model it is stands in the run record."""

SAMPLING = Sampling(n=5, temperature=0.8, top_p=0.95, max_tokens=128, seed=0)
"""The paper's, but for the limit: 128 tokens are what a CPU makes in minutes."""


@dataclass(frozen=True)
class Study:
    """What is sampled, from what, and where the files lie.

    ``published``: a folder of alpaca_eval output files (``<model>.json.gz``), each a source but
    ``reference``, against which BLEU is computed; ``prompts``: how many are drawn with ``seed``.
    """

    folder: Path
    published: Path
    reference: str = "gpt4_1106_preview"
    prompts: int = 120
    seed: int = 0
    sampling: Sampling = SAMPLING

    @property
    def reference_file(self) -> Path:
        """The published responses that stand in for a right answer."""
        return self.published / f"{self.reference}.json.gz"

    @property
    def source_files(self) -> list[Path]:
        """The published responses of the sources, by name."""
        found = sorted(set(self.published.glob("*.json.gz")) - {self.reference_file})
        if not found or not self.reference_file.is_file():
            raise WRPOError(
                f"{self.published} holds no {self.reference}.json.gz beside other outputs of "
                "alpaca_eval; give the folder that has them"
            )
        return found

    def file(self, stage: str) -> Path:
        """The file that a stage writes."""
        return self.folder / f"{stage}.jsonl"


def sources(study: Study) -> Path:
    """One published response of each source to each prompt drawn.

    Drawn by the seed, from the prompts that the reference and every source answered once.
    """
    out, files = study.file("sources"), study.source_files
    hashes = {path.name: file_hash(path) for path in [study.reference_file, *files]}
    keep_record(out, {"prompts": study.prompts, "seed": study.seed, "published": hashes})
    if out.is_file():
        return out
    rows = [
        {**row, "model": f"source-{row['model']}"}
        for path in files
        for row in as_responses(iter_rows(path), str(path))
    ]
    known, answers = read_references(study.reference_file), Counter(r["prompt_id"] for r in rows)
    whole = sorted(i for i, n in answers.items() if n == len(files) and i in known)
    if len(whole) < study.prompts:
        raise WRPOError(
            f"{study.published} has {len(whole)} prompts that every file answers once, not "
            f"{study.prompts}; ask for fewer"
        )
    drawn = set(random.Random(study.seed).sample(whole, study.prompts))
    write_rows((row for row in rows if row["prompt_id"] in drawn), out)
    return out


def run(study: Study, engine: Callable[[], Engine], weights: str) -> ResponseTable:
    """All stages; finished rows are kept. Returns the scored responses.

    ``engine`` is made, and the target's run record renewed, only if some of its samples miss.
    """
    files = [sources(study), study.file(TARGET)]
    prompts, made = dict(read_prompts(files[0])), 0
    if files[1].is_file():
        made = sum(1 for _ in iter_rows(files[1]))
    if made < len(prompts) * study.sampling.n:
        settings = {"weights": weights}
        sample_responses(
            prompts.items(), engine(), TARGET, study.sampling, files[1], settings=settings
        )
    scorer, scored = Bleu(read_references(study.reference_file)), study.file("scored")
    settings = {"references": file_hash(study.reference_file)}
    for path in files:
        score_responses(
            iter_rows(path), scorer, scorer.name, scored, where=str(path), settings=settings
        )
    table = read_responses([scored])
    write_pairs(table, study.file("quadruples"), Pairing(target=TARGET))
    return table


def paired(table: ResponseTable, **options: Any) -> tuple[list[dict[str, Any]], dict[str, int]]:
    """The quadruples under some options of pairing, and the counts of what was left out."""
    return build_rows(table, Pairing(target=TARGET, **options))
