"""Training dynamics: one JSON line a logged step, and one live line on the terminal."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from torch import Tensor
from transformers import (
    ProgressCallback,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from wrpo_lib.io import write_rows
from wrpo_lib.objective import Objective

LIVE = {
    "alpha": "alpha",
    "loss": "loss",
    "rewards/source_chosen": "r_ws",
    "rewards/target_chosen": "r_wt",
    "rewards/rejected": "r_l",
    "rewards/accuracies": "acc",
    "mean_token_accuracy": "acc",
}
"""What the live line shows of a log, by its short name."""


class DynamicsCallback(TrainerCallback):
    """Write every training log of :class:`~wrpo_lib.training.WRPOTrainer` to ``path``.

    A line holds ``step`` (optimiser steps done), ``seconds`` and ``tokens`` (both since step 0;
    tokens as the model computed them, so a shared prompt counts once), and all that is logged:
    ``loss``, ``alpha``, ``rewards/*``, ``logps/*``, ``grad_norm``, ``learning_rate``, ``epoch``.

    With ``logging_steps=1`` a line is one optimiser step; otherwise its values are means over the
    steps since the line before. On resume, lines after the resumed step are dropped first, so each
    step stands once, and ``seconds`` and ``tokens`` go on from the last line kept. A fresh run
    starts the file anew. Only the main process writes.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.start = 0.0
        self.seconds_before = 0.0
        self.tokens_before = 0.0

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Keep the lines of steps that will not be trained again."""
        self.start = time.perf_counter()
        if not state.is_world_process_zero:
            return
        kept = [row for row in self._lines() if row["step"] <= state.global_step]
        if kept:
            self.seconds_before, self.tokens_before = kept[-1]["seconds"], kept[-1]["tokens"]
        write_rows(kept, self.path)

    def _lines(self) -> list[dict[str, Any]]:
        """Whole lines of the file; a kill may have cut the last one short."""
        rows = []
        if self.path.is_file():
            for line in self.path.read_text(encoding="utf-8").splitlines():
                try:
                    rows.append(json.loads(line))
                except json.JSONDecodeError:
                    break
        return rows

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        """Append one line; evaluation logs and the closing summary are not dynamics."""
        if not state.is_world_process_zero or not logs or "loss" not in logs:
            return
        values = {key: float(value) for key, value in logs.items()}
        row = {
            "step": state.global_step,
            "seconds": round(self.seconds_before + time.perf_counter() - self.start, 3),
            "tokens": int(self.tokens_before + values.pop("num_tokens", 0.0)),
            **values,
        }
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")


class LiveLine(ProgressCallback):
    """transformers' progress bar with its ETA, the last logged metrics at its end.

    The parent prints every log as a line of its own; here they stay on the bar's one line. Only
    the main process shows a bar.
    """

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        """Replace the metrics on the bar; logs without a training loss are left to the files."""
        if self.training_bar is not None and logs and "loss" in logs:
            found = {short: logs[name] for name, short in LIVE.items() if name in logs}
            self.training_bar.set_postfix_str(" ".join(f"{k} {v:.4g}" for k, v in found.items()))


def metrics_of(result: Objective, logps: dict[str, Tensor]) -> dict[str, Tensor]:
    """Metrics of every example, (B,) each, by the names of the trainer's description."""
    rewards = result.rewards
    values = {f"logps/{name}": values for name, values in logps.items()}
    for name in ("source", "target"):
        if f"{name}_chosen" in logps:
            reward = getattr(rewards, name)
            values[f"rewards/{name}_chosen"] = reward
            values[f"rewards/{name}_accuracies"] = reward > rewards.rejected
    return {
        **values,
        "rewards/fused": rewards.fused,
        "rewards/rejected": rewards.rejected,
        "rewards/margins": rewards.fused - rewards.rejected,
        "rewards/accuracies": rewards.fused > rewards.rejected,
    }
