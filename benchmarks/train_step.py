"""How much faster and smaller a WRPO training step is than the official trainer's.

    .venv/bin/python benchmarks/train_step.py               # under ten minutes on two cores
    .venv/bin/python benchmarks/train_step.py --minutes 20  # more turns, and TRL's peak memory
    .venv/bin/python benchmarks/train_step.py --quick       # a tiny random model, seconds

The variants take turns on the same example, and ratios are of seconds within a turn, so that slow
changes of the machine's speed affect both sides. Losses and gradient norms must agree, or the run
fails. Peak memory is that of a process of its own for each variant, on two examples. Writes
results/benchmarks/train_step.json (``--out`` elsewhere).
"""

import argparse
import copy
import json
import os
import re
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

os.environ.setdefault("TQDM_DISABLE", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import pandas as pd
import torch
from datasets import load_from_disk
from workloads import ALPHA, BETA, EXAMPLES, official_loss, prepare

from wrpo_lib.errors import WRPOError, explained
from wrpo_lib.io import write_json
from wrpo_lib.models import load_tokenizer, load_trainable
from wrpo_lib.records import provenance, results_dir
from wrpo_lib.training import WRPOConfig, WRPOTrainer

THREADS = 2
IN_MEMORY = range(1, 3)
"""The examples of the step whose memory is measured; one alone weighs little beside the weights."""
NOISE = 0.05
"""How far the policy is from its reference, in standard deviations of each weight matrix."""
VARIANTS = {
    "official": "official arithmetic",
    "padded": "TRL's padded path, reference cached",
    "one pass": "shared prompts, one reference pass counted",
    "ours": "shared prompts, reference cached",
    "saving": "shared prompts, cached, checkpointing",
}
MEASURED = ("ours", "official", "padded", "saving")
"""Variants measured directly; the first fills the cache of the reference."""


class Stepper:
    """A policy a little away from its reference, and training steps that leave it there.

    The learning rate is 0: the optimiser does all of its work and every variant meets the same
    weights, so their losses can be compared. Row 0 is a short one, stepped on at once, which makes
    the optimiser's states. TRL caches the reference beside the rows: the first to ask computes it.
    """

    def __init__(self, folder: str, variants: tuple[str, ...]) -> None:
        self.model: Any = load_trainable(folder, dtype=torch.float32, attn_implementation="sdpa")
        self.rows = load_from_disk(f"{folder}/rows").to_list()
        self.reference = copy.deepcopy(self.model).eval() if "official" in variants else None
        self.trainers = {
            variant: trainer(self.model, folder, share_prompt=variant != "padded")
            for variant in variants
            if variant != "official"
        }
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for p in self.model.parameters():
                p.add_(torch.randn(p.shape, generator=generator), alpha=NOISE * float(p.std()))
        rate = {"lr": 0.0, "weight_decay": 0.0, "fused": True}
        self.optimiser = torch.optim.AdamW(self.model.parameters(), **rate)
        for variant in variants:
            self.step(variant, range(1))

    def step(self, variant: str, batch: range) -> dict[str, float]:
        """One whole training step on the rows numbered ``batch``: seconds, loss, gradient norm."""
        self.model.train()
        self.model.activation_checkpointing_disable()
        if variant == "saving":
            self.model.activation_checkpointing_enable()
        start = time.perf_counter()
        self.optimiser.zero_grad(set_to_none=True)
        loss = self.loss(variant, batch)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimiser.step()
        seconds = time.perf_counter() - start
        return {"seconds": seconds, "loss": loss.item(), "grad_norm": norm.item()}

    def loss(self, variant: str, batch: range) -> torch.Tensor:
        """The mean loss of a batch, collation included."""
        if variant == "official":
            return official_loss(self.model, self.reference, [self.rows[i] for i in batch])
        made = self.trainers[variant]
        inputs = made.data_collator([made.train_dataset[i] for i in batch])
        return made.compute_loss(self.model, inputs)

    def reference_pass(self, batch: range) -> float:
        """Seconds of one pass of the reference: done once for all epochs and sweeps."""
        made = self.trainers["ours"]
        start = time.perf_counter()
        inputs = made.data_collator([made.train_dataset[i] for i in batch])
        made.compute_ref_log_probs(self.model, inputs)
        return time.perf_counter() - start


def trainer(model: Any, folder: str, share_prompt: bool) -> WRPOTrainer:
    """Our trainer with the reference computed, which is the model as it is now."""
    args = WRPOConfig(
        output_dir=folder,
        alpha=ALPHA,
        alpha_schedule="constant",
        beta=BETA,
        share_prompt=share_prompt,
        activation_checkpointing=False,  # `Stepper.step` switches it
        per_device_train_batch_size=1,
        bf16=False,
        use_cpu=True,
        report_to="none",
        dataloader_pin_memory=False,
    )
    data, tokenizer = load_from_disk(f"{folder}/rows"), load_tokenizer(folder)
    return WRPOTrainer(model, args=args, train_dataset=data, processing_class=tokenizer)


# --- time ---------------------------------------------------------------------------------------


def take_turn(stepper: Stepper, workload: str, number: int, first: int) -> list[dict[str, Any]]:
    """All variants on one example, another first each time; the workload's begin at ``first``."""
    start, shift = first + number % EXAMPLES, number % len(MEASURED)
    batch, about = range(start, start + 1), {"workload": workload, "turn": number}
    variants = MEASURED[shift:] + MEASURED[:shift]
    found = [{**about, "variant": variant, **stepper.step(variant, batch)} for variant in variants]
    check_agreement(found)
    once = stepper.reference_pass(batch)
    ours = next(row["seconds"] for row in found if row["variant"] == "ours")
    return [*found, {**about, "variant": "one pass", "seconds": ours + once}]


def check_agreement(rows: list[dict[str, Any]]) -> None:
    """Every variant gives the loss and the gradient norm of the official arithmetic.

    :raises WRPOError: names the first that does not.
    """
    official = next(row for row in rows if row["variant"] == "official")
    for row in rows:
        off = abs(row["loss"] - official["loss"])
        turned = abs(row["grad_norm"] / official["grad_norm"] - 1)
        if off > 1e-4 or turned > 1e-3:
            raise WRPOError(
                f"{row['workload']}, turn {row['turn']}: {row['variant']} is off by {off:.1e} in "
                f"loss and {turned:.1e} of the gradient norm; one of the two is wrong"
            )


def compare(folder: str, workloads: tuple[str, ...], until: float) -> pd.DataFrame:
    """Turns until ``until``, two of each workload at least; a row per step.

    The workload that has had the least time takes the next turn.
    """
    stepper, found = Stepper(folder, MEASURED), list[dict[str, Any]]()
    spent: dict[str, list[float]] = {workload: [] for workload in workloads}
    while True:
        workload = min(spent, key=lambda name: (len(spent[name]) > 1, sum(spent[name])))
        taken, start = spent[workload], time.monotonic()
        if len(taken) > 1 and start + max(taken) > until:
            return pd.DataFrame(found)
        first = 1 + EXAMPLES * workloads.index(workload)
        found += take_turn(stepper, workload, len(taken), first)
        taken.append(time.monotonic() - start)
        print(f"{workload}, turn {len(taken)}: {taken[-1]:.0f} seconds", flush=True)


def ratios(steps: pd.DataFrame) -> list[dict[str, Any]]:
    """Seconds of the official step over each variant's, on the same batch in the same turn."""
    wide = steps.pivot(index=["workload", "turn"], columns="variant", values="seconds")
    found = wide.rdiv(wide["official"], axis=0).groupby(level="workload", sort=False)
    rows = []
    for workload, part in found:
        for variant in VARIANTS:
            low, median, high = part[variant].quantile([0.25, 0.5, 0.75]).round(4)
            shown = {"n": len(part), "median": median, "low": low, "high": high}
            rows.append({"workload": workload, "variant": variant, **shown})
    return rows


# --- memory -------------------------------------------------------------------------------------


def memory(folder: str, variants: Iterable[str]) -> list[dict[str, Any]]:
    """Peak resident GiB of each variant in a process of its own, and the ratio to the official."""
    peaks = {}
    for variant in variants:
        with explained(f"the memory of {variant} was not measured", "free some, run it again"):
            peaks[variant] = alone(measure, variant, folder)
        print(f"memory of {variant}: {peaks[variant]:.2f} GiB", flush=True)
    return [
        {"variant": variant, "peak_gib": round(gib, 3), "ratio": round(gib / peaks["official"], 4)}
        for variant, gib in peaks.items()
    ]


def alone(work: Callable[..., Any], *args: Any) -> Any:
    """What ``work`` returns in a process of its own, forked, so that nothing is imported again."""
    with ProcessPoolExecutor(1, get_context("fork")) as pool:
        return pool.submit(work, *args).result()


def measure(variant: str, folder: str) -> float:
    """Peak GiB of a process that has taken a step."""
    Stepper(folder, (variant,)).step(variant, IN_MEMORY)
    status = Path("/proc/self/status")  # getrusage counts the process that started this one
    told = status.read_text(encoding="utf-8") if status.is_file() else ""
    if found := re.search(r"^VmHWM:\s*(\d+) kB$", told, re.M):
        return int(found[1]) / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def main() -> None:
    """Run the benchmark; nothing is computed here before the last fork, which threads would not
    survive."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--minutes", type=float, default=10, help="of the whole run, about; TRL's memory above 10"
    )
    parser.add_argument("--quick", action="store_true", help="a tiny random model")
    parser.add_argument("--out", type=Path, default=results_dir("benchmarks"), help="folder")
    args = parser.parse_args()
    torch.set_num_threads(THREADS)
    start, made = time.monotonic(), provenance()
    until = start if args.quick else start + 60 * args.minutes
    workloads = ("tiny",) if args.quick else ("ordinary", "long")
    with tempfile.TemporaryDirectory() as folder:
        alone(prepare, folder, workloads)
        weighed = [v for v in MEASURED if args.minutes > 10 or v != "padded"]
        peaks, steps = memory(folder, weighed), compare(folder, workloads, until)
    about = {"threads": THREADS, "seconds": round(time.monotonic() - start), "variants": VARIANTS}
    record = {**made, **about, "ratios": ratios(steps), "memory": peaks}
    write_json(args.out / "train_step.json", record)
    print(json.dumps(record["ratios"], indent=1))


if __name__ == "__main__":
    try:
        main()
    except WRPOError as error:
        sys.exit(f"train_step: {error}")
