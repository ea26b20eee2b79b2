"""Truth and reward model of the nano testbed (ours; the paper uses ArmoRM and GPT-4 judges).

``quality`` is the truth: graded correctness plus the check step. ``reward`` is what the reward
model sees: quality with a small known imperfection, a bonus for length and fixed noise. The judge
(:mod:`wrpo_lib.nano.judge`) is a third thing with biases of its own, so selection and evaluation
never share an error.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from wrpo_lib.errors import WRPOError
from wrpo_lib.nano.tasks import ALPHABET, SKILLS, Task, World

CHECK_BONUS = 0.4
MAX_QUALITY = 1.0 + CHECK_BONUS
LENGTH_BONUS = 0.001  # per character: the reward model's known imperfection
NOISE = 0.05  # standard deviation, fixed per (task, text) so that scores are deterministic

_LETTERS = re.compile(rf"(?<!\S)[{ALPHABET}](?: [{ALPHABET}])*(?!\S)")
_COUNT = re.compile(r"(?<!\S)(\d+)(?!\S)")


class Reading(NamedTuple):
    """What a response says: its letters and the count of its check step, if there is one."""

    letters: list[str]
    counted: int | None


def read(text: str) -> Reading:
    """Parse a response of any model: the first run of single letters, the first number."""
    letters, count = _LETTERS.search(text), _COUNT.search(text)
    return Reading(letters.group().split() if letters else [], count and int(count.group()))


def quality(task: Task, text: str, turn: int = 1) -> float:
    """True quality in [-0.2, 1.4].

    1 for the right letters, otherwise half the share of right positions; +0.4 for a check step
    whose count agrees with the letters given, -0.2 for one that does not.
    """
    (letters, counted), answer = read(text), task.answer(turn)
    hits = sum(a == b for a, b in zip(answer, letters, strict=False))
    score = 1.0 if letters == answer else 0.5 * hits / max(len(answer), len(letters))
    if counted is not None:
        score += CHECK_BONUS if counted == len(letters) > 0 else -CHECK_BONUS / 2
    return score


def reward(task: Task, text: str) -> float:
    """The reward model's score: quality, 0.001 a character, and fixed noise (s.d. 0.05)."""
    seed = zlib.crc32(f"{task.prompt_id}|1|{text}".encode())
    noise = NOISE * np.random.default_rng(seed).standard_normal()
    return quality(task, text) + LENGTH_BONUS * len(text) + float(noise)


def score_rows(rows: list[dict[str, Any]]) -> Iterator[tuple[int, float]]:
    """(position, reward) of response rows whose prompt_id is a task's, such as ``reverse-bdac``."""
    for k, row in enumerate(rows):
        skill, _, letters = row["prompt_id"].partition("-")
        if skill not in SKILLS or not letters or set(letters) - set(ALPHABET):
            raise WRPOError(
                f"prompt_id {row['prompt_id']!r} is no task of the nano testbed; score it with a "
                "reward model"
            )
        yield k, round(reward(Task(skill, letters), row["text"]), 4)


def scored(model: str, tasks: list[Task], texts: list[list[str]]) -> pd.DataFrame:
    """Responses of ``model``, a list for each task, with their rewards, as pairing reads them."""
    rows = [
        (task.prompt_id, model, k, text, reward(task, text))
        for task, own in zip(tasks, texts, strict=True)
        for k, text in enumerate(own)
    ]
    return pd.DataFrame(rows, columns=["prompt_id", "model", "sample", "text", "reward"])


def scripted_responses(world: World, tasks: list[Task]) -> pd.DataFrame:
    """Five scored responses of every source's scripted policy, for the notebooks' live cells."""
    rng, tables = world.rng(9), []
    for name in world.sources:
        policy = world.scripted_policy(name)
        texts = [[policy.respond(task, rng) for _ in range(5)] for task in tasks]
        tables.append(scored(name, tasks, texts))
    return pd.concat(tables, ignore_index=True)
