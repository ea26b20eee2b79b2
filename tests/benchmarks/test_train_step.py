"""The benchmarks on tiny models: they run, variants agree, and wrong ones are found."""

import json
import math
import sys
from itertools import islice
from typing import Any

import pandas as pd
import pytest
import torch

from wrpo_lib.analysis import report
from wrpo_lib.errors import WRPOError
from wrpo_lib.records import project_root

sys.path.insert(0, str(project_root() / "benchmarks"))
import gpu
import train_step
import workloads

KEYS = {"commit", "machine", "versions", "threads", "variants", "ratios", "memory"}


def assert_has_form(record: dict[str, Any]) -> None:
    """What the page and its table read."""
    assert set(record) >= KEYS
    for _, rows in pd.DataFrame(record["ratios"]).groupby("workload"):
        assert list(rows["variant"]) == list(record["variants"])
        assert (rows["n"] >= 2).all()
        assert rows["median"].between(rows["low"], rows["high"]).all()
    peaks = pd.DataFrame(record["memory"]).set_index("variant")
    assert {"official", "ours", "saving"} <= set(peaks.index) <= set(train_step.MEASURED)
    ratios = peaks["peak_gib"] / peaks.loc["official", "peak_gib"]
    assert peaks["ratio"].tolist() == pytest.approx(ratios.tolist(), rel=1e-2)


def test_a_quick_run_writes_what_the_page_reads(tmp_path, monkeypatch):
    """In one process, where memory is measured for each variant in one of its own."""
    monkeypatch.setattr(train_step, "alone", lambda work, *args: work(*args))
    monkeypatch.setattr(train_step, "THREADS", torch.get_num_threads())
    options = ["--quick", "--minutes", "11", "--out", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", ["train_step", *options])
    train_step.main()
    record = json.loads((tmp_path / "train_step.json").read_text(encoding="utf-8"))
    assert_has_form(record)
    assert len(record["memory"]) == len(train_step.MEASURED)


def test_the_recorded_run_has_the_same_form():
    record = report.measured()
    assert_has_form(record)
    assert len(report.ratios_table()) == len(record["variants"])
    assert len(report.memory_table()) == len(record["memory"])
    assert "dirty" not in record["commit"]


def test_the_official_loss_is_its_formula():
    """At the start the policy is its reference: log 2. Away from it, by hand, one by one."""
    model, _ = workloads.tiny_model()
    reference, _ = workloads.tiny_model()
    rows = list(islice(workloads.random_rows(None), 2))
    assert workloads.official_loss(model, reference, rows).item() == pytest.approx(math.log(2))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.5)

    @torch.no_grad()
    def logp(network: Any, row: dict[str, Any], name: str) -> float:
        ids, start = row["prompt_ids"] + row[name], len(row["prompt_ids"])
        scores = network(torch.tensor([ids])).logits[0].log_softmax(-1)
        return float(sum(scores[i - 1, ids[i]] for i in range(start, len(ids))))

    losses, names = [], workloads.RESPONSES
    for row in rows:
        ws, wt, yl = (logp(model, row, name) - logp(reference, row, name) for name in names)
        losses.append(math.log1p(math.exp(-0.01 * (0.1 * ws + 0.9 * wt - yl))))
    found = workloads.official_loss(model, reference, rows).item()
    assert found == pytest.approx(sum(losses) / 2, abs=1e-5)
    assert abs(found - math.log(2)) > 1e-4


def test_a_wrong_variant_is_found():
    right = {"workload": "tiny", "turn": 0, "loss": 0.7, "grad_norm": 1.0, "variant": "official"}
    train_step.check_agreement([right, ours := right | {"variant": "ours"}])
    for wrong in (ours | {"loss": 0.7007}, ours | {"grad_norm": 1.01}):
        with pytest.raises(WRPOError, match="one of the two is wrong"):
            train_step.check_agreement([right, wrong])


def test_ratios_are_of_the_same_turn():
    seconds = {"official": (4.0, 8.0, 6.0), "ours": (2.0, 2.0, 6.0)}
    taken = pd.DataFrame({name: seconds.get(name, (1.0, 1.0, 1.0)) for name in train_step.VARIANTS})
    turns = taken.rename_axis("turn").reset_index().assign(workload="w")
    turns = turns.melt(["turn", "workload"], var_name="variant", value_name="seconds")
    (found,) = [row for row in train_step.ratios(turns) if row["variant"] == "ours"]
    expected = {"n": 3, "median": 2.0, "low": 1.5, "high": 3.0}
    assert found == {"workload": "w", "variant": "ours", **expected}


def test_a_dry_run_without_a_card(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["gpu.py", "--quick", "--out", str(tmp_path)])
    monkeypatch.setattr(gpu, "free", lambda: None)  # of a card's memory
    gpu.main()
    (path,) = tmp_path.glob("*.json")
    record = json.loads(path.read_text(encoding="utf-8"))
    assert record["quick"], "what a tiny model gives is no result of a card"
    whole, shared = record["exactness"][:2]
    assert whole["largest relative difference"] == 0 < shared["largest relative difference"] < 1e-5
    assert {row["model"] for row in record["steps"]} == {"1B", "8B"}
    for row in record["steps"]:
        assert 0.5 < row["loss"] < 0.69, "it learned, so that losses tell something"
    (lora,) = record["adapters"]  # bitsandbytes needs a card
    assert lora["adapters"] == "torch.float32"
    assert lora["share moved"] > 0.9
    monkeypatch.setattr(report, "results_dir", lambda profile: tmp_path)
    assert len(report.gpu_table()) == len(record["steps"])


def test_only_real_runs_are_tracked():
    for path in (project_root() / "results" / "gpu").glob("*.json"):
        assert not json.loads(path.read_text(encoding="utf-8"))["quick"]
