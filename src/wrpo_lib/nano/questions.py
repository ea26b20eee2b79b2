"""The small benchmark that comes with the package: testbed questions in the three protocols.

    python -m wrpo_lib.nano.questions

writes the questions and the baselines' answers beside the judge prompts in
``wrpo_lib/evaluation/nano``; a test checks that the committed files are what this makes. A world's
models may have seen some of these strings in training: the study judges its own held-out splits,
and this set is for running the commands, not for reporting.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from wrpo_lib.io import write_rows
from wrpo_lib.nano.tasks import Task, draw_tasks

SEED = 2024
BASELINE = "nano-baseline"


def draw() -> dict[str, list[Task]]:
    """Benchmark -> its tasks; the harder protocol has the longer strings, as in the study."""
    rng = np.random.default_rng(SEED)
    easy = draw_tasks(rng, 48, lengths=(3, 5), unique=True)
    hard = draw_tasks(rng, 32, lengths=(5, 6), exclude=easy, unique=True)
    two = draw_tasks(rng, 24, lengths=(3, 5), two_turn=1.0, exclude=[*easy, *hard], unique=True)
    return {"alpaca-eval": easy, "arena-hard": hard, "mt-bench": two}


def question_rows() -> list[dict[str, Any]]:
    """Rows of ``questions.jsonl``."""
    return [
        {
            "benchmark": benchmark,
            "question_id": task.prompt_id,
            "category": task.skill,
            "turns": [task.instruction] + ([task.follow_up] if task.then else []),
        }
        for benchmark, tasks in draw().items()
        for task in tasks
    ]


def baseline_rows(benchmark: str) -> list[dict[str, Any]]:
    """Rows of ``baseline-<benchmark>.jsonl``: every second answer makes the testbed's slip."""
    common = {"benchmark": benchmark, "version": "nano"}
    rows = []
    for i, task in enumerate(draw()[benchmark]):
        text = f"the answer is {' '.join(task.slip() if i % 2 else task.answer())} ."
        answer = {"question_id": task.prompt_id, "turn": 1, "model": BASELINE, "text": text}
        rows.append(common | answer)
    return rows


def main() -> None:
    """Write all files."""
    folder = Path(__file__).parents[1] / "evaluation" / "nano"
    write_rows(question_rows(), folder / "questions.jsonl")
    for benchmark in ("alpaca-eval", "arena-hard"):
        write_rows(baseline_rows(benchmark), folder / f"baseline-{benchmark}.jsonl")


if __name__ == "__main__":
    main()
