"""Checkpoints that are damaged, or that would run code, are refused in one sentence."""

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
from generation_rows import Tiny
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer

from wrpo_lib import models
from wrpo_lib.cli import generate
from wrpo_lib.errors import WRPOError
from wrpo_lib.models import load_causal_lm, load_trainable

NAME = "model.layers.1.mlp.up_proj.weight"
MARK = "code-ran"


def changed(folder: Path, weight: Any) -> None:
    """Put something else, or nothing, in place of one weight."""
    held = load_file(folder / "model.safetensors")
    kept = {name: weight(old) if name == NAME else old for name, old in held.items()}
    kept = {name: new for name, new in kept.items() if new is not None}
    save_file(kept, folder / "model.safetensors", {"format": "pt"})


def cut_short(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


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
    (partial(changed, weight=lambda old: old[:3]), "cannot load .*; check"),
    (cut_short, "cannot load .*; check"),
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


def test_a_gated_model_says_where_to_ask(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*given: Any, **options: Any) -> None:
        raise OSError("You are trying to access a gated repo.\nMake sure to have access to it")

    monkeypatch.setattr(AutoTokenizer, "from_pretrained", refuse)
    with pytest.raises(WRPOError, match=r"'a/b' .*gated repo.*, then `hf"):
        models.load_tokenizer("a/b")


@pytest.mark.parametrize(
    ("card", "installed", "engine"),
    [(True, True, "vllm"), (True, False, "transformers"), (False, True, "transformers")],
)
def test_vllm_is_the_default_where_it_can_run(
    monkeypatch: pytest.MonkeyPatch, card: bool, installed: bool, engine: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: card)
    monkeypatch.setattr(generate, "find_spec", lambda name: installed or None)
    assert generate._engine("auto") == engine
    assert generate._engine("server") == "server"
