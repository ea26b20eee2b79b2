"""The live target and sources of the notebooks, and the reward of ``wrpo score --nano``."""

from pathlib import Path

import numpy as np
import pytest

from wrpo_lib.errors import WRPOError
from wrpo_lib.generation import sample
from wrpo_lib.models import load_causal_lm
from wrpo_lib.nano import live
from wrpo_lib.nano.live import live_target, score_rows, scored, scripted_responses
from wrpo_lib.nano.world import World, quality, read_prompt
from wrpo_lib.quadruples import build_quadruples, validate_quadruples


def test_the_reward_is_the_truth_with_noise_of_the_recipes_size(world: World) -> None:
    prompts = world.splits["corpus"][:4000]
    rows = [{"prompt_id": p.prompt_id, "text": f"it is {p.answer}."} for p in prompts]
    rewards = np.array([reward for _, reward in score_rows(rows)])
    assert rewards.mean() == pytest.approx(1, abs=0.02)
    assert rewards.std() == pytest.approx(world.recipe["reward"]["sigma"], abs=0.01)
    table = scored("m", prompts[:3], [[row["text"]] for row in rows[:3]])
    assert table["reward"].tolist() == rewards[:3].tolist()
    with pytest.raises(WRPOError, match="'sort bdac' is no prompt of the nano world"):
        next(score_rows([{"prompt_id": "sort-bdac", "text": "x"}]))


def test_scripted_responses_are_right_as_often_as_the_recipe_says(world: World) -> None:
    said = scripted_responses(world, world.splits["preference"][:900])
    asked = [read_prompt(i.replace("-", " ")) for i in said["prompt_id"]]
    said["right"] = [quality(p, text) == 1 for p, text in zip(asked, said["text"], strict=True)]
    spec = world.recipe["sources"]
    weak = {f"source_{k}": skills for k, skills in enumerate(world.weak, 1)}
    said["weak"] = [p.skill in weak[m] for p, m in zip(asked, said["model"], strict=True)]
    share = said.groupby("weak")["right"].mean()
    assert share[True] == pytest.approx(spec["weak"], abs=0.02)
    assert share[False] == pytest.approx(spec["able"], abs=0.02)
    assert set(said.groupby(["model", "prompt_id"]).size()) == {5}


def test_a_live_target_is_a_folder_that_answers_alike_and_gives_quadruples(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world, model, tokenizer = live_target(steps=60)
    monkeypatch.setattr(live, "pretrained", None)  # it is kept, so nothing trains again
    again = live_target(steps=60)[1].state_dict()
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
