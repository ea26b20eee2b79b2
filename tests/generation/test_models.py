"""Models from folders: bad ones refused in one sentence, reward models right whatever the batch."""

import io
import json
import shutil
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from generation_rows import Tiny, prompt_rows, write_rows
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForSequenceClassification

from wrpo_lib.cli import generate
from wrpo_lib.errors import WRPOError
from wrpo_lib.generation.local import RewardModel, load_reward_model
from wrpo_lib.io import read_rows
from wrpo_lib.models import load_causal_lm, load_trainable

NAME = "model.layers.1.mlp.up_proj.weight"
MARK = "code-ran"


def changed(folder: Path, weight: Any) -> None:
    """Put something else, or nothing, in place of one weight."""
    held = load_file(folder / "model.safetensors")
    kept = {name: weight(old) if name == NAME else old for name, old in held.items()}
    kept = {name: new for name, new in kept.items() if new is not None}
    save_file(kept, folder / "model.safetensors", {"format": "pt"})


def pickled(folder: Path) -> None:
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def with_code(folder: Path) -> None:
    code = f"from pathlib import Path\nPath({str(folder / MARK)!r}).touch()\n"
    (folder / "own.py").write_text(code)
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "own", "auto_map": {"AutoConfig": "own.C", "AutoModel": "own.M"}}
    (folder / "config.json").write_text(json.dumps(config))


DAMAGES = [
    (partial(changed, weight=lambda old: None), f"lacks the weights '{NAME}'; take a whole"),
    (pickled, r"cannot load .*safetensors.*; check"),
    (with_code, r"cannot load .*; check"),
]


@pytest.mark.parametrize(("damage", "sentence"), DAMAGES)
@pytest.mark.parametrize("load", [load_causal_lm, load_trainable])
def test_what_is_refused(
    load: Callable[[str], object],
    damage: Callable[[Path], None],
    sentence: str,
    tiny: Tiny,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """And transformers' question whether to run code is never asked, so nobody answers it."""
    folder = tmp_path / "model"
    shutil.copytree(tiny.folder, folder)
    damage(folder)
    answers = io.StringIO("y\n" * 9)
    monkeypatch.setattr(sys, "stdin", answers)
    with pytest.raises(WRPOError, match=sentence) as told:
        load(str(folder))
    assert "\n" not in str(told.value)
    assert answers.tell() == 0
    assert not (folder / MARK).exists()


def test_an_adapter_is_merged_into_its_base_or_refused(tiny: Tiny, tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model

    with torch.random.fork_rng():
        torch.manual_seed(0)
        base, _ = load_causal_lm(str(tiny.folder))
        config = LoraConfig(r=2, target_modules=["up_proj"], init_lora_weights=False)
        adapted = get_peft_model(base, config)
    ids, file = torch.tensor([[5, 6, 7]]), tmp_path / "adapter_model.safetensors"
    adapted.save_pretrained(tmp_path)
    tiny.tokenizer.save_pretrained(tmp_path)
    loads = (load_trainable, lambda folder: load_causal_lm(folder)[0])
    with torch.no_grad():
        expected = adapted(ids).logits
        for load in loads:
            assert torch.allclose(load(str(tmp_path))(ids).logits, expected, atol=1e-5)
    torch.save(load_file(file), file.with_suffix(".bin"))
    file.unlink()
    for load in loads:
        with pytest.raises(WRPOError, match="adapter in a pickle"):
            load(str(tmp_path))


def test_vllm_is_the_default_where_it_can_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generate, "find_spec", lambda name: True)
    hub = {"revision": None, "trust_remote_code": False, "dtype": "auto"}
    for card, engine in ((True, "vllm"), (False, "transformers")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda card=card: card)
        _, settings = generate.engine_maker("auto", "a/b", None, ("", "KEY", 1), "{}", **hub)
        assert settings["engine"] == engine


# --- reward models ---

TEXTS = ["a b c", "the answer is a", "sure", "copy : " + "a b c d " * 9, "j", "result : i h g f e"]


def rows(n: int) -> list[dict[str, Any]]:
    return [
        {**row, "model": "m", "sample": k, "text": f"{TEXTS[(k + j) % len(TEXTS)]}{' x' * j}"}
        for j, row in enumerate(prompt_rows(n))
        for k in range(2)
    ]


def rewards_of(scorer: Any, rows: list[dict[str, Any]]) -> list[float]:
    """The rewards of some rows in their order."""
    found = {(r["prompt_id"], r["sample"], r["text"]): reward for r, reward in scorer(rows)}
    return [found[r["prompt_id"], r["sample"], r["text"]] for r in rows]


def classifier(tiny: Tiny, pad: int | None, labels: int = 1) -> Any:
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


def test_a_reward_model_from_the_command_line(saved: Path, tmp_path: Path, wrpo: Any) -> None:
    """A blank text gets no reward; a conversation that is too long loses its beginning."""
    long = {**rows(1)[0], "sample": 8, "text": "a b c d e f g h " * 60}
    given = [*rows(4), long, {**long, "sample": 9, "text": " "}]
    made, out = write_rows(tmp_path / "r.jsonl", given), tmp_path / "s.jsonl"
    code, said, _ = wrpo("score", made, "--out", out, "--reward-model", saved)
    assert code == 0
    assert "made 9 rewards, 1 cut at the beginning, 1 empty" in said
    found = {(r["prompt_id"], r["sample"]): r["reward"] for r in read_rows(out)}
    earlier = {**long, "prompt": [{"role": "user", "content": "b"}]}
    expected = rewards_of(load_reward_model(str(saved)), [*rows(4), earlier])
    assert [found[r["prompt_id"], r["sample"]] for r in given[:-1]] == pytest.approx(expected)
