"""The page *Your own runs* is typed in, command by command, on tiny models."""

import functools
import re
import shlex
import subprocess
from itertools import product
from pathlib import Path

import pytest
import torch
import yaml
from commandline import wrpo
from local_server import judge_at
from transformers import LlamaConfig, LlamaForSequenceClassification

from wrpo_lib.generation import local
from wrpo_lib.io import read_rows, write_rows
from wrpo_lib.models import build_model, build_tokenizer, load_causal_lm
from wrpo_lib.nano.judge import MODEL, Judge, respond
from wrpo_lib.recipes import recipe_names, recipes_dir
from wrpo_lib.records import project_root
from wrpo_lib.training import run

PAGE = project_root() / "book" / "running.md"
SHAPE = {"model_type": "llama", "max_position_embeddings": 512, **run.MODEL}
SHORT = {"gradient_accumulation_steps": 1, "save_steps": 1, "max_steps": 2}
TARGET, REWARD = "meta-llama/Meta-Llama-3-8B-Instruct", "RLHFlow/ArmoRM-Llama3-8B-v0.1"


def typed() -> list[list[str]]:
    """What follows `wrpo` in the lines that the page shows after a prompt.

    Runs of other profiles, and of several processes, are dry.
    """
    blocks = re.findall(r"```console\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    shown = [line for block in blocks for line in block.splitlines() if line.startswith("$ ")]
    found = []
    for words in (shlex.split(line.removeprefix("$ "), comments=True) for line in shown):
        if words[0] == "accelerate":
            assert (recipes_dir().parent / words[words.index("--config_file") + 1]).is_file()
            found.append([*words[words.index("wrpo_lib.cli") + 1 :], "--dry-run"])
        elif words[0] == "wrpo":
            found.append([*words[1:], "--dry-run"] if "smol/wrpo" in words else words[1:])
    return found


def save_models(folder: Path) -> dict[str, str]:
    """A target and a reward model; what the page names them -> where they lie."""
    tokenizer = build_tokenizer([])
    target = build_model(SHAPE, tokenizer, seed=0)
    torch.manual_seed(1)
    config = LlamaConfig(**{**target.config.to_dict(), "num_labels": 1})
    reward = LlamaForSequenceClassification(config)
    places = {TARGET: str(folder / "target"), REWARD: str(folder / "reward")}
    for model, place in zip((target, reward), places.values(), strict=True):
        model.save_pretrained(place)
        tokenizer.save_pretrained(place)
    return places


def copy_recipes(home: Path, places: dict[str, str]) -> None:
    """The recipes with the tiny model in place of the large one, and few rows to a step."""
    folder = home / "recipes" / "workstation"
    folder.mkdir(parents=True)
    for name in recipe_names("workstation"):
        values = yaml.safe_load((recipes_dir() / "workstation" / f"{name}.yaml").read_text())
        if values.get("model") in places:
            values["model"] = places[values["model"]]
        if "base" not in values:
            values["training"] |= SHORT
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(values))
    for name in ("smol", "paper", "accelerate"):
        (folder.parent / name).symlink_to(recipes_dir() / name)
    for name in ("pyproject.toml", "results"):
        (home / name).symlink_to(project_root() / name)


def test_the_page_leads_to_a_judged_model(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    home, places = tmp_path / "home", save_models(tmp_path)
    copy_recipes(home, places)
    rows, load = [], local.load_reward_model
    for i, name, k in product(range(18), "ab", range(2)):
        row = {"prompt_id": f"p{i}", "prompt": f"What is {i} plus {i}?", "model": f"source-{name}"}
        row |= {"sample": k, "text": f"It is {2 * i + k} ({name})."}
        rows.append(row | {"reward": k + 0.1 * i, "reward_model": REWARD})
    write_rows(rows, (hub := tmp_path / "hub") / "data" / "train.parquet")
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda name, **options: str(hub))
    monkeypatch.setattr(local, "load_reward_model", lambda name, *_, **hub: load(places[name]))
    monkeypatch.setenv("WRPO_HOME", str(home))
    monkeypatch.chdir(home)
    with judge_at(functools.partial(respond, judge=Judge())) as url:
        changed = {"JUDGE": MODEL, "URL": url, "COMMIT": "0" * 40, "2048": "64", "1800": "48"}
        for words in typed():
            status, _, error = wrpo(capsys, *(changed.get(word, word) for word in words))
            assert status == 0, f"{' '.join(words)}: {error}"
    assert len(typed()) >= 18
    merged, _ = load_causal_lm(str(home / "runs" / "workstation" / "wrpo_merged"))
    assert not hasattr(merged, "peft_config")
    assert len(read_rows(home / "runs" / "wrpo_judgements.jsonl")) > 0
    assert read_rows(home / "data" / "ultrafeedback_wrpo.jsonl")[0]["source_model"] == "source-a"


SLURM = """
scontrol() { printf 'node-a\\nnode-b\\n'; }
srun() { for SLURM_NODEID in 0 1; do export SLURM_NODEID; "$@"; done; }
accelerate() { echo "$@"; }
export -f accelerate
export SLURM_NODEID=0
"""


def test_each_node_of_slurm_expands_its_own_rank() -> None:
    (block,) = re.findall(r"```bash\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    done = subprocess.run(["bash", "-c", SLURM + block], capture_output=True, text=True, check=True)
    first, second = map(str.split, done.stdout.splitlines())
    for rank, words in (("0", first), ("1", second)):
        assert words[words.index("--machine_rank") + 1] == rank
        assert words[words.index("--main_process_ip") + 1] == "node-a"
        assert Path(project_root(), words[words.index("--config_file") + 1]).is_file()
