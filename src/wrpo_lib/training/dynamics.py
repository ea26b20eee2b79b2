"""Training dynamics: one JSON line per logged step, and one live line on the terminal."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from transformers import ProgressCallback, TrainerCallback

from wrpo_lib.io import write_rows

LIVE = ("alpha", "loss", "rewards/margins", "rewards/accuracies")
"""What the bar shows of a log."""


class NothingLeft(Exception):
    """A resumed run has all its steps; its checkpoint is loaded."""


class DynamicsCallback(TrainerCallback):
    """Write every training log to ``path``, a line of JSON each.

    A line holds ``step`` (optimiser steps done), ``seconds`` and ``tokens`` (both since step 0;
    tokens as the model computed them, so a shared prompt counts once), and all that is logged.
    With ``logging_steps`` above 1 its values are means over the steps since the line before. On
    resume, lines after the resumed step are dropped first; a fresh run starts the file anew.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Keep the lines of steps that will not be trained again; leave where none is left."""
        text = self.path.read_text(encoding="utf-8") if self.path.is_file() else ""
        whole = [line for line in text.splitlines(keepends=True) if line.endswith("\n")]
        kept = [row for row in map(json.loads, whole) if row["step"] <= state.global_step]
        self.before = kept[-1] if kept else {"seconds": 0.0, "tokens": 0}
        self.start = time.perf_counter()
        if state.is_world_process_zero:
            write_rows(kept, self.path)
        if state.global_step >= state.max_steps:  # transformers takes a step before it looks
            raise NothingLeft

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        """Append one line; evaluation logs and the closing summary are not dynamics."""
        if not state.is_world_process_zero or not logs or "loss" not in logs:
            return
        values = {key: float(value) for key, value in logs.items()}
        row = {
            "step": state.global_step,
            "seconds": round(self.before["seconds"] + time.perf_counter() - self.start, 3),
            "tokens": int(self.before["tokens"] + values.pop("num_tokens", 0.0)),
            **values,
        }
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")


class LiveLine(ProgressCallback):
    """transformers' progress bar, the last metrics at its end instead of a line per log."""

    def on_log(self, *args: Any, logs: Any = None, **kwargs: Any) -> None:
        """Replace the metrics on the bar."""
        if self.training_bar is not None and logs and "loss" in logs:
            self.training_bar.set_postfix({name: logs[name] for name in LIVE if name in logs})
