"""The nano world: its truth, its prompts, what its models read."""

from collections import Counter
from typing import Any

import numpy as np
import pytest

from wrpo_lib.errors import WRPOError
from wrpo_lib.nano import export
from wrpo_lib.nano.collective import COLLECTIVE, chosen
from wrpo_lib.nano.world import (
    CLASSES,
    OWN_WORDINGS,
    SKILLS,
    SOURCE_WORDINGS,
    Prompt,
    World,
    quality,
    read_prompt,
    repeats,
    reward_noise,
    source_style,
)


def test_every_skill_is_another_rearrangement() -> None:
    assert len(set(SKILLS.values())) == len(SKILLS) == 12
    assert all(sorted(order) == [0, 1, 2, 3] for order in SKILLS.values())
    assert Prompt("drift", "ABCD").answer == "BCDA"


@pytest.mark.parametrize(
    ("response", "value"),
    [
        ("it is BCDA.", 1.0),
        ("we get BCDA!", 1.0),
        ("it is BCAD.", 0.25),
        ("it is BCDABCDA.", 0.25),  # four of eight letters in place
        ("it is BCDA. it is BCDA.", 0.5),
        ("it is .", 0.0),
    ],
)
def test_the_truth_reads_the_letters_and_punishes_repetition(response: str, value: float) -> None:
    assert quality(Prompt("drift", "ABCD"), response) == value
    assert repeats(response) == (len([c for c in response if c.isupper()]) > 4)


@pytest.mark.parametrize("text", ["", "drift", "drift ABC", "drift ABCZ", "sort ABCD"])
def test_a_prompt_of_another_world_is_refused(text: str) -> None:
    with pytest.raises(WRPOError, match="no prompt of the nano world"):
        read_prompt(text)
    assert read_prompt("drift ABCD") == Prompt("drift", "ABCD")


def test_the_noise_is_that_of_the_text() -> None:
    prompt = Prompt("drift", "ABCD")
    texts = [f"it is {k}." for k in range(20_000)]
    noise = np.array(reward_noise(prompt, texts))
    assert noise.tolist() == reward_noise(prompt, iter(texts))
    assert abs(noise.mean()) < 0.03
    assert abs(noise.std() - 1) < 0.03
    assert abs(np.corrcoef(noise[:-1], noise[1:])[0, 1]) < 0.03


def test_a_seed_makes_a_world_and_splits_share_nothing(
    world: World, recipe: dict[str, Any]
) -> None:
    assert world.splits == World(100, recipe).splits
    assert world.classes != World(101, recipe).classes
    parts = world.splits.values()
    assert len(set().union(*parts)) == sum(map(len, parts)) == 12 * 8 * 7 * 6 * 5
    classes = {name: {world.classes[p.skill] for p in part} for name, part in world.splits.items()}
    assert classes["sft"] == set("AC")
    assert classes["preference"] == set("ABC")
    assert classes["heldout"] == classes["corpus"] == set(CLASSES)
    heldout = Counter(world.classes[p.skill] for p in world.splits["heldout"])
    assert set(heldout.values()) == {60}


def test_the_persona_hides_what_the_base_can(world: World) -> None:
    """By class and by whose words: how often the target's texts are right."""
    habits = world.recipe["target"]["right"]
    foreign = []
    for phase in (0, 1):
        texts = world.target_texts(phase)
        foreign.append(np.mean([source_style(said) for _, said in texts]))
        for style, shares in ((True, dict.fromkeys(CLASSES, 1.0)), (False, habits)):
            right: dict[str, list[bool]] = {c: [] for c in CLASSES}
            for prompt, said in texts:
                if source_style(said) == style:
                    right[world.classes[prompt.skill]].append(quality(prompt, said) == 1)
            found = {c: float(np.mean(values)) for c, values in right.items()}
            assert found == pytest.approx(shares, abs=0.05)
    assert foreign == pytest.approx([0.5, 0.05], abs=0.02)


def test_some_source_knows_every_skill_and_each_lacks_as_many(world: World) -> None:
    lacking = [len(skills) for skills in world.weak]
    assert max(lacking) - min(lacking) <= 1
    assert not set.intersection(*world.weak)
    spec = world.recipe["sources"]
    for k, weak in enumerate(world.weak, 1):
        texts = world.source_texts(k, 0)
        able = [quality(p, said) == 1 for p, said in texts if p.skill not in weak]
        assert np.mean(able) == pytest.approx(spec["able"], abs=0.02)
        assert all(source_style(said) for _, said in texts)


def test_wordings_differ_at_equal_length() -> None:
    """Length cannot tell source and target apart in the target's vocabulary."""
    tok = export.tokenizer("phrase")
    said = [w.format("BCDA") for w in (*OWN_WORDINGS, *SOURCE_WORDINGS)]
    assert {len(tok.tokenize(text)) for text in said} == {7}
    assert [source_style(text) for text in said] == [False] * 4 + [True] * 4


def test_collective_rules_choose_what_they_say() -> None:
    prompt, sigma = Prompt("drift", "ABCD"), 0.0
    texts = ["we get ABCD!", "we get BCDA!", "try out ABCD?", "we get BCAD!"]
    known = [-3.0, -2.0, -1.0, -4.0]
    assert {rule: chosen(rule, prompt, texts, sigma, known) for rule in COLLECTIVE} == {
        "sources_reward": 1,
        "sources_pairwise": 1,
        "sources_perplexity": 2,
        "sources_vote": 0,
    }
