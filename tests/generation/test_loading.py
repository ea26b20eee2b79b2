"""Checkpoints that are damaged, or that would run code, are refused in one sentence."""

from __future__ import annotations

import io
import json
import shutil
import sys
from collections.abc import Callable
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


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def without_a_layer(folder: Path) -> None:
    kept = {name: held for name, held in weights(folder).items() if name != NAME}
    save_file(kept, folder / "model.safetensors", {"format": "pt"})


def not_a_number(folder: Path) -> None:
    held = weights(folder)
    held[NAME][3, 4] = float("nan")
    save_file(held, folder / "model.safetensors", {"format": "pt"})


def another_shape(folder: Path) -> None:
    held = {**weights(folder), NAME: torch.zeros(3, 3)}
    save_file(held, folder / "model.safetensors", {"format": "pt"})


def cut_short(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


def pickled(folder: Path) -> None:
    torch.save(weights(folder), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def with_code(folder: Path) -> None:
    code = f"from pathlib import Path\nPath({str(folder / MARK)!r}).touch()\n"
    (folder / "own.py").write_text(code)
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "own", "auto_map": {"AutoConfig": "own.C", "AutoModel": "own.M"}}
    (folder / "config.json").write_text(json.dumps(config))


DAMAGES = [
    (without_a_layer, f"lacks the weights '{NAME}'; take a whole checkpoint"),
    (not_a_number, f"has weights '{NAME}' that are no numbers"),
    (another_shape, "cannot load .*; check"),
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


def test_an_adapter_is_merged_into_its_base_or_refused(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from peft import LoraConfig, get_peft_model

    with torch.random.fork_rng():
        torch.manual_seed(0)
        base, _ = load_causal_lm(str(tiny.folder))
        config = LoraConfig(r=2, target_modules=["up_proj"], init_lora_weights=False)
        adapted = get_peft_model(base, config)
    folder, ids = tmp_path / "adapter", torch.tensor([[5, 6, 7]])
    adapted.save_pretrained(folder)
    tiny.tokenizer.save_pretrained(folder)
    names = str(folder), in_the_cache(folder, tmp_path / "hub", monkeypatch)
    with torch.no_grad():
        expected = adapted(ids).logits
        for name in names:
            assert torch.allclose(load_trainable(name)(ids).logits, expected, atol=1e-5)
            assert torch.allclose(load_causal_lm(name)[0](ids).logits, expected, atol=1e-5)
    file = folder / "adapter_model.safetensors"
    torch.save(load_file(file), file.with_suffix(".bin"))
    file.unlink()
    for load in (load_causal_lm, load_trainable):
        for name in names:
            with pytest.raises(WRPOError, match="adapter in a pickle"):
                load(name)


def in_the_cache(folder: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The id under which the hub's cache then holds ``folder``."""
    repository, commit = cache / "models--org--adapter", "0" * 40
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(commit)
    (repository / "snapshots").mkdir()
    (repository / ".no_exist" / commit).mkdir(parents=True)
    (repository / ".no_exist" / commit / "config.json").touch()
    (repository / "snapshots" / commit).symlink_to(folder)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))
    return "org/adapter"


def test_a_gated_model_says_where_to_ask(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*given: Any, **options: Any) -> None:
        raise OSError("You are trying to access a gated repo.\nMake sure to have access to it")

    monkeypatch.setattr(AutoTokenizer, "from_pretrained", refuse)
    with pytest.raises(WRPOError, match="'a/b' is gated; accept its licence at https://hugg"):
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
