"""The authors' own trainer, one step at a request: the other side of ``official_code.py``.

Runs in a Python with the versions that the authors pin and imports nothing of this project. Reads
from stdin one JSON list of rows a line, takes a training step on them and answers in one line of
JSON. The step is ``WRPOTrainer.get_batch_loss_metrics`` as it stands in their repository, then
backward pass, clipping and AdamW as their Trainer does them. Only their ``__init__`` is left out,
which wants data files and a GPU.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
import types
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"

import torch
from transformers import AutoModelForCausalLM

NAMES = {
    "chosen0": "source_chosen_ids",
    "chosen1": "target_chosen_ids",
    "rejected0": "rejected_ids",
}
"""What the official batch calls a response, and what a row does."""


def batch(rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    """Rows padded at the right to the longest of each kind, as the official collator gives them."""
    found = {}
    for name, key in NAMES.items():
        whole = [row["prompt_ids"] + row[key] for row in rows]
        width = max(map(len, whole))
        ids, labels = torch.zeros(len(rows), width).long(), torch.full((len(rows), width), -100)
        mask = torch.zeros_like(ids)
        for i, (row, tokens) in enumerate(zip(rows, whole)):  # noqa: B905 - an older Python's
            ids[i, : len(tokens)] = torch.tensor(tokens)
            labels[i, len(row["prompt_ids"]) : len(tokens)] = torch.tensor(row[key])
            mask[i, : len(tokens)] = 1
        found.update(
            {f"{name}_input_ids": ids, f"{name}_attention_mask": mask, f"{name}_labels": labels}
        )
    return found


def trainer(scripts: str, model: Any, reference: Any, alpha: float, beta: float) -> Any:
    """The official trainer around a policy and its reference, without its ``__init__``."""
    sys.path.insert(0, scripts)
    from wrpo_trainer import WRPOTrainer

    found = WRPOTrainer.__new__(WRPOTrainer)
    found.model, found.ref_model = model.train(), reference.eval().requires_grad_(False)
    found.accelerator = types.SimpleNamespace(device=torch.device("cpu"))
    found.label_pad_token_id, found.padding_value = -100, 0
    found.loss_type, found.label_smoothing = "wrpo", 0.0
    found.beta, found.alpha, found.is_dynamic = beta, alpha, False
    return found


def main() -> None:
    """Answer requests until stdin ends."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("scripts", help="the folder with wrpo_trainer.py")
    parser.add_argument("policy", help="its folder")
    parser.add_argument("reference", help="its folder")
    parser.add_argument("--alpha", type=float, required=True)
    parser.add_argument("--beta", type=float, required=True)
    parser.add_argument("--threads", type=int, required=True)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    model, reference = (
        AutoModelForCausalLM.from_pretrained(
            folder, torch_dtype=torch.float32, attn_implementation="sdpa"
        )
        for folder in (args.policy, args.reference)
    )
    official = trainer(args.scripts, model, reference, args.alpha, args.beta)
    optimiser = torch.optim.AdamW(model.parameters(), lr=0.0, weight_decay=0.0)
    for line in sys.stdin:
        inputs = batch(json.loads(line))
        start, busy = time.perf_counter(), time.process_time()
        optimiser.zero_grad(set_to_none=True)
        loss, _ = official.get_batch_loss_metrics(model, inputs)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        answer = {"seconds": time.perf_counter() - start, "cpu_seconds": time.process_time() - busy,
                  "loss": loss.item(), "grad_norm": norm.item()}  # fmt: skip
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
