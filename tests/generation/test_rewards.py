"""Reward models: right, deterministic, whatever the batch."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from commandline import wrpo
from generation_rows import Tiny, prompt_rows, write_rows
from safetensors.torch import load_file, save_file

from wrpo_lib.generation.local import RewardModel, load_reward_model
from wrpo_lib.io import read_rows

TEXTS = ["a b c", "the answer is a", "sure", "copy : " + "a b c d " * 9, "j", "result : i h g f e"]

BEST = "the answer is a b c"


def rows(n: int) -> list[dict[str, Any]]:
    return [
        {**row, "model": "m", "sample": k, "text": f"{TEXTS[(k + j) % len(TEXTS)]}{' x' * j}"}
        for j, row in enumerate(prompt_rows(n))
        for k in range(2)
    ]


def rewards_of(scorer: Any, rows: list[dict[str, Any]]) -> list[float]:
    """The rewards of some rows in their order."""
    found = dict(scorer(rows))
    return [found[k] for k in range(len(rows))]


def classifier(tiny: Tiny, pad: int | None, labels: int = 1) -> Any:
    from transformers import LlamaConfig, LlamaForSequenceClassification

    values = tiny.model.config.to_dict()
    values |= {"num_labels": labels, "pad_token_id": pad}
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return LlamaForSequenceClassification(LlamaConfig(**values)).eval()


@pytest.fixture(scope="module")
def saved(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("reward")
    classifier(tiny, tiny.tokenizer.pad_token_id).save_pretrained(folder)
    tiny.tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("pad", ["named", "none", "end token"])
def test_a_score_is_that_of_the_row_alone(tiny: Tiny, pad: str) -> None:
    """Against the model called on one row without padding, with each way of naming a pad token."""
    named, end = tiny.tokenizer.pad_token_id, tiny.tokenizer.eos_token_id
    model = classifier(tiny, {"named": named, "none": None, "end token": end}[pad])
    expected = []
    for row in rows(8):
        turns = [*row["prompt"], {"role": "assistant", "content": row["text"]}]
        alone = tiny.tokenizer.apply_chat_template(turns, return_tensors="pt", return_dict=True)
        with torch.no_grad():
            expected.append(float(model(**alone).logits))
    assert max(expected) - min(expected) > 0.1, "scores should differ"
    for tokens in (100_000, 400, 1):
        scorer = RewardModel(model, tiny.tokenizer, batch_tokens=tokens)
        assert rewards_of(scorer, rows(8)) == pytest.approx(expected, abs=1e-5)
        part = rewards_of(scorer, rows(8)[5:9])
        assert part == pytest.approx(expected[5:9], abs=1e-5)


def test_long_conversations_lose_their_beginning(tiny: Tiny) -> None:
    scorer = RewardModel(classifier(tiny, 0), tiny.tokenizer)
    long = {**rows(1)[0], "text": "a b c d e f g h " * 60}
    ids = scorer._ids(long)
    assert (len(ids), scorer.cut) == (256, 1)
    assert ids[-1] == tiny.tokenizer.eos_token_id, "the end of the response is what stays"


def test_a_reward_model_that_trl_trained(tiny: Tiny, tmp_path: Path) -> None:
    """A few steps of TRL's RewardTrainer, saved, loaded; the trained model's own scores."""
    from datasets import Dataset
    from trl import RewardConfig, RewardTrainer

    best, worst = ([{"role": "assistant", "content": text}] for text in (BEST, "j"))
    pairs = [{"prompt": r["prompt"], "chosen": best, "rejected": worst} for r in prompt_rows(8)]
    options = {"max_steps": 3, "per_device_train_batch_size": 8, "learning_rate": 1e-3}
    options |= {"report_to": "none", "disable_tqdm": True, "save_strategy": "no", "bf16": False}
    options |= {"use_cpu": True, "dataloader_pin_memory": False, "gradient_checkpointing": False}
    trainer = RewardTrainer(
        model=classifier(tiny, tiny.tokenizer.pad_token_id),
        args=RewardConfig(str(tmp_path / "run"), **options),
        train_dataset=Dataset.from_list(pairs),
        processing_class=tiny.tokenizer,
    )
    trainer.train()
    trainer.save_model(str(tmp_path / "reward"))
    same = {"model": "m", "sample": 0}
    made = [{**r, **same, "text": text} for text in (BEST, "j") for r in prompt_rows(8)]
    scores = rewards_of(load_reward_model(str(tmp_path / "reward")), made)
    assert all(won > lost for won, lost in zip(scores[:8], scores[8:], strict=True))
    batch = trainer.data_collator([trainer.train_dataset[k] for k in range(8)])
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    with torch.no_grad():
        theirs = trainer.model.eval()(**inputs).logits[:, 0]
    assert scores == pytest.approx(theirs.tolist(), abs=1e-5)


CUSTOM = '''
"""In the form of ArmoRM's code: its imports, and a `score` in its output."""
import torch
from torch import nn
from transformers import LlamaModel, LlamaPreTrainedModel
from transformers.models.llama.modeling_llama import LLAMA_INPUTS_DOCSTRING
from transformers.utils import ModelOutput, add_start_docstrings_to_model_forward


class Gated(LlamaPreTrainedModel):
    def __init__(self, config):
        super().__init__(config)
        self.model = LlamaModel(config)
        self.heads = nn.Linear(config.hidden_size, 3, bias=False)
        self.post_init()

    @add_start_docstrings_to_model_forward(LLAMA_INPUTS_DOCSTRING)
    def forward(self, input_ids=None, attention_mask=None, return_dict=None):
        hidden = self.model(input_ids, attention_mask=attention_mask)[0]
        first_pad = torch.eq(input_ids, self.config.pad_token_id).int().argmax(-1)
        last = (first_pad - 1) % input_ids.shape[-1]
        rewards = self.heads(hidden[torch.arange(len(hidden)), last])
        return ModelOutput(rewards=rewards, score=rewards.sum(1))
'''


def test_code_that_comes_with_a_model_needs_consent(
    tiny: Tiny, saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder in ArmoRM's form; ArmoRM itself (8B, on the hub) has not been run."""
    monkeypatch.setattr(sys, "path", [*sys.path])  # transformers puts the cache of modules there
    cache = str(tmp_path / "modules")
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", cache)
    folder = tmp_path / "custom"
    folder.mkdir()
    (folder / "modeling_gated.py").write_text(CUSTOM)
    config = json.loads((saved / "config.json").read_text())
    config["auto_map"] = {"AutoModelForSequenceClassification": "modeling_gated.Gated"}
    (folder / "config.json").write_text(json.dumps(config))
    weights = load_file(saved / "model.safetensors")
    weights["heads.weight"] = weights.pop("score.weight").repeat(3, 1)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    tiny.tokenizer.save_pretrained(folder)
    scorer = load_reward_model(str(folder), trust_remote_code=True)
    plain = rewards_of(load_reward_model(str(saved)), rows(5))
    assert type(scorer.model).__name__ == "Gated"
    assert rewards_of(scorer, rows(5)) == pytest.approx([3 * r for r in plain], abs=1e-4)


def test_a_reward_model_from_the_command_line(
    saved: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = write_rows(tmp_path / "r.jsonl", [*rows(4), {**rows(1)[0], "sample": 9, "text": " "}])
    out = tmp_path / "s.jsonl"
    code, said, _ = wrpo(capsys, "score", made, "--out", out, "--reward-model", saved)
    assert code == 0
    assert "made 8 rewards, 1 empty" in said
    found = {(r["prompt_id"], r["sample"]): r["reward"] for r in read_rows(out)}
    expected = rewards_of(load_reward_model(str(saved)), rows(4))
    assert [found[r["prompt_id"], r["sample"]] for r in rows(4)] == pytest.approx(expected)
