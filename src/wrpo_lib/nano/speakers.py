"""How each nano model speaks: its framing words, its habits and its strengths.

A speaker turns a task into the text its model is trained on. Quality differs in ways that a
policy can shift towards: a wrong procedure as a habit (the slip), an optional check step, and
skills a model has hardly seen. The framing words are pure style and earn nothing. All of it ours.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from wrpo_lib.nano.tasks import SKILLS, Task, draw_tasks


def _pick(options: tuple[str, ...], rng: np.random.Generator) -> str:
    return options[int(rng.integers(len(options)))]


@dataclass(frozen=True)
class Speaker:
    """The habits a model is trained with.

    ``framings`` hold one ``{}`` for the letters, ``check_words`` one for their number. ``slip`` is
    the probability of the wrong procedure, ``check`` that of the check step. ``weak`` skills get
    ``weak_share`` of the data of another skill and slip with probability ``weak_slip``. With
    probability ``rare`` a framing is one of ``rare_framings``.
    """

    name: str
    framings: tuple[str, ...]
    check_words: tuple[str, ...]
    slip: float
    check: float
    weak: tuple[str, ...] = ()
    weak_slip: float = 0.5
    weak_share: float = 1.0
    rare_framings: tuple[str, ...] = ()
    rare: float = 0.0

    def skill_weights(self) -> dict[str, float]:
        """Share of each skill in the training data (unnormalised)."""
        return {s: self.weak_share if s in self.weak else 1.0 for s in SKILLS}

    def say(self, task: Task, rng: np.random.Generator, turn: int = 1) -> str:
        """One response to a turn of ``task``, habits drawn from ``rng``."""
        skill = task.then if turn == 2 and task.then else task.skill
        slips = rng.random() < (self.weak_slip if skill in self.weak else self.slip)
        letters = task.slip(turn) if slips else task.answer(turn)
        framings = self.rare_framings if rng.random() < self.rare else self.framings
        text = _pick(framings, rng).format(" ".join(letters))
        if rng.random() < self.check:
            text = f"{text} {_pick(self.check_words, rng).format(len(letters))}"
        return text

    def conversation(self, task: Task, rng: np.random.Generator) -> list[dict[str, str]]:
        """The whole conversation as chat messages, the last one the speaker's."""
        messages = [*task.messages, {"role": "assistant", "content": self.say(task, rng)}]
        if task.then:
            # a first turn in a conversation goes on from the right letters
            first = self.framings[0].format(" ".join(task.answer()))
            messages[1]["content"] = first
            messages += [
                {"role": "user", "content": task.follow_up},
                {"role": "assistant", "content": self.say(task, rng, turn=2)},
            ]
        return messages

    def corpus(
        self,
        rng: np.random.Generator,
        n: int,
        exclude: list[Task],
        two_turn: float = 0.1,
    ) -> list[list[dict[str, str]]]:
        """``n`` training conversations; tasks of ``exclude`` (the held-out splits) never occur."""
        tasks = draw_tasks(rng, n, self.skill_weights(), two_turn=two_turn, exclude=exclude)
        return [self.conversation(task, rng) for task in tasks]
