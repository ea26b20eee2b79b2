"""How much faster and smaller a WRPO training step is than the official trainer's.

    .venv/bin/python benchmarks/train_step.py               # 10 to 16 minutes on two quiet cores
    .venv/bin/python benchmarks/train_step.py --minutes 40  # more turns, tighter quartiles
    .venv/bin/python benchmarks/train_step.py --quick       # a tiny random model, seconds

The variants take turns on the same batches, and what is reported are ratios of seconds within a
turn: the machine's slower changes of speed hit both sides. Losses and gradient norms must agree,
or the run fails. Peak memory is that of a fresh process for each variant. Writes
results/benchmarks/train_step.json (``--out`` elsewhere).
"""

import argparse
import copy
import json
import os
import re
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("TQDM_DISABLE", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import pandas as pd
import torch
from datasets import Dataset
from workloads import ALPHA, BATCH, BETA, RESPONSES, Row, load, official_loss

from wrpo_lib.errors import WRPOError
from wrpo_lib.io import write_json
from wrpo_lib.records import provenance, results_dir
from wrpo_lib.training import WRPOConfig, WRPOTrainer

THREADS = 2
BATCHES = 3
"""Different batches of a workload; turns go round them."""
NOISE = 0.05
"""How far the policy is from its reference, in standard deviations of each weight matrix."""
VARIANTS = {
    "official": "official arithmetic",
    "padded": "TRL's padded path, reference cached",
    "one pass": "shared prompts, one reference pass counted",
    "ours": "shared prompts, reference cached",
    "saving": "shared prompts, cached, checkpointing",
}
MEASURED = ("official", "padded", "ours", "saving")
"""The variants that are steps of their own; one pass is ours and a pass of the reference."""


class Stepper:
    """A policy a little away from its reference, and training steps that leave it there.

    The learning rate is 0: the optimiser does all of its work and every variant meets the same
    weights, so their losses can be compared. A few tokens of a row are put first and stepped on at
    once, which makes the optimiser's states.
    """

    def __init__(
        self, model: Any, tokenizer: Any, rows: list[Row], variants: tuple[str, ...]
    ) -> None:
        short = {name: rows[0][name][:4] for name in ("prompt_ids", *RESPONSES)}
        self.model, self.rows = model, (rows := [{**rows[0], **short}, *rows])
        self.reference = copy.deepcopy(model).eval() if "official" in variants else None
        self.trainers = {
            variant: trainer(model, tokenizer, rows, variant)
            for variant in variants
            if variant in ("padded", "ours")
        }
        if "saving" in variants:  # the same trainer, but for the switch in `step`
            self.trainers["saving"] = self.trainers.get("ours") or trainer(
                model, tokenizer, rows, "saving"
            )
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for p in model.parameters():
                p.add_(torch.randn(p.shape, generator=generator), alpha=NOISE * float(p.std()))
        self.optimiser = torch.optim.AdamW(model.parameters(), lr=0.0, weight_decay=0.0, fused=True)
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


def trainer(model: Any, tokenizer: Any, rows: list[Row], variant: str) -> WRPOTrainer:
    """Our trainer with the reference computed, which is the model as it is now."""
    with tempfile.TemporaryDirectory() as folder:
        args = WRPOConfig(
            output_dir=folder,
            alpha=ALPHA,
            alpha_schedule="constant",
            beta=BETA,
            share_prompt="false" if variant == "padded" else "true",
            precompute_ref_log_probs=True,
            activation_checkpointing=variant == "saving",
            per_device_train_batch_size=len(rows) // BATCHES or 1,
            bf16=False,
            use_cpu=True,
            report_to="none",
            dataloader_pin_memory=False,
        )
        data = Dataset.from_list(rows)
        made = WRPOTrainer(model=model, args=args, train_dataset=data, processing_class=tokenizer)
        made.train_dataset = Dataset.from_list(made.train_dataset.to_list())  # the folder goes
    return made


# --- time ---------------------------------------------------------------------------------------


def take_turns(workload: str) -> Callable[[], list[dict[str, Any]]]:
    """A function that takes the next turn: all variants on one batch, another first each time."""
    size = BATCH[workload]
    stepper = Stepper(*load(workload, size * BATCHES), MEASURED)
    turns = iter(range(10**6))

    def turn() -> list[dict[str, Any]]:
        number = next(turns)
        start = 1 + size * (number % BATCHES)
        batch, shift = range(start, start + size), number % len(MEASURED)
        about = {"workload": workload, "turn": number}
        variants = MEASURED[shift:] + MEASURED[:shift]
        found = [
            {**about, "variant": variant, **stepper.step(variant, batch)} for variant in variants
        ]
        check_agreement(found)
        once = stepper.reference_pass(batch)
        ours = next(row["seconds"] for row in found if row["variant"] == "ours")
        return [*found, {**about, "variant": "one pass", "seconds": ours + once}]

    return turn


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


def compare(workloads: tuple[str, ...], until: float) -> pd.DataFrame:
    """Turns of all workloads one after the other until ``until``, two at least; a row per step."""
    turns = [take_turns(workload) for workload in workloads]
    found: list[dict[str, Any]] = []
    rounds, longest = 0, 0.0
    while rounds < 2 or time.monotonic() + longest < until:
        start = time.monotonic()
        for turn in turns:
            found += turn()
        rounds, longest = rounds + 1, max(longest, time.monotonic() - start)
        print(f"{rounds} turns, the longest of {longest:.0f} seconds", flush=True)
    return pd.DataFrame(found)


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


def memory(workload: str) -> list[dict[str, Any]]:
    """Peak resident GiB of a fresh process for each variant, and the ratio to the official."""
    peaks = {}
    for variant in MEASURED:
        command = [sys.executable, __file__, "--measure", variant, "--workload", workload]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise WRPOError(
                f"memory of {variant} (status {done.returncode}): {done.stderr[-2000:]}"
            )
        peaks[variant] = float(done.stdout.split()[-1])
        print(f"memory of {variant}: {peaks[variant]:.2f} GiB", flush=True)
    return [
        {"variant": variant, "peak_gib": round(gib, 3), "ratio": round(gib / peaks["official"], 4)}
        for variant, gib in peaks.items()
    ]


def measure(workload: str, variant: str) -> float:
    """Peak GiB of a process that has taken a step on a whole batch."""
    size = BATCH[workload]
    Stepper(*load(workload, size), (variant,)).step(variant, range(1, 1 + size))
    status = Path("/proc/self/status")  # getrusage counts the process that started this one
    told = status.read_text(encoding="utf-8") if status.is_file() else ""
    if found := re.search(r"^VmHWM:\s*(\d+) kB$", told, re.M):
        return int(found[1]) / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def main() -> None:
    """Run the benchmark; with --measure, one variant's memory in this process."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=10, help="of the whole run, about")
    parser.add_argument("--quick", action="store_true", help="a tiny random model")
    parser.add_argument("--out", type=Path, default=results_dir("benchmarks"), help="folder")
    parser.add_argument("--measure", choices=MEASURED, help=argparse.SUPPRESS)
    parser.add_argument("--workload", default="ordinary", help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(THREADS)
    if args.measure:
        print(measure(args.workload, args.measure))
        return
    start, made = time.monotonic(), provenance()
    until = start if args.quick else start + 60 * args.minutes
    peaks = memory("tiny" if args.quick else "ordinary")
    steps = compare(("tiny",) if args.quick else ("ordinary", "long"), until)
    about = {"threads": THREADS, "seconds": round(time.monotonic() - start), "variants": VARIANTS}
    record = {**made, **about, "ratios": ratios(steps), "memory": peaks}
    write_json(args.out / "train_step.json", record)
    print(json.dumps(record["ratios"], indent=1))


if __name__ == "__main__":
    try:
        main()
    except WRPOError as error:
        sys.exit(f"train_step: {error}")
