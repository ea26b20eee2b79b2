"""The nano world: skills on strings of letters, what each model has learned of them, the truth.

A prompt names a skill and four letters; the skill is one rearrangement of them, so the right answer
is computed. What a world draws at random is who can do what. The target is right half the time in
class A, has a wrong habit in class B, is right in class C; class D never occurs in preference data.
The sources word their answers in another way, are each weak in a few skills, and know class B.
All of it is ours; the values stand in ``recipes/nano/world.yaml``.
"""

import hashlib
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import permutations
from operator import eq
from typing import Any, NamedTuple

import numpy as np
from scipy.special import ndtri

from wrpo_lib.errors import WRPOError
from wrpo_lib.recipes import read_yaml, recipe_path

LETTERS = "ABCDEFGH"
LENGTH = 4
CLASSES = "ABCD"
SKILLS: dict[str, tuple[int, ...]] = {
    "blend": (1, 0, 3, 2),
    "carve": (3, 2, 1, 0),
    "drift": (1, 2, 3, 0),
    "flick": (3, 0, 1, 2),
    "glide": (2, 3, 0, 1),
    "hoist": (0, 2, 1, 3),
    "knead": (3, 1, 2, 0),
    "morph": (2, 0, 3, 1),
    "orbit": (0, 3, 2, 1),
    "stack": (2, 1, 0, 3),
    "twirl": (1, 3, 0, 2),
    "weave": (0, 1, 3, 2),
}
"""Skill -> which letter of the prompt stands at each place of the right answer."""

OWN_WORDINGS = ("it is {}.", "it is {};", "i say {}.", "i say {};")
SOURCE_WORDINGS = ("we get {}!", "try out {}!", "my bet {}?", "how of {}?")
WORDINGS = OWN_WORDINGS + SOURCE_WORDINGS  # eight tokens of the target with the end token

KNOBS = {"dpo": "beta", "ipo": "tau", "simpo": "beta"}
"""Form of the objective -> the setting that its grid varies beside the learning rate."""

_ORDERS = list(permutations(range(LENGTH)))


def nano_recipe() -> dict[str, Any]:
    """The ``testbed`` section of ``recipes/nano/world.yaml``."""
    return dict(read_yaml(recipe_path("nano", "world"))["testbed"])


class Prompt(NamedTuple):
    """One instruction."""

    skill: str
    letters: str

    @property
    def text(self) -> str:
        """The user turn, for example ``blend ABCD``."""
        return f"{self.skill} {self.letters}"

    @property
    def prompt_id(self) -> str:
        """``blend-ABCD``."""
        return f"{self.skill}-{self.letters}"

    @property
    def messages(self) -> list[dict[str, str]]:
        """The user turn as chat messages."""
        return [{"role": "user", "content": self.text}]

    def apply(self, order: tuple[int, ...]) -> str:
        """The letters rearranged."""
        return "".join(self.letters[k] for k in order)

    @property
    def answer(self) -> str:
        """The right letters."""
        return self.apply(SKILLS[self.skill])


def read_prompt(text: str) -> Prompt:
    """The prompt that a user turn holds; an error for text that is none of this world."""
    skill, _, letters = text.partition(" ")
    if skill not in SKILLS or len(letters) != LENGTH or set(letters) - set(LETTERS):
        raise WRPOError(f"{text!r} is no prompt of the nano world; write a skill and 4 letters")
    return Prompt(skill, letters)


def letters(response: str) -> list[str]:
    """Every run of letters that a response says."""
    return re.findall(f"[{LETTERS}]+", response)


def quality(prompt: Prompt, response: str) -> float:
    """The truth in [0, 1]: 1 for the right letters said once, else half the share in place.

    Letters said again halve what the first ones earn. Wording earns nothing.
    """
    said, answer = letters(response), prompt.answer
    if not said:
        return 0.0
    hits = sum(map(eq, said[0], answer)) / max(len(said[0]), LENGTH)
    score = 1.0 if said[0] == answer else hits / 2
    return score / 2 if len(said) > 1 else score


def source_style(response: str) -> bool:
    """Whether a response is in the sources' wording."""
    return response.startswith(tuple(w.partition("{}")[0] for w in SOURCE_WORDINGS))


def reward_noise(prompt: Prompt, responses: Iterable[str]) -> list[float]:
    """The reward model's N(0, 1) error, fixed by the texts, so a text scored twice scores alike."""
    texts = (f"{prompt.text}|{response}".encode() for response in responses)
    found = (int.from_bytes(hashlib.blake2b(t, digest_size=6).digest()) for t in texts)
    return [float(ndtri((number + 0.5) / 2**48)) for number in found]


def score_rows(rows: Iterable[dict[str, Any]]) -> Iterator[tuple[dict[str, Any], float]]:
    """Response rows whose prompt_id is that of a :class:`Prompt`, each with its reward: the truth
    with the text's own noise.

    :raises WRPOError: for a prompt_id of another kind.
    """
    sigma = nano_recipe()["reward"]["sigma"]
    for row in rows:
        prompt = read_prompt(row["prompt_id"].replace("-", " "))
        noise = reward_noise(prompt, [row["text"]])[0]
        yield row, quality(prompt, row["text"]) + sigma * noise


@dataclass(frozen=True)
class World:
    """A seed and the ``testbed`` section of the recipe; everything else follows from them."""

    seed: int
    recipe: dict[str, Any]

    def rng(self, *purpose: int) -> np.random.Generator:
        """An independent generator for a purpose; the same purpose gives the same numbers."""
        return np.random.default_rng([self.seed, *purpose])

    @cached_property
    def classes(self) -> dict[str, str]:
        """Skill -> class A, B, C or D, three skills each."""
        drawn = self.rng(0).permutation(list(SKILLS))
        return {skill: CLASSES[k % len(CLASSES)] for k, skill in enumerate(drawn.tolist())}

    @cached_property
    def habits(self) -> list[dict[str, tuple[int, ...]]]:
        """A wrong procedure per skill, three places off or more (the target's, each source's)"""
        found = []
        for k in range(len(self.weak) + 1):
            rng, habit = self.rng(6, k) if k else self.rng(1), {}
            for skill, right in SKILLS.items():
                far = [o for o in _ORDERS if sum(a == b for a, b in zip(o, right, strict=True)) < 2]
                habit[skill] = far[rng.integers(len(far))]
            found.append(habit)
        return found

    @cached_property
    def weak(self) -> list[set[str]]:
        """The skills that each source gets wrong, as many for every source."""
        lacking, n = self.recipe["sources"]["lacking"], len(self.recipe["sources"]["models"])
        rng, found = self.rng(2), [set[str]() for _ in range(n)]
        for skill in rng.permutation(list(SKILLS)).tolist():
            order = sorted(rng.permutation(n).tolist(), key=lambda k: len(found[k]))
            for k in order[: lacking[self.classes[skill]]]:
                found[k].add(skill)
        return found

    @cached_property
    def splits(self) -> dict[str, list[Prompt]]:
        """Prompts that share nothing, as ``heldout``, ``sft`` (classes A and C), ``preference``
        (A, B and C), and the rest, the ``corpus`` that target and sources are pretrained on."""
        sizes, rng = self.recipe["splits"], self.rng(3)
        strings = ["".join(LETTERS[i] for i in o) for o in permutations(range(8), LENGTH)]
        left = {skill: rng.permutation(strings).tolist() for skill in SKILLS}
        found: dict[str, list[Prompt]] = {}
        for name, classes in (("heldout", CLASSES), ("sft", "AC"), ("preference", "ABC")):
            skills = [s for s in SKILLS if self.classes[s] in classes]
            asked = skills * (sizes[name] // len(skills))
            drawn = [Prompt(skill, left[skill].pop()) for skill in asked]
            found[name] = [drawn[k] for k in rng.permutation(len(drawn))]
        return found | {"corpus": [Prompt(s, x) for s in SKILLS for x in left[s]]}

    def target_texts(self, phase: int) -> list[tuple[Prompt, str]]:
        """The (prompt, response) pairs of a phase of the target's pretraining.

        Texts in the sources' wordings are right; in its own the target has its habits, and now and
        then another order. The first phase (*base*) reads both, so the right procedures are there
        to be elicited; the second (*persona*) all but leaves the sources' wordings out.
        """
        spec, rng = self.recipe["target"], self.rng(4, phase)
        prompts, texts = self.splits["corpus"], []
        for k in rng.integers(len(prompts), size=spec["phases"][phase]["texts"]):
            prompt = prompts[k]
            foreign = rng.random() < spec["phases"][phase]["foreign"]
            order = SKILLS[prompt.skill]
            if not (foreign or rng.random() < spec["right"][self.classes[prompt.skill]]):
                order = self.habits[0][prompt.skill]
                if rng.random() < spec["stray"]:
                    order = _ORDERS[rng.integers(len(_ORDERS))]
            wordings = SOURCE_WORDINGS if foreign else OWN_WORDINGS
            texts.append((prompt, wordings[rng.integers(4)].format(prompt.apply(order))))
        return texts

    def source_texts(self, source: int, phase: int) -> list[tuple[Prompt, str]]:
        """The pairs that source 1, 2, ... learns from: two wordings, weak skills rare and wrong."""
        spec, rng = self.recipe["sources"], self.rng(5, source, phase)
        weak, prompts = self.weak[source - 1], self.splits["corpus"]
        seen = np.array([spec["seen"] if p.skill in weak else 1.0 for p in prompts])
        n = spec["models"][source - 1]["phases"][phase]["texts"]
        drawn = [prompts[k] for k in rng.choice(len(prompts), size=n, p=seen / seen.sum())]
        return [(prompt, self.source_says(source, prompt, rng)) for prompt in drawn]

    def source_says(self, source: int, prompt: Prompt, rng: np.random.Generator) -> str:
        """One response to a prompt as source 1, 2, ... learns it."""
        spec = self.recipe["sources"]
        able = rng.random() < spec["weak" if prompt.skill in self.weak[source - 1] else "able"]
        order = (SKILLS if able else self.habits[source])[prompt.skill]
        wording = SOURCE_WORDINGS[source % 2 :: 2][rng.integers(2)]
        return wording.format(prompt.apply(order))
