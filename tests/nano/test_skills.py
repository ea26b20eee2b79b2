"""The nano world: its truth, its prompts, what its models read; what runs live on it."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from wrpo_lib.errors import WRPOError
from wrpo_lib.generation.local import sample
from wrpo_lib.models import load_causal_lm
from wrpo_lib.nano import fusion
from wrpo_lib.nano.batch import tokenizer
from wrpo_lib.nano.fusion import live_target, scored, scripted_responses
from wrpo_lib.nano.world import (
    CLASSES,
    SKILLS,
    WORDINGS,
    Prompt,
    World,
    quality,
    read_prompt,
    score_rows,
    source_style,
)
from wrpo_lib.quadruples import build_quadruples, validate_quadruples


@pytest.mark.parametrize(
    ("response", "value"),
    [
        ("it is BCDA.", 1.0),
        ("it is BCAD.", 0.25),
        ("it is BCDABCDA.", 0.25),  # four of eight letters in place
        ("it is BCDA. it is BCDA.", 0.5),
        ("it is .", 0.0),
    ],
)
def test_the_truth_reads_the_letters_and_punishes_repetition(response: str, value: float) -> None:
    assert quality(read_prompt("drift ABCD"), response) == value


@pytest.mark.parametrize("text", ["", "drift", "drift ABC", "drift ABCZ", "sort ABCD"])
def test_a_prompt_of_another_world_is_refused(text: str) -> None:
    with pytest.raises(WRPOError, match="no prompt of the nano world"):
        next(score_rows([{"prompt_id": text.replace(" ", "-"), "text": "x"}]))


def test_the_reward_is_the_truth_with_noise_of_the_recipes_size(world: World) -> None:
    prompts, sigma = world.splits["corpus"][:9000], world.recipe["reward"]["sigma"]
    rows = [{"prompt_id": p.prompt_id, "text": f"it is {p.answer}."} for p in prompts]
    rewards = np.array([reward for _, reward in score_rows(rows)])
    assert rewards.mean() == pytest.approx(1, abs=0.01)
    assert rewards.std() == pytest.approx(sigma, abs=0.01)
    assert abs(np.corrcoef(rewards[:-1], rewards[1:])[0, 1]) < 0.04
    table = scored("m", prompts[:3], [[row["text"]] for row in rows[:3]])
    assert table["reward"].tolist() == rewards[:3].tolist()


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
    said = scripted_responses(world, world.splits["preference"][:900])
    asked = [read_prompt(i.replace("-", " ")) for i in said["prompt_id"]]
    said["right"] = [quality(p, text) == 1 for p, text in zip(asked, said["text"], strict=True)]
    weak = {f"source_{k}": skills for k, skills in enumerate(world.weak, 1)}
    said["weak"] = [p.skill in weak[m] for p, m in zip(asked, said["model"], strict=True)]
    share, spec = said.groupby("weak")["right"].mean(), world.recipe["sources"]
    assert share[True] == pytest.approx(spec["weak"], abs=0.02)
    assert share[False] == pytest.approx(spec["able"], abs=0.02)
    assert set(said.groupby(["model", "prompt_id"]).size()) == {5}
    assert all(source_style(text) for _, text in world.source_texts(1, 0))


def test_skills_differ_and_wordings_at_equal_length() -> None:
    """Length cannot tell source and target apart in the target's vocabulary."""
    assert len({Prompt(skill, "ABCD").answer for skill in SKILLS}) == len(SKILLS) == 12
    tok = tokenizer("phrase")
    said = [w.format("BCDA") for w in WORDINGS]
    assert {len(tok.tokenize(text)) for text in said} == {7}
    assert [source_style(text) for text in said] == [False] * 4 + [True] * 4


def test_a_live_target_is_a_folder_that_answers_alike_and_gives_quadruples(
    recipe: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    phases = [phase | {"steps": 60} for phase in recipe["target"]["phases"]]
    short = recipe | {"target": recipe["target"] | {"phases": phases}}
    monkeypatch.setattr(fusion, "nano_recipe", lambda: short)
    world, model, tokenizer = live_target()
    monkeypatch.setattr(fusion, "pretrained", None)  # it is kept, so nothing trains again
    again = live_target()[1].state_dict()
    assert all(value.equal(again[name]) for name, value in model.state_dict().items())
    prompts = world.splits["preference"][:12]
    asked = {p.prompt_id: p.messages for p in prompts}
    options = {"n": 5, "max_new_tokens": 9, "seed": 1}
    drawn = sample(model, tokenizer, [*asked.values()], **options)
    for part in (model, tokenizer):
        part.save_pretrained(tmp_path)
    loaded = load_causal_lm(str(tmp_path))
    assert sample(*loaded, [*asked.values()], **options) == drawn
    texts = [[row["text"] for row in rows] for rows in drawn]
    quadruples, counts = build_quadruples(
        asked, scripted_responses(world, prompts), scored("target", prompts, texts)
    )
    assert counts["kept"] == len(quadruples) > 6
    assert not list(validate_quadruples(quadruples))
