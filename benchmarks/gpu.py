"""What a GPU makes of a WRPO training step: exactness, speed, memory, against the planner.

    .venv/bin/python benchmarks/gpu.py            # ten minutes on one 80 GB card, no hub
    .venv/bin/python benchmarks/gpu.py --quick    # a tiny model, on whatever there is

Random weights of the recipes' architectures, random tokens. Each variant is a fresh model from the
same seed. *padded* is TRL's own arrangement, a row per response, with the best attention installed;
*shared* is prompt sharing, *flex* the same with FlexAttention. Losses must agree, or the run fails.
Writes results/gpu/CARD.json (``--out`` elsewhere). The prior art is prefix sharing for DPO's pairs
with FlexAttention, 1.1 to 1.6 times (arXiv 2410.20305).
"""

import argparse
import gc
import math
import random
import re
import statistics
import sys
import tempfile
import time
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, BitsAndBytesConfig
from workloads import tiny_model

from wrpo_lib.errors import WRPOError
from wrpo_lib.io import write_json
from wrpo_lib.models import load_trainable, model_config
from wrpo_lib.planner import CARDS, Batch, Plan, count_parameters, plan_recipe, tokens
from wrpo_lib.quadruples.schema import RESPONSES
from wrpo_lib.recipes import load_recipe
from wrpo_lib.records import provenance, results_dir
from wrpo_lib.sharing import response_logps
from wrpo_lib.training import WRPOConfig, WRPOTrainer, show_progress
from wrpo_lib.training.inputs import lora_config

MODELS = {"1B": "meta-llama/Llama-3.2-1B-Instruct", "8B": "meta-llama/Meta-Llama-3-8B-Instruct"}
# mean tokens per prompt and per response; examples per batch
WORKLOADS = {"usual": (200, 400, 4), "long prompts": (1024, 256, 4)}
QUICK = {"usual": (12, 20, 2), "long prompts": (40, 10, 2)}
VARIANTS = ("padded", "shared", "flex")
WARM, TIMED, STEPS = 2, 5, 20  # steps not timed, timed, and of the LoRA runs compared
RATE = 1e-3  # large, so that losses tell steps apart
CUDA = torch.cuda.is_available()
DEVICE = "cuda" if CUDA else "cpu"
BEST = "flash_attention_2" if CUDA and find_spec("flash_attn") else "sdpa"  # for padded rows


def config(name: str, quick: bool) -> Any:
    """The architecture of a published model; two narrow layers of it for a quick run."""
    made = model_config(name)
    small = {"vocab_size": 512, "hidden_size": 64, "intermediate_size": 128}
    small |= {"num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
    small |= {"head_dim": 16}
    made.update({**(small if quick else {}), "pad_token_id": 0, "eos_token_id": 1})
    return made


def build(shape: Any, dtype: torch.dtype, attention: str = "sdpa") -> Any:
    """Random weights from one seed, on the device."""
    torch.manual_seed(0)
    with torch.device(DEVICE):
        return AutoModelForCausalLM.from_config(shape, dtype=dtype, attn_implementation=attention)


def rows(size: tuple[int, int, int], vocabulary: int) -> list[dict[str, Any]]:
    """A batch of random tokens, responses from half to one and a half times the mean."""
    draws, (prompt, response, n) = random.Random(0), size
    made = []
    for number in range(n):
        sizes = [prompt, *(draws.randint(response // 2, response * 3 // 2) for _ in RESPONSES)]
        ids = [[draws.randrange(2, vocabulary) for _ in range(size)] for size in sizes]
        names = ("prompt_ids", *(f"{name}_ids" for name in RESPONSES))
        made.append({"prompt_id": str(number), **dict(zip(names, ids, strict=True))})
    return made


def lengths(batch: list[dict[str, Any]]) -> Batch:
    """The same batch as the planner counts it."""
    return [(len(r["prompt_ids"]), tuple(len(r[f"{k}_ids"]) for k in RESPONSES)) for r in batch]


def trainer(model: Any, data: list[dict[str, Any]], variant: str, lora: bool, **more: Any) -> Any:
    """The recipe's trainer, the reference computed once."""
    options = {"beta": 0.01, "alpha": 0.5, "alpha_schedule": "constant", "report_to": "none"}
    options |= {"dataloader_pin_memory": False, "save_strategy": "no", "disable_tqdm": True}
    options["share_prompt"] = variant != "padded"
    options["share_prompt_backend"] = "flex" if variant == "flex" else "auto"
    half = model.dtype == torch.bfloat16 and CUDA
    size = {"per_device_train_batch_size": len(data), "use_cpu": not CUDA, "bf16": half}
    args = WRPOConfig(tempfile.mkdtemp(), **{**options, **size, **more})
    peft = lora_config(load_recipe("workstation", "wrpo")) if lora else None
    known = {"train_dataset": Dataset.from_list(data), "processing_class": tiny_model()[1]}
    run = WRPOTrainer(model, args=args, peft_config=peft, **known)
    show_progress(run)  # without transformers' line a step
    return run


def free() -> None:
    """Give back what the variant before held."""
    gc.collect()
    if CUDA:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def exactness(shape: Any, size: tuple[int, int, int]) -> list[dict[str, Any]]:
    """Log-probabilities of shared and of padded rows, each against padded rows in float32."""
    batch = rows(size, shape.vocab_size)
    found, expected = [], None
    for dtype in (torch.float32, torch.bfloat16):
        for variant in VARIANTS[:2]:
            free()
            run = trainer(build(shape, dtype), batch, variant, lora=False)
            inputs = run._prepare_inputs(run.data_collator(list(run.train_dataset)))
            with torch.no_grad(), run.accelerator.autocast():
                logps = response_logps(run.model, inputs)[0].double().cpu()
            expected = logps if expected is None else expected
            off = ((logps - expected).abs() / expected.abs()).max().item()
            about = {"dtype": str(dtype).removeprefix("torch."), "variant": variant}
            found.append({**about, "largest relative difference": off})
    half = {row["variant"]: row["largest relative difference"] for row in found[2:]}
    if found[1]["largest relative difference"] > 1e-4 or half["shared"] > 4 * half["padded"] + 1e-4:
        raise WRPOError(f"prompt sharing is off: {found}; one of the two is wrong")
    return found


def measure(shape: Any, size: tuple[int, int, int], variant: str, plan: Plan) -> dict[str, Any]:
    """Seconds, memory and utilisation of LoRA steps on one batch in one variant."""
    free()
    batch, shared = rows(size, shape.vocab_size), variant != "padded"
    attention = "sdpa" if shared else BEST
    model = build(shape, torch.bfloat16 if CUDA else torch.float32, attention)
    run = trainer(model, batch, variant, lora=True, learning_rate=RATE)
    optimiser = run.create_optimizer()
    seconds, losses = [], []
    for _ in range(WARM + TIMED):
        start = time.perf_counter()
        inputs = run._prepare_inputs(run.data_collator(list(run.train_dataset)))
        with run.accelerator.autocast():
            loss = run.compute_loss(run.model, inputs)
        loss.backward()
        losses.append(loss.item())
        optimiser.step()
        optimiser.zero_grad()
        if CUDA:
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    once, known = statistics.median(seconds[WARM:]), lengths(batch)
    planned = plan.memory(known, shared)
    done = replace(plan, reference="none").flops(tokens(known, shared)) / once
    return {
        "variant": variant,
        "attention": variant if shared else attention,
        "seconds": once,
        "examples per second": len(batch) / once,
        "loss": losses[-1],
        "share of the card's peak": done / card_peak() if card_peak() else None,
        "peak GiB": torch.cuda.max_memory_allocated() / 2**30 if CUDA else None,
        "planned GiB": (sum(planned.values()) - planned["runtime (assumed)"]) / 2**30,
    }


def card_peak() -> float | None:
    """The card's peak FLOP/s, where the planner's table has it."""
    name = torch.cuda.get_device_name().split() if CUDA else []
    found = [peak for card, (peak, _) in CARDS.items() if set(card.split()) & set(name) - {"RTX"}]
    return found[0] * 1e12 if found else None


def compare(name: str, quick: bool) -> list[dict[str, Any]]:
    """Every variant on every workload; losses that differ are an error."""
    shape, recipe = config(MODELS[name], quick), load_recipe("workstation", "wrpo")
    parameters = count_parameters(shape, lora_config(recipe))
    plan = replace(plan_recipe(replace(recipe, data=None)), config=shape, parameters=parameters)
    found = []
    for workload, size in (QUICK if quick else WORKLOADS).items():
        base: dict[str, Any] = {}
        for variant in VARIANTS if CUDA else VARIANTS[:2]:  # FlexAttention needs a card to train
            made = measure(shape, size, variant, plan)
            base = base or made
            if abs(made["loss"] - base["loss"]) > 0.5 * abs(base["loss"] - math.log(2)) + 1e-4:
                raise WRPOError(f"{name}, {workload}: the losses differ: {made}, {base}")
            ratio = base["seconds"] / made["seconds"]
            found.append({"model": name, "workload": workload, **made, "times padded": ratio})
    return found


def adapters(name: str, quick: bool) -> list[dict[str, Any]]:
    """Losses of LoRA on a whole and on a 4-bit base, and how many adapter entries have moved."""
    shape, found = config(MODELS[name], quick), []
    batch = rows((QUICK if quick else WORKLOADS)["usual"], shape.vocab_size)
    recipe = load_recipe("workstation", "wrpo_4bit")
    with tempfile.TemporaryDirectory() as folder:
        build(shape, torch.bfloat16 if CUDA else torch.float32).save_pretrained(folder)
        for bits in (16, 4) if CUDA and find_spec("bitsandbytes") else (16,):
            free()
            four = {"quantization_config": BitsAndBytesConfig(**recipe.quantization or {})}
            options: dict[str, Any] = {"dtype": "auto", "device_map": {"": DEVICE}}
            model = load_trainable(folder, **options, **(four if bits == 4 else {}))
            rate = {"learning_rate": recipe.training["learning_rate"], "max_steps": STEPS}
            run = trainer(model, batch, "shared", lora=True, **rate)
            trained = {k: p for k, p in run.model.named_parameters() if p.requires_grad}
            before = {k: p.detach().clone() for k, p in trained.items()}
            run.train()
            moved = [(p != before[k]).float().mean().item() for k, p in trained.items()]
            losses = [row["loss"] for row in run.state.log_history if "loss" in row]
            about = {"bits of the base": bits, "adapters": str(next(iter(trained.values())).dtype)}
            found.append({**about, "losses": losses, "share moved": statistics.mean(moved)})
    return found


def main() -> None:
    """Run everything and write the record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a tiny model, on whatever there is")
    parser.add_argument("--out", type=Path, default=results_dir("gpu"), help="folder")
    args = parser.parse_args()
    if not (CUDA or args.quick):
        raise WRPOError("no GPU was found; run it where there is one, or add --quick")
    card, start = torch.cuda.get_device_name() if CUDA else "cpu", time.monotonic()
    size = (QUICK if args.quick else WORKLOADS)["usual"]
    record = {
        "card": card,
        "cuda": torch.version.cuda,
        "quick": args.quick,
        **provenance(),
        "exactness": exactness(config(MODELS["1B"], args.quick), size),
        "steps": [row for name in MODELS for row in compare(name, args.quick)],
        "adapters": adapters("1B", args.quick),
        "seconds": round(time.monotonic() - start),
    }
    write_json(path := args.out / f"{re.sub(r'[^a-z0-9]+', '-', card.lower())}.json", record)
    print(f"{path}: {record['seconds']} seconds")


if __name__ == "__main__":
    try:
        main()
    except WRPOError as error:
        sys.exit(f"gpu: {error}")
