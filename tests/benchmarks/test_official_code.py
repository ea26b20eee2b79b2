"""The comparison with the authors' own code; a plain trainer of the same interface stands in."""

from __future__ import annotations

import sys
from pathlib import Path

import pandas as pd
import pytest

from wrpo_lib.analysis.benchmarks import code_ratios
from wrpo_lib.errors import WRPOError

STAND_IN = """
import torch

class WRPOTrainer:
    def __init__(self):
        raise RuntimeError("wants data files and a GPU")

    def reward(self, batch, name):
        ids, labels = batch[f"{name}_input_ids"], batch[f"{name}_labels"][:, 1:]
        mask = batch[f"{name}_attention_mask"]
        sums = []
        for model in (self.model, self.ref_model):
            logps = model(input_ids=ids, attention_mask=mask).logits[:, :-1].log_softmax(-1)
            found = logps.gather(2, labels.clamp(min=0)[..., None])[..., 0]
            sums.append((found * (labels != self.label_pad_token_id)).sum(-1))
        return self.beta * (sums[0] - sums[1])

    def get_batch_loss_metrics(self, model, batch):
        source, target, rejected = (
            self.reward(batch, name) for name in ("chosen0", "chosen1", "rejected0")
        )
        margin = SIGN * self.alpha * source + (1 - self.alpha) * target - rejected
        return -torch.nn.functional.logsigmoid(margin).mean(), {}
"""


def run(folder: Path, sign: str) -> pd.DataFrame:
    import official_code
    import train_step

    (folder / "wrpo_trainer.py").write_text(STAND_IN.replace("SIGN", sign), encoding="utf-8")
    model, tokenizer, rows = train_step.load("tiny", 6)
    return official_code.run(Path(sys.executable), folder, model, tokenizer, rows)


def test_both_sides_take_the_same_steps(tmp_path: Path) -> None:
    table = run(tmp_path, "1")
    assert list(table["turn"]) == [1, 1, 2, 2], "the first turn only warms up"
    assert table.groupby("turn")["side"].first().nunique() == 2, "each side is first in its turn"
    ratios = code_ratios(table)
    assert list(ratios) == ["seconds", "cpu_seconds"]
    wide = table.pivot(index="turn", columns="side", values="seconds")
    assert ratios["seconds"][2] == wide["official code"][2] / wide["baseline"][2]


def test_another_loss_is_found_out(tmp_path: Path) -> None:
    with pytest.raises(WRPOError, match=r"turn \d: .* differ by .* one of them is wrong"):
        run(tmp_path, "-1")


def test_a_folder_without_the_trainer_and_one_that_fails_are_said(tmp_path: Path) -> None:
    import official_code

    worker = official_code.Worker
    with pytest.raises(WRPOError, match=r"has no wrpo_trainer\.py"):
        worker(Path(sys.executable), tmp_path, tmp_path, tmp_path)
    (tmp_path / "wrpo_trainer.py").touch()  # and no models
    broken = worker(Path(sys.executable), tmp_path, tmp_path, tmp_path)
    with pytest.raises(WRPOError, match="ended without an answer"):
        broken.step([])
