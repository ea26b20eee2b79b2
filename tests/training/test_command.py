"""`wrpo train` and `wrpo sft`: bad input before a model is loaded, kill and resume, processes."""

import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils.launch import prepare_multi_gpu_env
from commandline import Command, wait_until, wrpo
from distributed_run import main as one_process
from safetensors.torch import load_file
from torch.distributed import TCPStore
from transformers import AutoModelForCausalLM

from wrpo_lib.io import Store, read_rows, write_rows
from wrpo_lib.models import load_causal_lm
from wrpo_lib.recipes import load_recipe
from wrpo_lib.training.run import last_checkpoint, shrink

STEPS = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 1, "max_steps": 40}
STEPS |= {"learning_rate": 1e-2, "beta": 0.5, "warmup_steps": 0, "save_steps": 4}


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A folder with a tiny model and 32 quadruples, as a dry run makes them."""
    folder = tmp_path_factory.mktemp("small")
    shrink(load_recipe("smol", "wrpo"), folder)
    return folder


def words(small: Path, out: Path, **overrides: Any) -> list[str]:
    """A command line on the tiny model."""
    values = {**STEPS, "ref_cache_dir": out / "reference", **overrides}
    named = ["--model", small / "model", "--data", small / "rows.jsonl", "--output_dir", out]
    return [*map(str, named), *(f"{key}={value}" for key, value in values.items())]


@pytest.fixture
def train(small, capsys):
    """`wrpo train` on the tiny model, which ends with ``status``: stdout, stderr."""

    def run(
        out: Path, *more: Any, recipe: str = "smol/wrpo", status: int = 0, **values: Any
    ) -> tuple[str, str]:
        code, printed, err = wrpo(capsys, "train", recipe, *words(small, out, **values), *more)
        assert code == status, err
        return printed, err

    return run


def lines(out: Path) -> list[dict[str, Any]]:
    """The training dynamics so far, whole lines only."""
    path = out / "dynamics.jsonl"
    text = path.read_text() if path.is_file() else ""
    return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]


def weights(out: Path) -> dict[str, torch.Tensor]:
    return load_file(next(out.glob("*model.safetensors")))


@pytest.fixture(scope="module")
def whole(small, tmp_path_factory):
    """A finished, uninterrupted run in a process of its own."""
    folder = tmp_path_factory.mktemp("whole")
    run = Command(folder, "train", "smol/wrpo", *words(small, out := folder / "out"))
    status, (printed, err) = run.wait(), run.said
    assert status == 0, err
    assert "32 rows, 4 per step (per device 4 x accumulation 1 x processes 1)" in printed
    assert all(shown in err for shown in ("40/40", "alpha=0.", "loss="))
    return out


def test_a_run_leaves_model_card_record_and_no_pickle(whole, small, train):
    names = {path.name for path in whole.iterdir()}
    assert {"model.safetensors", "config.json", "tokenizer.json"} <= names
    assert not [name for name in names if name.endswith((".bin", ".pt", ".pth"))]
    card = (whole / "README.md").read_text()
    assert f"a fine-tuned version of `{small / 'model'}`" in card
    assert "Weighted-Reward Preference Optimization for Implicit Model Fusion" in card
    assert "None" not in card
    before = (whole / "run.json").read_text()
    record = json.loads(before)
    assert (record["status"], record["settings"]["training.beta"]) == ("finished", 0.5)
    assert set(record["settings"]["model"]) == {"model.safetensors"}
    assert len(record["settings"]["data"]["sha256"]) == 64
    assert [row["step"] for row in lines(whole)] == list(range(1, 41))
    assert lines(whole)[-1]["loss"] < lines(whole)[0]["loss"]
    assert "holds a run already; pass --resume" in train(whole, status=2)[1]
    other = "was started with training.beta 0.5, this run has 0.3"
    assert other in train(whole, "--resume", beta=0.3, status=2)[1]
    with Store(whole / ".lock.jsonl", ()):  # as another run holds it
        assert "wait for the process that writes it" in train(whole, "--resume", status=2)[1]
    assert (whole / "run.json").read_text() == before


def test_no_step_is_trained_after_the_last(train, tmp_path):
    """Five steps end inside an epoch of eight; once killed before the model was saved, once not."""
    out, values = tmp_path / "out", {"max_steps": 5, "save_steps": 1}
    train(out, **values)
    before, dynamics = weights(out), lines(out)
    for name in ("model.safetensors", "README.md"):
        (out / name).unlink()
        assert "nothing was left to train" in train(out, "--resume", **values)[0]
    torch.testing.assert_close(weights(out), before, rtol=0, atol=0)
    assert lines(out) == dynamics
    assert last_checkpoint(out) == out / "checkpoint-5"


def test_no_token_is_written_or_said(train, tmp_path):
    recipe, out, secret = tmp_path / "mine.yaml", tmp_path / "out", "hf_abcdefghijklmnop"
    recipe.write_text(f"base: smol/wrpo\nload: {{token: {secret}}}\n")
    said = train(out, "--hub_token", secret, recipe=str(recipe), max_steps=1)
    assert secret not in "".join(said) + (out / "run.json").read_text()
    _, err = train(tmp_path / "other", "--load.attn_implementation", f"no-{secret}", status=2)
    assert "no-***" in err


def stopped(small: Path, folder: Path, how: signal.Signals, **values: Any) -> tuple[Any, str]:
    """Stop a run between two checkpoints; its exit status and what it said on stderr."""
    run = Command(folder, "train", "smol/wrpo", *words(small, folder / "out", **values))
    wait_until(lambda: len(lines(folder / "out")) >= 6, run)
    return run.send(how), run.said[1]


def test_kill_and_resume_gives_the_same_dynamics(small, whole, tmp_path, train):
    out = tmp_path / "out"
    code, _ = stopped(small, tmp_path, signal.SIGKILL)
    assert code == -signal.SIGKILL
    assert 6 <= len(lines(out)) < 40, "it was not killed in the middle"
    newest = last_checkpoint(out)
    assert newest is not None
    torn = out / "checkpoint-39"  # as a kill while a checkpoint is written leaves it
    shutil.copytree(newest, torn)
    (torn / "trainer_state.json").write_text('{"epoch": 1.')
    with (out / "dynamics.jsonl").open("a") as file:
        file.write('{"step": 39, "lo')  # and a line
    printed, _ = train(out, "--resume", report_to="none")
    assert f"resuming from {newest}" in printed
    assert lines(out) == lines(whole)
    torch.testing.assert_close(weights(out), weights(whole), rtol=0, atol=0)
    assert json.loads((out / "run.json").read_text())["status"] == "finished"


def test_ctrl_c_says_how_to_resume(small, tmp_path):
    code, err = stopped(small, tmp_path, signal.SIGINT, max_steps=4000)  # more than it gets to make
    assert code == 130
    newest = last_checkpoint(tmp_path / "out")
    assert newest is not None
    hint = f"add --resume to the same command to go on from {newest}"
    assert f"wrpo: interrupted; {hint}" in err.splitlines()
    assert "Traceback" not in err


LAUNCH = """--num_machines 1 --num_processes 2 --mixed_precision no
--dynamo_backend no --main_process_ip 127.0.0.1 -m wrpo_lib.cli"""
DDP = "--multi_gpu"  # accelerate finds no GPU and takes gloo
FSDP2 = """--use_fsdp --fsdp_version 2 --fsdp_cpu_ram_efficient_loading false
--fsdp_state_dict_type FULL_STATE_DICT --fsdp_auto_wrap_policy TRANSFORMER_BASED_WRAP
--fsdp_transformer_layer_cls_to_wrap LlamaDecoderLayer"""
LORA = ["--lora.r", "4", "--lora.target_modules", "[q_proj,v_proj]"]


def launched(folder: Path, kind: str, command: list[str]) -> list[Command]:
    """Two processes as `accelerate launch` starts them: its environment, and a store to meet at."""
    arguments = launch_command_parser().parse_args([*kind.split(), *LAUNCH.split(), *command])
    env = prepare_multi_gpu_env(_validate_launch_command(arguments)[0])
    env = {name: value for name, value in env.items() if os.environ.get(name) != value}
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    env |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(store.port), "WORLD_SIZE": "2"}
    env |= {"LOCAL_WORLD_SIZE": "2", "TORCHELASTIC_USE_AGENT_STORE": "True"}
    runs = []
    for rank in "01":
        own = {**env, "RANK": rank, "LOCAL_RANK": rank}
        runs.append(Command(folder / rank, *command, main=one_process, **own))
    runs[0].store = store  # lives as long as the processes
    return runs


@pytest.mark.parametrize(
    ("kind", "lora"),
    [(DDP, []), (FSDP2, []), pytest.param(FSDP2, LORA, marks=pytest.mark.slow)],
    ids=["ddp", "fsdp2", "fsdp2-lora"],
)
def test_two_processes_give_the_losses_of_one(small, tmp_path, train, kind, lora):
    """As recipes are launched, on gloo: shared prompts, the reference once where it can be."""
    one, two = tmp_path / "one", tmp_path / "two"
    values = {"max_steps": 4, "alpha": 0.5, "share_prompt": "true"}
    train(one, *lora, **values)
    parts = {"micro_batch_tokens": 90} if kind == DDP else {}  # one example, or both
    command = words(small, two, per_device_train_batch_size=2, **parts, **values)
    runs = launched(tmp_path, kind, ["train", "smol/wrpo", *command, *lora])
    assert [run.wait() for run in runs] == [0, 0], runs[0].said[1][-6000:]
    assert "4 per step (per device 2 x accumulation 1 x processes 2)" in runs[0].said[0]
    assert "".join(run.said[0] for run in runs).count("steps done") == 1, "one process speaks"
    alone, together = lines(one), lines(two)
    assert len(alone) == len(together) == 4
    assert alone[0]["loss"] - alone[-1]["loss"] > 0.01, "nothing was learned, nothing compared"
    for key in ("loss", "grad_norm", "alpha", "rewards/margins", "logps/rejected"):
        expected = [row[key] for row in alone]
        assert [row[key] for row in together] == pytest.approx(expected, rel=1e-4, abs=1e-5), key
    torch.testing.assert_close(weights(two), weights(one), rtol=1e-3, atol=1e-4)


def test_fields_of_lora_and_load_evaluation_and_merging(small, train, tmp_path, capsys):
    out, merged = tmp_path / "out", tmp_path / "merged"
    extra = [*LORA, "load.dtype=float32", "--eval_strategy", "steps", "--eval_steps=2"]
    extra += ["--learning-rate", "1e-3", "--eval_data", small / "rows.jsonl"]
    train(out, *extra, max_steps=4)
    adapter = json.loads((out / "adapter_config.json").read_text())
    assert (adapter["r"], sorted(adapter["target_modules"])) == (4, ["q_proj", "v_proj"])
    assert wrpo(capsys, "merge", out, merged)[0] == 0
    whole = AutoModelForCausalLM.from_pretrained(merged, dtype="float32")
    adapted = load_causal_lm(str(out))[0]
    ids = torch.tensor([[5, 6, 7, 8]])
    torch.testing.assert_close(whole(ids).logits, adapted(ids).logits, rtol=0.05, atol=0.05)
    for folder, sentence in ((merged, "holds no adapter"), (out, "is not empty")):
        assert sentence in wrpo(capsys, "merge", folder, merged)[2]
    record = json.loads((out / "run.json").read_text())
    assert "eval_loss" in record["log"][0]
    assert record["settings"]["training.learning_rate"] == 1e-3


@pytest.mark.parametrize(
    ("recipe", "preferred"), [("dpo_off", "source_chosen"), ("simpo", "target_chosen")]
)
def test_preference_pairs_serve_where_one_response_is_read(
    small, train, tmp_path, recipe, preferred
):
    """TRL's pairs give the losses of their quadruples; nobody reads their other fields."""
    pairs, rows, odd = tmp_path / "pairs.jsonl", [], [{}, "none", [1], 2**70, {"a": None}]
    for number, row in enumerate(read_rows(small / "rows.jsonl")):
        sides = {"chosen": row[preferred], "rejected": row["rejected"]}
        made = {k: [{"role": "assistant", "content": text}] for k, text in sides.items()}
        rows.append({**made, "prompt": row["prompt"], "chosen_reward": 8, "seed": odd[number % 5]})
    write_rows(rows, pairs)
    for data in (small / "rows.jsonl", pairs):
        train(tmp_path / data.stem, "--data", data, recipe=f"smol/{recipe}", max_steps=3)
    losses = [[row["loss"] for row in lines(tmp_path / name)] for name in ("rows", "pairs")]
    assert losses[0] == losses[1]
    assert losses[0][-1] < losses[0][0]
    _, err = train(tmp_path / "out", "--data", pairs, status=2)
    assert "pairs.jsonl, row 1, field" in err


# --- bad input --------------------------------------------------------------------------------

BAD = {
    "--learning_rat 1e-5": "did you mean 'learning_rate'?",
    "beta 0.1": "unknown option 'beta'",
    "--beta high": "training.beta: should be a valid number",
    "alpha=3": "recipes/smol/wrpo.yaml: alpha is 3.0, outside [0, 1]",
    "lr_scheduler_type=cosin": "cosin is not a valid SchedulerType",
    "--model runs/no/where": "the model folder 'runs/no/where' does not exist",
    "--data no/where.jsonl": "no/where.jsonl does not exist",
    "--lora.r 8 --lora.target_modules=[c_attn]": "Target modules {'c_attn'} not found",
    "--lora.r [": "smol/wrpo.yaml: while parsing",
    "--lora.r 8 --quantization.load_in_4bit true": "bitsandbytes",
    "--resume": "holds no whole checkpoint to resume from",
    "--eval_strategy steps": "eval_dataset",
    "--output_dir /dev/null/out": "/dev/null/out",
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_sentence_before_training(train, tmp_path, case):
    printed, err = train(tmp_path / "out", *case.split(), status=2)
    (said,) = [line for line in err.splitlines() if line.startswith("wrpo: ")]
    assert BAD[case] in said
    assert "Traceback" not in err
    assert not (tmp_path / "out" / "dynamics.jsonl").exists()
    assert "steps done" not in printed
