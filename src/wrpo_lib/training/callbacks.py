"""What a run writes and shows while it trains."""

import io
import json
import time
from pathlib import Path
from typing import Any

import pandas as pd
from transformers import PrinterCallback, ProgressCallback, TrainerCallback
from transformers.trainer import DEFAULT_PROGRESS_CALLBACK

from wrpo_lib.io import Store, write_rows


class NothingLeft(Exception):
    """Raised when a resumed run has no steps left; its checkpoint is loaded."""


class DynamicsCallback(TrainerCallback):
    """Write each training log to ``path`` as a line of JSON: ``step``, and means since the last."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Drop the lines of steps that will be trained again; leave where none is left."""
        if state.is_world_process_zero:
            with Store(self.path, ("step",)) as store:  # without a line that a kill cut short
                kept = [row for row in store if row["step"] <= state.global_step]
            write_rows(kept, self.path)
        if state.global_step >= state.max_steps:  # transformers takes a step before it looks
            raise NothingLeft

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        """Append one line; evaluation logs and the closing summary are not dynamics."""
        if state.is_world_process_zero and logs and "loss" in logs:
            values = {key: float(value) for key, value in logs.items() if key != "num_tokens"}
            row = {"step": state.global_step, **values}  # TRL counts tokens from 0 after a resume
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")


class LiveLine(ProgressCallback):
    """transformers' progress bar, also in Jupyter, the last metrics at its end."""

    def on_log(self, *args: Any, logs: Any = None, **kwargs: Any) -> None:
        """Replace the metrics on the bar."""
        shown = ("alpha", "loss", "rewards/margins", "rewards/accuracies")
        if self.training_bar is not None and logs and "loss" in logs:
            self.training_bar.set_postfix({name: logs[name] for name in shown if name in logs})


def show_progress(trainer: Any) -> LiveLine:
    """Put :class:`LiveLine` in place of transformers' callbacks, which print a line per step."""
    for shown in (PrinterCallback, ProgressCallback, DEFAULT_PROGRESS_CALLBACK):
        trainer.remove_callback(shown)
    live = LiveLine()
    if not trainer.args.disable_tqdm:
        trainer.add_callback(live)
    return live


class LivePlot(TrainerCallback):
    """Draw rewards, margin and alpha under a notebook's cell, at most every five seconds."""

    def __init__(self) -> None:
        self.logs, self.drawn = list[dict[str, float]](), 0.0

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        """Add a step, and draw when the last picture is old."""
        if state.is_world_process_zero and logs and "loss" in logs:
            self.logs.append({**logs, "step": state.global_step})
        if time.monotonic() - self.drawn > 5:
            self.on_train_end()

    def on_train_end(self, *args: Any, **kwargs: Any) -> None:
        """Show the steps so far, or replace what is shown."""
        if not self.logs:
            return
        from IPython.display import Image, display
        from matplotlib.figure import Figure

        from wrpo_lib.analysis.report import maths
        from wrpo_lib.figures.style import look

        steps, figure = pd.DataFrame(self.logs).set_index("step"), Figure((6.4, 3.2))
        axis = figure.add_subplot(xlabel="step", ylabel="internal reward")
        for name in ("source_chosen", "target_chosen", "rejected", "margins"):
            if f"rewards/{name}" in steps:  # a response of weight 0 may be left out
                label, color, _, dash = look(name)
                axis.plot(steps[f"rewards/{name}"], dash, label=maths(label), color=color)
        axis.legend(frameon=False)
        right = axis.twinx()
        right.set_ylabel("α (grey)")
        right.plot(steps["alpha"], color="#999999", linewidth=1)
        figure.savefig(file := io.BytesIO(), format="png", dpi=110, bbox_inches="tight")
        image = Image(data=file.getvalue(), format="png")
        display(image, display_id=f"live-{id(self)}", update=self.drawn > 0)
        self.drawn = time.monotonic()
