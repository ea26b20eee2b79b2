"""The testbed's tasks, truth, splits and models."""

from __future__ import annotations

from pathlib import Path

import pytest

from wrpo_lib.errors import WRPOError
from wrpo_lib.generation import sample
from wrpo_lib.nano.models import build_tokenizer
from wrpo_lib.nano.reward import MAX_QUALITY, is_exact, quality, read, reward
from wrpo_lib.nano.tasks import SKILLS, Task, task_from_id
from wrpo_lib.nano.world import World, load_model, open_world


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return open_world(7, tmp_path_factory.mktemp("world"))


@pytest.mark.parametrize(
    ("skill", "answer", "slip"),
    [
        ("copy", "bdca", "bdca"),
        ("reverse", "acdb", "cdba"),
        ("sort", "abcd", "bcda"),
        ("shift", "cedb", "ceda"),
        ("rotate", "dcab", "dcba"),
        ("swap", "adcb", "cdba"),
        ("pairs", "dbac", "dbca"),
        ("dedup", "bdca", "bdca"),
    ],
)
def test_every_skill_and_its_slip(skill: str, answer: str, slip: str) -> None:
    task = Task(skill, "bdca")
    assert "".join(task.answer()) == answer
    assert "".join(task.slip()) == slip


def test_skills_are_all_tested_and_ids_round_trip() -> None:
    assert set(SKILLS) == {"copy", "reverse", "sort", "shift", "rotate", "swap", "pairs", "dedup"}
    task = Task("sort", "cab", "reverse")
    assert task_from_id(task.prompt_id) == task
    assert task.answer(turn=2) == ["c", "b", "a"]


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
def test_quality_is_graded(text: str, value: float) -> None:
    assert quality(Task("reverse", "abc"), text) == pytest.approx(value)


def test_reward_is_quality_with_a_small_known_fault() -> None:
    task = Task("reverse", "abc")
    short, long = "answer : c b a .", "sure , the result is c b a ."
    assert reward(task, short) == reward(task, short)
    assert abs(reward(task, short) - quality(task, short)) < 0.3
    assert is_exact(task, long)
    assert read(long).count is None


def test_splits_share_nothing_and_depend_on_the_seed(world: World) -> None:
    splits = world.splits()
    parts = [splits.train, splits.validation, splits.test, splits.multi_turn]
    keys = [{(t.skill, t.letters) for t in part} for part in parts]
    assert sum(map(len, keys)) == len(set.union(*keys)) == sum(map(len, parts))
    assert splits == open_world(7, world.folder.parent).splits()
    assert splits != open_world(8, world.folder.parent).splits()


def test_no_held_out_task_is_in_a_corpus(world: World) -> None:
    held = {(t.skill, t.letters) for t in world.splits().held_out}
    corpus = world.speaker("target").corpus(world.rng(5), 3000, world.splits().held_out, 0.2)
    asked = {c[0]["content"] for c in corpus}
    assert not asked & {Task(*h).instruction for h in held}


def test_sources_are_heterogeneous(world: World) -> None:
    specs = [world.spec(n) for n in ("target", *world.sources)]
    assert len({s["model"]["model_type"] for s in specs}) == len(specs) == 4
    assert len({s["tokenizer"] for s in specs}) == 3


@pytest.mark.parametrize("kind", ["bpe", "metaspace", "wordpiece"])
def test_tokenizers_give_back_what_their_model_says(world: World, kind: str) -> None:
    speaker = world.speaker(world.sources[0])
    corpus = speaker.corpus(world.rng(6), 300, [], 0.2)
    texts = [m["content"] for c in corpus for m in c]
    tokenizer = build_tokenizer(kind, "turns", texts)
    for text in texts[:20]:
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert tokenizer.decode(ids) == text


def test_the_target_can_spell_what_sources_say(world: World) -> None:
    texts = [m["content"] for c in world.speaker("target").corpus(world.rng(6), 300, []) for m in c]
    tokenizer = build_tokenizer("bpe", "angle", texts)
    strange = "with pleasure : ä b a , that is all !"
    assert tokenizer.decode(tokenizer(strange, add_special_tokens=False)["input_ids"]) == strange


def test_a_model_trains_samples_and_is_kept(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(world.recipe["target"], "steps", 30)
    folder = world.train_model("target")
    stamp = (folder / "model.safetensors").stat().st_mtime_ns
    assert world.train_model("target") == folder
    assert (folder / "model.safetensors").stat().st_mtime_ns == stamp  # not trained again
    model, tokenizer = load_model(folder)
    prompts = [t.messages for t in world.splits().test[:5]]
    options = {"n": 2, "max_new_tokens": 8, "seed": 3}
    first = sample(model, tokenizer, prompts, **options, batch_size=2)
    assert [len(rows) for rows in first] == [2] * 5
    assert first == sample(model, tokenizer, prompts, **options, batch_size=2)
    assert first != sample(model, tokenizer, prompts, **{**options, "seed": 4}, batch_size=2)
    for rows in first:
        for row in rows:
            assert row["finish_reason"] in ("stop", "length")
            assert row["n_tokens"] <= 8


def test_unknown_names_and_missing_models_are_said(world: World, tmp_path: Path) -> None:
    with pytest.raises(WRPOError, match="no model 'nobody'; it has target"):
        world.spec("nobody")
    with pytest.raises(WRPOError, match="run `make results`"):
        load_model(tmp_path)
    with pytest.raises(WRPOError, match="temperature 0"):
        sample(None, None, [], n=2, temperature=0.0)  # type: ignore[arg-type]
