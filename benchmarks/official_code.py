"""Is the benchmark's baseline fair? The authors' own code beside it, step by step.

    .venv/bin/python benchmarks/official_code.py --scripts WRPO/scripts --python PINNED/bin/python

``--scripts`` lies in a checkout of the authors' repository (SLIT-AI/WRPO); ``--python`` belongs to
an environment with the transformers and trl that it pins (4.43.3, 0.9.6). Both sides take the same
batches of the long workload in turn, with the same weights, and must agree in loss and gradient
norm. Two processes need 16 GiB together. Writes results/benchmarks/official_code.csv (or to --out).
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import pandas as pd
import torch
import train_step
import variants
import workloads
from store import save

from wrpo_lib.analysis.benchmarks import code_ratios
from wrpo_lib.errors import WRPOError
from wrpo_lib.records import provenance

SIDES = ("official code", "baseline")


class Worker:
    """The authors' trainer in a process of its own, with the given interpreter."""

    def __init__(self, python: Path, scripts: Path, policy: Path, reference: Path) -> None:
        if not (scripts / "wrpo_trainer.py").is_file():
            raise WRPOError(f"{scripts} has no wrpo_trainer.py; give the authors' scripts folder")
        command = [python, Path(__file__).with_name("official_worker.py"), scripts, policy,
                   reference, "--alpha", variants.ALPHA, "--beta", variants.BETA,
                   "--threads", torch.get_num_threads()]  # fmt: skip
        self.process = subprocess.Popen(
            list(map(str, command)), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def step(self, rows: list[workloads.Row]) -> dict[str, float]:
        """One training step: seconds, seconds of all its threads together, loss, gradient norm."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        try:
            self.process.stdin.write(json.dumps(rows) + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:  # what it printed last says why
            pass
        answer = self.process.stdout.readline()
        if not answer:
            self.close()
            raise WRPOError("the official code ended without an answer; its error is above")
        found: dict[str, float] = json.loads(answer)
        return found

    def close(self) -> None:
        """End the process."""
        self.process.communicate()


def save_model(model: Any, folder: Path) -> None:
    """Save a model as the pinned transformers reads it too, which knows ``rope_theta`` only."""
    model.save_pretrained(folder)
    path = folder / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    config["rope_theta"] = config["rope_parameters"]["rope_theta"]
    path.write_text(json.dumps(config), encoding="utf-8")


def compare(
    worker: Worker, stepper: train_step.Stepper, way: Any, batches: list[list[workloads.Row]]
) -> pd.DataFrame:
    """Both sides on every batch in turn, each first in half of the turns; one row a step."""
    found = []
    for turn, batch in enumerate(batches):
        for side in SIDES if turn % 2 else SIDES[::-1]:
            if side == "baseline":
                busy = time.process_time()
                row = stepper.step(way, batch)
                row["cpu_seconds"] = time.process_time() - busy
            else:
                row = worker.step(batch)
            found.append({"turn": turn, "side": side, **row})
        print(f"turn {turn + 1} of {len(batches)}", flush=True)
    return pd.DataFrame(found)


def run(python: Path, scripts: Path, model: Any, tokenizer: Any, rows: list[Any]) -> pd.DataFrame:
    """Compare on batches of ``rows``; the first turn only warms both sides up."""
    with tempfile.TemporaryDirectory() as folder:
        stepper = train_step.Stepper(model)
        policy, reference = Path(folder, "policy"), Path(folder, "reference")
        save_model(stepper.model, policy)
        save_model(stepper.reference, reference)
        way = stepper.build("official", tokenizer, rows, Path(folder))
        batches = [rows[i : i + train_step.BATCH] for i in range(0, len(rows), train_step.BATCH)]
        worker = Worker(python, scripts, policy, reference)
        try:
            table = compare(worker, stepper, way, batches)
        finally:
            worker.close()
    train_step.check_agreement(table.rename(columns={"side": "way"}).assign(workload="long"))
    return table[table["turn"] > 0]


def main() -> None:
    """Run the comparison and keep it with the other benchmarks."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--python", type=Path, required=True, help="of the pinned environment")
    parser.add_argument("--scripts", type=Path, required=True, help="of the authors' repository")
    parser.add_argument("--turns", type=int, default=6, help="that are kept")
    parser.add_argument("--out", type=Path, help="folder, default results/benchmarks")
    args = parser.parse_args()
    torch.set_num_threads(train_step.THREADS)
    made = provenance()
    model, tokenizer, rows = train_step.load("long", train_step.BATCH * (args.turns + 1))
    table = run(args.python, args.scripts, model, tokenizer, rows)
    record = {"turns": args.turns, "threads": train_step.THREADS, "workload": "long"}
    save({"official_code": table}, {"official_code": record}, made, args.out)
    print(code_ratios(table).describe())


if __name__ == "__main__":
    try:
        main()
    except WRPOError as error:
        sys.exit(f"official_code: {error}")
