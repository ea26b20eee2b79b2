"""`make gpu` in small: it runs without a card, and its record is what the page shows."""

import json
import sys

from wrpo_lib.analysis import report
from wrpo_lib.records import project_root

sys.path.insert(0, str(project_root() / "benchmarks"))
import gpu


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
        assert row["seconds"] > 0
        assert 0.5 < row["loss"] < 0.69, "it learned, so that losses tell something"
    (lora,) = record["adapters"]  # bitsandbytes needs a card
    assert lora["adapters"] == "torch.float32"
    assert lora["share moved"] > 0.9
    monkeypatch.setattr(report, "results_dir", lambda profile: tmp_path)
    assert len(report.gpu_table()) == len(record["steps"])


def test_only_real_runs_are_tracked():
    for path in (project_root() / "results" / "gpu").glob("*.json"):
        assert not json.loads(path.read_text(encoding="utf-8"))["quick"]
