"""Time, memory and efficiency of a training step, way by way, in one run on one machine.

    .venv/bin/python benchmarks/train_step.py            # 80 minutes on two quiet cores
    .venv/bin/python benchmarks/train_step.py --quick    # a tiny random model, seconds

Ways take turns, a few batches at a time, and what is reported is the median of the ratios of steps
on the same batch. As in training, a timed step follows one of its own way: the first of a row is
not timed, since it finds the memory that another way left. Losses and gradient norms of the ways
must agree, or the run fails. Peak memory is of a fresh process for each way, over ten steps. Writes
results/benchmarks/ (--out elsewhere; --label beside what is there, for a run on another machine).
Turns are kept in the cache folder until the run ends: after an interruption, the same command at
the same commit goes on.
"""

from __future__ import annotations

import argparse
import copy
import hashlib
import json
import os
import platform
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

import growth
import pandas as pd
import torch
import variants
import workloads
from store import save

from wrpo_lib.analysis.benchmarks import (
    ONE_PASS,
    matmul_shares,
    quartiles,
    speedups,
    undisturbed,
)
from wrpo_lib.cache import cache_dir
from wrpo_lib.cpu import compiled, products
from wrpo_lib.errors import WRPOError
from wrpo_lib.planner import footprint
from wrpo_lib.records import provenance

BATCH = 2
THREADS = 2
MAIN = ("official", "all")
"""The ways whose ratio is reported as the speed-up."""
IN_A_ROW = 4
"""Most steps of a way that follow each other before another way has its turn."""
STEPS = 10
"""Over which peak memory is taken, on batches of different lengths."""
NOISE = 0.05
"""How far the policy is from its reference, in standard deviations of each weight matrix."""
REFERENCE = "reference"
"""The reference pass that ways with a cached reference owe once; timed like a way."""


def load(workload: str, n: int) -> tuple[Any, Any, list[workloads.Row]]:
    """Model, tokenizer and rows of a workload."""
    if workload == "tiny":
        model, tokenizer = workloads.small_model()
        return model, tokenizer, workloads.random_rows(n, 12, (30, 24, 12), 512)
    model, tokenizer = workloads.smollm2()
    make = workloads.ordinary if workload == "ordinary" else workloads.long_prompt
    return model, tokenizer, make(tokenizer, n)


class Stepper:
    """A policy a little away from its reference, and training steps that leave it there.

    The learning rate is 0: the optimiser does all of its work and every way meets the same
    weights, so their losses can be compared.
    """

    def __init__(self, model: Any) -> None:
        self.reference = copy.deepcopy(model).eval().requires_grad_(False)
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for p in model.parameters():
                p.add_(torch.randn(p.shape, generator=generator), alpha=NOISE * float(p.std()))
        self.model = model.train()
        self.switch = variants.Switch(self.model, self.reference)
        self.optimiser = torch.optim.AdamW(model.parameters(), lr=0.0, weight_decay=0.0, fused=True)

    def step(self, way: Any, rows: list[workloads.Row]) -> dict[str, float]:
        """One whole training step: seconds, pages that the system had to map in, loss, norm."""
        self.switch(way.layers)
        saving = getattr(way, "checkpointing", False)
        if saving:
            self.model.activation_checkpointing_enable()
        self.optimiser.param_groups[0]["fused"] = way.fused
        faults = _minor_faults()
        start = time.perf_counter()
        self.optimiser.zero_grad(set_to_none=True)
        loss = way(rows)
        loss.backward()
        loss = loss.detach()  # the graph goes before the optimiser's turn, as in a Trainer
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimiser.step()
        seconds = time.perf_counter() - start
        faults = _minor_faults() - faults
        if saving:
            self.model.activation_checkpointing_disable()
        return {"seconds": seconds, "faults": faults, "loss": loss.item(), "grad_norm": norm.item()}

    def build(self, name: str, tokenizer: Any, rows: list[workloads.Row], folder: Path) -> Any:
        """A way to compute this policy's step."""
        return variants.build(name, self.model, self.reference, tokenizer, rows, folder)


def _minor_faults() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt


def matmul_rates(n: int = 2048, repeats: int = 5) -> tuple[float, float]:
    """GFLOP/s of float32 matrix products just now, the best of a few: torch's own, and oneDNN's."""
    a, found = torch.randn(n, n), []
    for multiply in (torch.matmul, products.onednn if products.AVAILABLE else torch.matmul):
        best = float("inf")
        for _ in range(repeats):
            start = time.perf_counter()
            multiply(a, a)
            best = min(best, time.perf_counter() - start)
        found.append(2 * n**3 / best / 1e9)
    return found[0], found[1]


def matmul_rate() -> float:
    """The better of both rates: what the machine can do."""
    return max(matmul_rates())


def needed_gflops(model: Any, rows: list[workloads.Row]) -> float:
    """Arithmetic of a training step counting each token once: three forward passes' worth."""
    examples = [
        (len(r["prompt_ids"]), tuple(len(r[f"{k}_ids"]) for k in workloads.RESPONSES)) for r in rows
    ]
    weights = footprint.weights(model)
    return 3 * sum(footprint.forward_flops(weights, model.config, examples, True)) / 1e9


def compare(
    workload: str, n_batches: int, repeats: int, names: tuple[str, ...], full: int = 10**9,
    kept: Path | None = None,
) -> pd.DataFrame:  # fmt: skip
    """Time every way on every batch, a few batches in a row; one row a step.

    A turn is all steps on one batch. After ``full`` turns only the ways of ``MAIN`` go on, unless
    other work held the machine up so that a way has no ratio yet; after twice as many they do so
    anyway. The rows are written to ``kept`` when every way had its row of steps; where the file has
    some, the turns after them are taken.
    """
    model, tokenizer, rows = load(workload, BATCH * n_batches)
    stepper = Stepper(model)
    found: list[dict[str, Any]] = []
    if kept and kept.is_file():
        found = [
            {str(k): v for k, v in row.items()} for row in pd.read_csv(kept).to_dict("records")
        ]
    with tempfile.TemporaryDirectory() as folder:
        ways = {n: stepper.build(n, tokenizer, rows, Path(folder)) for n in names}
        batches = [rows[i : i + BATCH] for i in range(0, len(rows), BATCH)]
        for trl in (w for w in ways.values() if isinstance(w, variants.TRL)):
            for batch in batches[: 2 * full]:
                trl.prepare(batch)
        first, last = len({row["turn"] for row in found}), repeats * n_batches
        while first < last:
            taken, n = MAIN, IN_A_ROW
            if first < full or (first < 2 * full and _without_a_ratio(found, names)):
                taken, n = names, min(max(full - first, 1), IN_A_ROW)
            end = min(first + n, last)
            turns = {turn: batches[turn % n_batches] for turn in range(first, end)}
            first = end
            gflops = {turn: needed_gflops(model, batch) for turn, batch in turns.items()}
            for row in _block(stepper, ways, taken, turns):
                found.append({"workload": workload, "gflops": gflops[row["turn"]], **row})
            if kept:
                pd.DataFrame(found).to_csv(kept.with_suffix(".part"), index=False)
                kept.with_suffix(".part").replace(kept)
            print(f"{workload}: {first} of {last} turns", flush=True)
    table = pd.DataFrame(found)
    check_agreement(table)
    return table


def _without_a_ratio(found: list[dict[str, Any]], names: tuple[str, ...]) -> list[str]:
    """The ways of which each step so far, or its baseline's, was disturbed."""
    known = speedups(undisturbed(pd.DataFrame(found)))
    return [name for name in names if name not in known]


Turns = dict[int, list[workloads.Row]]
"""The batch of each turn."""


def _block(
    stepper: Stepper, ways: dict[str, Any], names: tuple[str, ...], turns: Turns
) -> list[dict[str, Any]]:
    """Each way's steps on these batches in a row, another way first in each block of turns.

    Then the reference's passes over the same batches.
    """
    shift = min(turns) // IN_A_ROW % len(names)
    found: list[dict[str, Any]] = []
    for name in names[shift:] + names[:shift]:
        found += _in_a_row(name, lambda rows, way=ways[name]: stepper.step(way, rows), turns)
    stepper.switch(ways["all"].layers)
    return found + _in_a_row(REFERENCE, lambda rows: _reference_pass(ways["all"], rows), turns)


def _in_a_row(
    name: str, step: Callable[[list[workloads.Row]], dict[str, float]], turns: Turns
) -> list[dict[str, Any]]:
    """Steps on these batches one after the other, and one before them that is not kept."""
    step(turns[max(turns)])
    return [
        {"turn": turn, "way": name, "rate": matmul_rate(), **step(batch)}
        for turn, batch in turns.items()
    ]


def _reference_pass(way: variants.Ours, batch: list[workloads.Row]) -> dict[str, float]:
    start = time.perf_counter()
    way.reference_pass(batch)
    return {"seconds": time.perf_counter() - start}


def steady(workload: str, n_batches: int) -> pd.DataFrame:
    """Steps of all together, one after the other as in training; one row a step.

    The first pass over the batches warms up and only the second is kept.
    """
    model, tokenizer, rows = load(workload, BATCH * n_batches)
    stepper = Stepper(model)
    found: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        way = stepper.build("all", tokenizer, rows, Path(folder))
        for turn in range(2 * n_batches):
            start = BATCH * (turn % n_batches)
            batch = rows[start : start + BATCH]
            about = {"workload": workload, "turn": turn, "gflops": needed_gflops(model, batch)}
            usual, other = matmul_rates()
            rates = {"rate": max(usual, other), "torch_rate": usual}
            found.append({**about, **rates, **stepper.step(way, batch)})
            print(f"{workload}, steady: step {turn + 1} of {2 * n_batches}", flush=True)
    return pd.DataFrame(found[n_batches:])


def share(rows: pd.DataFrame, rate: str = "rate") -> float:
    """Share of a matmul rate that steps reach: the lower of the workloads' medians."""
    shares = matmul_shares(rows, rate)
    return float(shares.groupby(rows["workload"]).median().min())


def check_agreement(table: pd.DataFrame) -> None:
    """Every way gives the loss and the gradient norm of its peers.

    :raises WRPOError: names the first that does not.
    """
    for (workload, turn), rows in table[table["way"] != REFERENCE].groupby(["workload", "turn"]):
        pairs = rows["way"].isin(variants.PAIRS)
        for group in (rows[~pairs], rows[pairs]):
            if group.empty:  # after the first turns only the main ways go on
                continue
            first = group.iloc[0]
            for row in group.itertuples():
                off = abs(row.loss - first["loss"])
                turned = abs(row.grad_norm / first["grad_norm"] - 1)
                if off > 1e-4 or turned > 1e-3:
                    raise WRPOError(
                        f"{workload}, turn {turn}: {row.way} and {first['way']} differ by {off:.1e}"
                        f" in loss and {turned:.1e} of the gradient norm; one of them is wrong"
                    )


# --- memory -------------------------------------------------------------------------------------


def peaks(workload: str, name: str, n_batches: int) -> pd.DataFrame:
    """Peak resident GiB of a fresh process after each of its steps in one way; a row a step.

    With the step's seconds and faults, which no other way in the process has a part in.
    """
    command = [sys.executable, __file__, "--measure", name, "--workload", workload,
               "--batches", str(n_batches)]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode < 0:
        raise WRPOError(
            f"measuring {name} on {workload} was killed by signal {-done.returncode}; if that is "
            f"9, for want of memory: close what else runs"
        )
    if done.returncode:
        raise WRPOError(f"measuring {name} on {workload} failed:\n{done.stderr[-2000:]}")
    found = json.loads(done.stdout.strip().splitlines()[-1])
    print(f"memory of {name}: {found[-1]['peak_gib']:.2f} GiB after {len(found)} steps", flush=True)
    about = {"workload": workload, "way": name}
    return pd.DataFrame([{**about, "step": i, **row} for i, row in enumerate(found, 1)])


def measure(workload: str, name: str, n_batches: int) -> list[dict[str, float]]:
    """Train ``n_batches`` steps in one way: seconds and faults of each, and the peak so far."""
    model, tokenizer, rows = load(workload, BATCH * n_batches)
    stepper = Stepper(model)
    found = []
    with tempfile.TemporaryDirectory() as folder:
        way = stepper.build(name, tokenizer, rows, Path(folder))
        if name in ("all", "saving"):  # trained with the reference computed: it is gone by now
            way.trainer.ref_model = stepper.reference = None
        for start in range(0, len(rows), BATCH):
            step = stepper.step(way, rows[start : start + BATCH])
            kept = {name: step[name] for name in ("seconds", "faults")}
            found.append({"peak_gib": peak_gib(), **kept})
    return found


def peak_gib() -> float:
    """Most GiB that were resident in this process so far.

    By the kernel's account of its memory, where there is one: that of ``getrusage`` begins with
    what the process that started this one had.
    """
    status = Path("/proc/self/status")
    told = status.read_text(encoding="utf-8") if status.is_file() else ""
    if found := re.search(r"^VmHWM:\s*(\d+) kB$", told, re.M):
        return int(found[1]) / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


# --- what is reported ---------------------------------------------------------------------------


def ratios(rows: pd.DataFrame) -> dict[str, dict[str, float]]:
    """Of each way on one workload: speed-up, its quartiles, seconds, number of ratios."""
    found, seconds = quartiles(rows), rows.groupby("way")["seconds"].median()
    counts = speedups(rows).count()
    return {
        way: {**found.loc[way].to_dict(), "seconds": seconds.get(way), "n": int(counts[way])}
        for way in found.index
    }


def summary(table: pd.DataFrame) -> dict[str, Any]:
    """The numbers that the book and the issue ask for, from the steps that were not disturbed."""
    by_load, left_out = {}, {}
    whole, table = table, undisturbed(table)
    for load, rows in whole.groupby("workload", sort=False):
        calm = table[table["workload"] == load]
        if not set(speedups(calm)) >= {"all", ONE_PASS}:
            raise WRPOError(
                f"every turn of {load} was disturbed; run the benchmark on a quiet machine"
            )
        by_load[load] = ratios(calm)
        left_out[load] = rows["turn"].nunique() - by_load[load][ONE_PASS]["n"]
    loads = list(by_load.values())
    first, last = loads[0], loads[-1]
    return {
        "speedup_ordinary": first[ONE_PASS]["median"],
        "speedup_ordinary_cached": first["all"]["median"],
        "speedup_long_prompt": last[ONE_PASS]["median"],
        "speedup_long_prompt_cached": last["all"]["median"],
        "share_in_turns": share(table[table["way"] == "all"]),
        "matmul_gflops": float(table["rate"].median()),
        "turns_left_out": left_out,
        "ways": by_load,
    }


def memory_ratios(table: pd.DataFrame) -> dict[str, Any]:
    """Peaks over all steps, and those of the way and of the saving setting over the official's."""
    peak = table.groupby("way", sort=False)["peak_gib"].max().to_dict()
    return {
        "memory_ratio_ordinary": peak["all"] / peak["official"],
        "memory_ratio_saving": peak["saving"] / peak["official"],
        "peak_gib": peak,
    }


def main() -> None:
    """Run the benchmark; with --measure, one way in this process."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a tiny random model")
    parser.add_argument("--batches", type=int, default=6, help="of the ordinary workload")
    parser.add_argument("--full", type=int, default=2, help="turns that all ways are timed on")
    parser.add_argument("--repeats", type=int, default=2, help="turns on each batch")
    parser.add_argument("--only", choices=PARTS, help="one of the parts")
    parser.add_argument("--out", type=Path, help="folder, default results/benchmarks")
    parser.add_argument("--label", help="of another machine: its tables and records go beside")
    parser.add_argument("--measure", choices=variants.NAMES, help=argparse.SUPPRESS)
    parser.add_argument("--workload", default="ordinary", help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(THREADS)
    if args.measure:
        print(json.dumps(measure(args.workload, args.measure, args.batches)))
        return
    made = {**provenance(), "processor": products.processor()}
    made["compiled"] = compiled.loaded() is not None  # now, not within a step that is timed
    tables, records = {}, {}
    for part in [args.only] if args.only else PARTS:
        name = f"{part}_{args.label}" if args.label else part
        tables[name], records[name] = PARTS[part](args)
        folder = save(tables, records, made, args.out)  # what is there, should a later part fail
        print(f"wrote {name} to {folder}", flush=True)
    if "steps" in records:
        print(json.dumps({k: v for k, v in records["steps"].items() if k != "ways"}, indent=1))


def _steps(args: argparse.Namespace) -> tuple[pd.DataFrame, dict[str, Any]]:
    started = time.perf_counter()
    # long prompts are all of one length, so that further batches would say the same again
    batches = {"tiny": 2} if args.quick else {"ordinary": args.batches, "long": 4}
    kept = {w: _turns_file(f"{w}_{n}_{args.full}") for w, n in batches.items()}
    resumed = any(file.is_file() for file in kept.values())
    print("turns are kept until the run ends:", *kept.values(), flush=True)
    table = pd.concat(
        [compare(w, n, args.repeats, variants.NAMES, args.full, kept[w])
         for w, n in batches.items()]
    )  # fmt: skip
    seconds = round(time.perf_counter() - started)
    settings = {"batch": BATCH, "threads": THREADS, "batches": batches, "full": args.full,
                "repeats": args.repeats, "resumed": resumed, "seconds": seconds}  # fmt: skip
    told = summary(table)
    for file in kept.values():  # what is asked for again is measured again
        file.unlink()
    return table, {**settings, **told}


def _turns_file(settings: str) -> Path:
    """Where turns are kept until the run ends, for these settings, this code and this machine."""
    commit, about = provenance()["commit"], platform.node() + products.processor()
    code = commit if not commit.endswith("-dirty") else f"{commit}-{time.time_ns()}"
    name = hashlib.sha256(f"{code} {about} {settings}".encode()).hexdigest()[:16]
    folder = cache_dir() / "benchmarks"
    folder.mkdir(parents=True, exist_ok=True)
    return folder / f"{name}.csv"


def _memory(args: argparse.Namespace) -> tuple[pd.DataFrame, dict[str, Any]]:
    load, steps = ("tiny", 2) if args.quick else ("ordinary", STEPS)
    table = pd.concat([peaks(load, way, steps) for way in ("official", "all", "saving", "trl")])
    return table, {"steps": steps, **memory_ratios(table)}


def _steady(args: argparse.Namespace) -> tuple[pd.DataFrame, dict[str, Any]]:
    batches = {"tiny": 2} if args.quick else {"ordinary": 6, "long": 4}
    table = pd.concat([steady(w, n) for w, n in batches.items()])
    return table, {
        "batches": batches,
        "share_of_matmul_rate": share(table),
        "share_of_torch_matmul_rate": share(table, "torch_rate"),
        "torch_matmul_gflops": float(table["torch_rate"].median()),
    }


PARTS = {
    "memory": _memory,  # first, as this process keeps what memory it has once had
    "steps": _steps,
    "steady": _steady,
    "growth": lambda args: growth.run(args.quick),
}

if __name__ == "__main__":
    try:
        main()
    except WRPOError as error:
        sys.exit(f"train_step: {error}")
