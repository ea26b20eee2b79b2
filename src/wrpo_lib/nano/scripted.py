"""Scripted policies: the texts that the nano models are trained on.

A scripted policy turns a task into text. Quality differs in ways that a model can shift towards: a
wrong procedure as a habit (the slip), an optional check step, and skills hardly seen. The framing
words are pure style and earn nothing. All of it is ours.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from wrpo_lib.nano.tasks import SKILLS, Task, draw_tasks


@dataclass(frozen=True)
class ScriptedPolicy:
    """The habits a model is trained with.

    ``framings`` hold one ``{}`` for the letters, ``check_words`` one for their number. ``slip`` is
    the probability of the wrong procedure, ``check`` that of the check step. ``weak`` skills get
    ``weak_share`` of the data of another skill and slip with probability ``weak_slip``. With
    probability ``rare`` a framing is one of ``rare_framings``.
    """

    framings: list[str]
    check_words: list[str]
    slip: float
    check: float
    weak: list[str]
    weak_slip: float
    weak_share: float
    rare_framings: list[str] | None = None
    rare: float = 0.0

    def respond(self, task: Task, rng: np.random.Generator, turn: int = 1) -> str:
        """One response to a turn of ``task``, habits drawn from ``rng``."""
        skill = task.then if turn == 2 and task.then else task.skill
        slips = rng.random() < (self.weak_slip if skill in self.weak else self.slip)
        letters = task.slip(turn) if slips else task.answer(turn)
        rare = rng.random() < self.rare
        framings = self.rare_framings if rare and self.rare_framings else self.framings
        text = framings[rng.integers(len(framings))].format(" ".join(letters))
        if rng.random() < self.check:
            words = self.check_words[rng.integers(len(self.check_words))]
            text = f"{text} {words.format(len(letters))}"
        return text

    def conversation(self, task: Task, rng: np.random.Generator) -> list[dict[str, str]]:
        """The whole conversation as chat messages, the last one the policy's.

        The first turn of two has the right letters, so the second goes on from them.
        """
        said = self.respond(task, rng)
        if not task.then:
            return [*task.messages, {"role": "assistant", "content": said}]
        first = self.framings[0].format(" ".join(task.answer()))
        second = self.respond(task, rng, turn=2)
        return [*task.second_turn(first), {"role": "assistant", "content": second}]

    def corpus(
        self, rng: np.random.Generator, n: int, exclude: list[Task], two_turn: float
    ) -> list[list[dict[str, str]]]:
        """``n`` training conversations; tasks of ``exclude`` (the held-out splits) never occur."""
        weights = {s: self.weak_share if s in self.weak else 1.0 for s in SKILLS}
        tasks = draw_tasks(rng, n, weights, two_turn=two_turn, exclude=exclude)
        return [self.conversation(task, rng) for task in tasks]
