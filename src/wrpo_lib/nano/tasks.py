"""The tasks of the nano testbed: templated instructions over short strings of letters.

The paper is silent on anything of this size; the tasks are ours. A task names a skill and a
string; the right answer is computed, so quality is known exactly and no judge is needed to
establish the truth.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

ALPHABET = "abcdefghij"


def _pairs(x: Sequence[str]) -> list[str]:
    return [c for i in range(0, len(x), 2) for c in reversed(x[i : i + 2])]


def _shift(x: Sequence[str]) -> list[str]:
    return [ALPHABET[(ALPHABET.index(c) + 1) % len(ALPHABET)] for c in x]


SKILLS: dict[str, Callable[[Sequence[str]], list[str]]] = {
    "copy": lambda x: list(x),
    "reverse": lambda x: list(reversed(x)),
    "sort": lambda x: sorted(x),
    "shift": _shift,
    "rotate": lambda x: [*x[1:], x[0]],
    "swap": lambda x: [x[-1], *x[1:-1], x[0]] if len(x) > 1 else list(x),
    "pairs": _pairs,
    "dedup": lambda x: list(dict.fromkeys(x)),
}
"""Skill name -> the operation on a list of letters, easy to hard."""


@dataclass(frozen=True)
class Task:
    """One instruction: apply ``skill`` to ``letters``; ``then`` is the skill of a second turn."""

    skill: str
    letters: str
    then: str | None = None

    @property
    def prompt_id(self) -> str:
        """A readable unique id, for example ``reverse-bdac``."""
        return "-".join(filter(None, (self.skill, self.letters, self.then)))

    @property
    def instruction(self) -> str:
        """The first user turn."""
        return f"{self.skill} : {' '.join(self.letters)}"

    @property
    def follow_up(self) -> str:
        """The second user turn (only for two-turn tasks)."""
        return f"now {self.then} it"

    @property
    def messages(self) -> list[dict[str, str]]:
        """The first turn as chat messages."""
        return [{"role": "user", "content": self.instruction}]

    def second_turn(self, first: str) -> list[dict[str, str]]:
        """The messages of the second turn, after ``first`` was answered in the first."""
        answered = {"role": "assistant", "content": first}
        return [*self.messages, answered, {"role": "user", "content": self.follow_up}]

    def answer(self, turn: int = 1) -> list[str]:
        """The right letters of a turn (1 or 2)."""
        first = SKILLS[self.skill](list(self.letters))
        return first if turn == 1 or self.then is None else SKILLS[self.then](first)

    def slip(self, turn: int = 1) -> list[str]:
        """The systematic slip: the last letter is left out of the operation.

        A wrong procedure rather than a random error, so a policy can learn to avoid it.
        """
        skill, letters = self.skill, list(self.letters)
        if turn == 2 and self.then is not None:
            skill, letters = self.then, SKILLS[self.skill](letters)
        head = SKILLS[skill](letters[:-1]) if len(letters) > 1 else []
        return [*head, letters[-1]]


def task_from_id(prompt_id: str) -> Task:
    """The task that a ``prompt_id`` names."""
    skill, letters, *then = prompt_id.split("-")
    return Task(skill, letters, then[0] if then else None)


def draw_tasks(
    rng: np.random.Generator,
    n: int,
    weights: dict[str, float] | None = None,
    lengths: tuple[int, int] = (3, 5),
    two_turn: float = 0.0,
    exclude: Iterable[Task] = (),
    unique: bool = False,
) -> list[Task]:
    """Draw ``n`` tasks; skills by ``weights`` (uniform if None), none of ``exclude`` among them.

    ``exclude`` compares skill and letters, so a held-out string is held out in two-turn tasks too.
    """
    names = list(SKILLS)
    share = np.array([1.0 if weights is None else weights.get(s, 0.0) for s in names])
    share /= share.sum()
    taken = {(t.skill, t.letters) for t in exclude}
    tasks: list[Task] = []
    while len(tasks) < n:
        skill = names[rng.choice(len(names), p=share)]
        size = int(rng.integers(lengths[0], lengths[1] + 1))
        letters = "".join(ALPHABET[i] for i in rng.integers(0, len(ALPHABET), size))
        then = names[rng.choice(len(names), p=share)] if rng.random() < two_turn else None
        if (skill, letters) in taken:
            continue
        if unique:
            taken.add((skill, letters))
        tasks.append(Task(skill, letters, then))
    return tasks
