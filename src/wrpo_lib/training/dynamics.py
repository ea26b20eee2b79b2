"""Training dynamics: one JSON line a logged step, safe against kills and resumes."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from wrpo_lib.records import write_jsonl


class DynamicsCallback(TrainerCallback):
    """Append every training log to ``path``.

    With ``logging_steps=1`` a line is one optimiser step; otherwise a line holds means over the
    steps since the line before. On resume, lines after the resumed step are dropped first, so
    each step stands once. ``seconds`` counts from the start of this process's training.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.start = 0.0

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Keep the lines of steps that will not be trained again."""
        self.start = time.perf_counter()
        if not state.is_world_process_zero:
            return
        kept = []
        if self.path.is_file() and state.global_step > 0:
            for line in self.path.read_text(encoding="utf-8").splitlines():
                try:
                    row = json.loads(line)
                except json.JSONDecodeError:  # the line a kill cut short
                    continue
                if row["step"] <= state.global_step:
                    kept.append(row)
        write_jsonl(self.path, kept)

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
        row = {"step": state.global_step, "seconds": round(time.perf_counter() - self.start, 3)}
        row |= {key: float(value) for key, value in logs.items()}
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
