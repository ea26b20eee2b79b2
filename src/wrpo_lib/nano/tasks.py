"""The nano testbed: its tasks, the scripted policies whose texts its models learn, its worlds.

A task names a skill and a string of letters; the right answer is computed, so quality is known
exactly. A scripted policy turns a task into text. Quality differs in ways that a model can shift
towards: a wrong procedure as a habit (the slip), an optional check step, and skills hardly seen.
The framing words are pure style and earn nothing. The paper is silent on anything of this size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from wrpo_lib.quadruples.prompts import Split, make_split
from wrpo_lib.recipes import read_yaml, recipe_path
from wrpo_lib.records import project_root

ALPHABET = "abcdefghij"
SPLITS = ("test", "validation", "multi_turn", "train")
"""A third of ``train`` is for SFT, the rest for preferences; no model learns from the others."""


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
    def messages(self) -> list[dict[str, str]]:
        """The first turn as chat messages."""
        return [{"role": "user", "content": self.instruction}]

    def second_turn(self, first: str) -> list[dict[str, str]]:
        """The messages of the second turn, after ``first`` was answered in the first."""
        answered = {"role": "assistant", "content": first}
        return [*self.messages, answered, {"role": "user", "content": f"now {self.then} it"}]

    def answer(self, turn: int = 1) -> list[str]:
        """The right letters of a turn (1 or 2)."""
        skill, letters = self.asked(turn)
        return SKILLS[skill](letters)

    def slip(self, turn: int = 1) -> list[str]:
        """The systematic slip, which a policy can unlearn: the last letter is left out."""
        skill, letters = self.asked(turn)
        head = SKILLS[skill](letters[:-1]) if len(letters) > 1 else []
        return [*head, letters[-1]]

    def asked(self, turn: int) -> tuple[str, list[str]]:
        """Skill and letters of a turn; the second goes on from the first one's answer."""
        if turn == 2 and self.then:
            return self.then, self.answer()
        return self.skill, list(self.letters)


def task_from_id(prompt_id: str) -> Task:
    """The task that a ``prompt_id`` names."""
    return Task(*prompt_id.split("-"))


def draw_tasks(
    rng: np.random.Generator,
    n: int,
    weights: dict[str, float] | None = None,
    two_turn: float = 0.0,
    exclude: Iterable[Task] = (),
    unique: bool = False,
) -> list[Task]:
    """Draw ``n`` tasks of 3 to 5 letters; skills by ``weights``, none of ``exclude`` among them.

    ``exclude`` compares skill and letters, so a held-out string is held out in two-turn tasks too.
    """
    names = list(SKILLS)
    share = np.array([(weights or {}).get(name, 1.0) for name in names])
    share /= share.sum()
    taken = {(t.skill, t.letters) for t in exclude}
    tasks: list[Task] = []
    while len(tasks) < n:
        skill = names[rng.choice(len(names), p=share)]
        size = int(rng.integers(3, 6))
        letters = "".join(ALPHABET[i] for i in rng.integers(0, len(ALPHABET), size))
        then = names[rng.choice(len(names), p=share)] if rng.random() < two_turn else None
        if (skill, letters) not in taken:
            tasks.append(Task(skill, letters, then))
            if unique:
                taken.add((skill, letters))
    return tasks


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
        skill, _ = task.asked(turn)
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
        said, asked = self.respond(task, rng), task.messages
        if task.then:
            asked = task.second_turn(self.framings[0].format(" ".join(task.answer())))
            said = self.respond(task, rng, turn=2)
        return [*asked, {"role": "assistant", "content": said}]


@dataclass(frozen=True)
class World:
    """A recipe (``recipes/nano/world.yaml``) and a seed; everything else follows from them.

    A seed makes a whole world: prompts, split, every model's initial weights and corpus, sampling.
    It does not fix the vocabulary of a WordPiece tokenizer, whose trainer breaks ties differently
    in each process; what is made with that source differs between runs of one seed.
    """

    recipe: dict[str, Any]
    seed: int
    folder: Path

    def rng(self, *purpose: int) -> np.random.Generator:
        """An independent generator for a purpose; the same purpose gives the same numbers."""
        return np.random.default_rng([self.seed, *purpose])

    def splits(self) -> dict[str, list[Task]]:
        """Draw all prompts; the splits share no (skill, letters)."""
        sizes, rng = self.recipe["splits"], self.rng(0)
        drawn: dict[str, list[Task]] = {}
        for name in SPLITS:
            taken = [t for tasks in drawn.values() for t in tasks]
            two_turn = float(name == "multi_turn")
            drawn[name] = draw_tasks(rng, sizes[name], None, two_turn, taken, unique=True)
        return drawn

    def split(self) -> Split:
        """The SFT third and the preference rest of the train prompts (paper section 4.1)."""
        return make_split([t.prompt_id for t in self.splits()["train"]], self.seed)

    def preference_tasks(self) -> list[Task]:
        """The tasks of the preference part of the split."""
        tasks = {t.prompt_id: t for t in self.splits()["train"]}
        return [tasks[i] for i in self.split().preference]

    @property
    def sources(self) -> list[str]:
        """Names of the source models."""
        return [s["name"] for s in self.recipe["sources"]]

    def spec(self, name: str) -> dict[str, Any]:
        """The recipe's entry of a model."""
        return {s["name"]: s for s in (self.recipe["target"], *self.recipe["sources"])}[name]

    def scripted_policy(self, name: str) -> ScriptedPolicy:
        """The habits a model is trained with."""
        return ScriptedPolicy(**self.spec(name)["speaker"])

    def corpus(self, name: str, n: int, rng: np.random.Generator) -> list[list[dict[str, str]]]:
        """``n`` training conversations of a model; held-out tasks never occur."""
        policy, splits = self.scripted_policy(name), self.splits()
        held_out = [t for split in SPLITS if split != "train" for t in splits[split]]
        weights = dict.fromkeys(policy.weak, policy.weak_share)
        two_turn = self.recipe["pretraining"]["two_turn"]
        tasks = draw_tasks(rng, n, weights, two_turn, held_out)
        return [policy.conversation(task, rng) for task in tasks]

    def model_dir(self, name: str) -> Path:
        """Where a source, the target or a trained policy is kept."""
        return self.folder / "models" / name


def open_world(seed: int, runs: Path | None = None) -> World:
    """The world of a seed, kept under ``runs/nano/seed-<seed>``."""
    recipe = read_yaml(recipe_path("nano", "world"))
    return World(recipe, seed, (runs or project_root() / "runs" / "nano") / f"seed-{seed}")
