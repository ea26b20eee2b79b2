"""The batch engine is transformers and the real trainer, several members at a time."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer

from wrpo_lib.chat import render
from wrpo_lib.nano.batch import END, PAD, PATTERNS, Shape, build, forward, sample, tokenizer
from wrpo_lib.nano.fusion import Model, pool
from wrpo_lib.nano.preference import Arm, Run
from wrpo_lib.nano.world import OWN_WORDINGS, SOURCE_WORDINGS, World, read_prompt
from wrpo_lib.training import WRPOConfig, WRPOTrainer


def stack(members: int = 2, kind: str = "phrase") -> Model:
    shape = Shape(len(tokenizer(kind)), width=32, hidden=48)
    return Model(build(shape, list(range(members))), shape, kind)


@pytest.mark.parametrize("kind", list(PATTERNS))
def test_a_member_exports_as_a_checkpoint_with_the_same_logits(kind: str, tmp_path: Path) -> None:
    nano = stack(2, kind)
    for part in nano.export(1):
        part.save_pretrained(tmp_path)
    model, saved = (c.from_pretrained(tmp_path) for c in (AutoModelForCausalLM, AutoTokenizer))
    asked = [read_prompt("blend BDAC"), read_prompt("weave HGFE")]
    said = ["we get DBCA!", "it is zebra HGEF;"]
    answers = nano.response_ids(said, 24)
    ids = torch.cat([nano.prompt_ids(asked), answers], dim=1)
    logits, _ = forward(nano.params, ids.expand(2, -1, -1), nano.shape.heads)
    assert (logits[1] - model(ids).logits).abs().max() < 1e-5
    assert saved.batch_decode(answers, skip_special_tokens=True) == said
    rendered = render(saved, asked[0].messages, said[:1], None, None)
    row = ids[0].tolist()
    assert [*rendered.prompt_ids, *rendered.response_ids[0]] == row[: row.index(END) + 1]


def test_members_do_not_interact_and_sampling_is_the_policy() -> None:
    """A member alone gives what it gives in the stack; frequencies are the probabilities."""
    model, n = stack(), 4000
    prompts = torch.randint(4, model.shape.vocab, (2, 1, 5), generator=torch.manual_seed(0))
    noise = torch.rand((2, 1, n, 3), generator=torch.manual_seed(1))
    drawn = sample(model.params, prompts, model.shape.heads, noise, 1.0, 1.0)
    alone = {name: value[1:] for name, value in model.params.items()}
    again = sample(alone, prompts[1:], model.shape.heads, noise[1:], 1.0, 1.0)
    assert torch.equal(drawn[1], again[0])
    first = torch.stack([prompts[:, 0]] * model.shape.vocab, dim=1)
    every = torch.arange(model.shape.vocab)[None, :, None].expand(2, -1, -1)
    expected = model.score(torch.cat([first, every], -1), 5).exp()
    for of_member, probs in zip(drawn[:, 0, :, 0], expected, strict=True):
        found = torch.bincount(of_member, minlength=model.shape.vocab) / n
        seen = torch.arange(model.shape.vocab) != PAD  # whose log-probability is masked
        assert (found - probs)[seen].abs().max() < 4 * (0.25 / n) ** 0.5


def test_the_nucleus_leaves_out_the_tail_and_cached_steps_are_whole_passes() -> None:
    model = stack(1)
    prompts = torch.randint(4, model.shape.vocab, (1, 3, 6), generator=torch.manual_seed(0))
    noise = torch.rand((1, 3, 50, 4), generator=torch.manual_seed(1))
    greedy = sample(model.params, prompts, 4, noise[:, :, :1], temperature=0.0)
    tiny = sample(model.params, prompts, 4, noise, top_p=1e-6)
    assert torch.equal(tiny, greedy.expand(-1, -1, 50, -1))
    rows = torch.cat([prompts, greedy[:, :, 0]], dim=-1)
    best = forward(model.params, rows, 4)[0].argmax(-1)
    over = (greedy[:, :, 0] == END).cumsum(-1) > 0
    assert torch.equal(best[:, :, 5:-1][~over], rows[:, :, 6:][~over])


def pools(worlds: list[World], target: Model) -> dict[str, Any]:
    """Scripted responses: a source's, right or wrong, and five of the target's own."""

    def said(world: World, split: str, wordings: tuple[str, ...]) -> list[list[str]]:
        rng, texts = world.rng(99), []
        for prompt in world.splits[split]:
            right, drawn = rng.random(5) < 0.5, rng.choice(wordings, 5)
            letters = [prompt.answer if is_right else prompt.letters for is_right in right]
            texts.append([w.format(x) for w, x in zip(drawn, letters, strict=True)])
        return texts

    found = {}
    for split in ("preference", "heldout"):
        texts = {"source_1": [said(world, split, SOURCE_WORDINGS) for world in worlds]}
        texts["target_sft"] = [said(world, split, OWN_WORDINGS) for world in worlds]
        found[split] = pool(worlds, split, target, texts)
    return found


FORMS: Any = {"dpo": {"beta": 0.5}, "ipo": {"tau": 0.5}, "simpo": {"beta": 2.5, "gamma": 0.5}}


@pytest.mark.parametrize("form", FORMS)
def test_the_trajectory_is_that_of_the_real_trainer(
    small: dict[str, Any], tmp_path: Path, form: str
) -> None:
    """Losses, step by step, within 2e-4 of WRPOTrainer's on the same rows in the same order."""
    worlds, target = [World(seed, small) for seed in (100, 101)], stack()
    settings = FORMS[form] | {"learning_rate": 3e-3}
    arm = Arm("wrpo", sources=[1], form=form, alpha=0.5, settings=settings)
    run = Run(worlds, arm, target, pools(worlds, target), {"steps": 8, "batch": 4})
    run.train()

    model, tok = target.export(1)
    texts = [tok.batch_decode(row, skip_special_tokens=True) for row in run.rows[1]]
    names, rows = ("source_chosen", "target_chosen", "rejected"), []
    for own in texts:  # a prompt is a skill and four letters: the rest is the response
        end = own[0].index(" ") + 5
        said = dict(zip(names, (text[end:] for text in own), strict=True))
        rows.append({"prompt": [{"role": "user", "content": own[0][:end]}], **said})
    settings |= {"per_device_train_batch_size": 4, "train_sampling_strategy": "sequential"}
    settings |= {"use_cpu": True, "bf16": False, "activation_checkpointing": False}
    settings |= {"report_to": "none", "save_strategy": "no", "dataloader_pin_memory": False}
    args = WRPOConfig(str(tmp_path), objective=form, alpha=0.5, disable_tqdm=True, **settings)
    data = Dataset.from_list(rows)
    trainer = WRPOTrainer(model, args=args, train_dataset=data, processing_class=tok)
    trainer.train()
    real = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert run.losses[:, 1].tolist() == pytest.approx(real, rel=2e-4)
    assert np.ptp(real) > 0.02, "nothing was learned, so nothing was compared"
