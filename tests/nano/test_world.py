"""The testbed's tasks, truth, splits and models."""

from __future__ import annotations

import pytest

from wrpo_lib.nano.reward import MAX_QUALITY, quality, reward
from wrpo_lib.nano.tasks import SKILLS, Task, World, open_world, task_from_id
from wrpo_lib.tiny import build_tokenizer

ANSWERS = {
    "copy": ("bdca", "bdca"),
    "reverse": ("acdb", "cdba"),
    "sort": ("abcd", "bcda"),
    "shift": ("cedb", "ceda"),
    "rotate": ("dcab", "dcba"),
    "swap": ("adcb", "cdba"),
    "pairs": ("dbac", "dbca"),
    "dedup": ("bdca", "bdca"),
}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return open_world(7, tmp_path_factory.mktemp("world"))


@pytest.mark.parametrize("skill", SKILLS)
def test_every_skill_and_its_slip(skill: str) -> None:
    task = Task(skill, "bdca")
    assert ("".join(task.answer()), "".join(task.slip())) == ANSWERS[skill]
    twice = Task("sort", "cab", skill)  # its second turn goes on from abc
    assert task_from_id(twice.prompt_id) == twice
    assert twice.answer(turn=2) == Task(skill, "abc").answer()


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("answer : c b a .", 1.0),
        ("sure , the result is c b a . i count 3 letters .", MAX_QUALITY),
        ("answer : c b a . i count 4 letters .", 0.8),
        ("answer : c a b .", 0.5 / 3),
        ("answer : c b .", 0.5 * 2 / 3),
        ("no letters here", 0.0),
    ],
)
def test_the_reward_is_graded_quality_with_a_small_known_fault(text: str, value: float) -> None:
    task = Task("reverse", "abc")
    assert quality(task, text) == pytest.approx(value)
    assert reward(task, text) == reward(task, text)
    assert 0 < abs(reward(task, text) - value) < 0.3


def test_splits_share_nothing_depend_on_the_seed_and_stay_out_of_corpora(world: World) -> None:
    splits = world.splits()
    keys = [{(t.skill, t.letters) for t in part} for part in splits.values()]
    assert sum(map(len, keys)) == len(set.union(*keys)) == sum(map(len, splits.values()))
    assert splits == open_world(7, world.folder.parent).splits()
    assert splits != open_world(8, world.folder.parent).splits()
    asked = {c[0]["content"] for c in world.corpus("target", 3000, world.rng(5))}
    for part in ("test", "validation", "multi_turn"):
        assert not asked & {t.instruction for t in splits[part]}


@pytest.mark.parametrize("kind", ["bpe", "metaspace", "wordpiece"])
def test_tokenizers_give_back_what_their_model_says(world: World, kind: str) -> None:
    corpus = world.corpus(world.sources[0], 300, world.rng(6))
    texts = [m["content"] for c in corpus for m in c]
    tokenizer = build_tokenizer(kind, "turns", texts)
    if kind == "bpe":  # the target's kind can spell whatever a source says
        texts.insert(0, "with pleasure : ä b a , that is all !")
    for text in texts[:20]:
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert tokenizer.decode(ids) == text
