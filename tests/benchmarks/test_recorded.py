"""What the page shows of the benchmark is what its tables say."""

from __future__ import annotations

import re

import pytest

from wrpo_lib.analysis import benchmarks
from wrpo_lib.records import project_root, read_results

KEYS = {"speedup_ordinary", "speedup_ordinary_cached", "speedup_long_prompt",
        "speedup_long_prompt_cached", "memory_ratio_ordinary", "memory_ratio_saving",
        "share_of_matmul_rate"}  # fmt: skip


def test_the_summary_follows_from_the_steps() -> None:
    detail = benchmarks.measured()["detail"]
    assert set(detail) >= KEYS
    rows = benchmarks.undisturbed(read_results("benchmarks", "steps"))
    names = {"ordinary": "speedup_ordinary", "long": "speedup_long_prompt"}
    for load, name in names.items():
        found = benchmarks.quartiles(rows[rows["workload"] == load])["median"]
        assert detail[name] == pytest.approx(found[benchmarks.ONE_PASS], rel=1e-3)
        assert detail[f"{name}_cached"] == pytest.approx(found["all"], rel=1e-3)
    alone = read_results("benchmarks", "steady")
    turns = rows[rows["way"] == "all"]
    for part, rate, name in (
        (turns, "rate", "share_in_turns"),
        (alone, "rate", "share_of_matmul_rate"),
        (alone, "torch_rate", "share_of_torch_matmul_rate"),
    ):
        share = part["gflops"] / part["seconds"] / part[rate]
        lower = min(share[part["workload"] == load].median() for load in names)
        assert detail[name] == pytest.approx(lower, rel=1e-3)


def test_memory_ratios_follow_from_the_peaks() -> None:
    rows = read_results("benchmarks", "memory")
    counts = rows.groupby("way")["step"].agg(["count", "max"])
    assert set(counts.to_numpy().ravel()) == {10}, "every way took ten steps"
    peak = rows[rows["step"] == 10].set_index("way")["peak_gib"]
    assert rows.groupby("way")["peak_gib"].max().to_dict() == peak.to_dict(), "a peak never falls"
    detail = benchmarks.measured()["detail"]
    for way, name in (("all", "memory_ratio_ordinary"), ("saving", "memory_ratio_saving")):
        assert detail[name] == pytest.approx(peak[way] / peak["official"], rel=1e-3)


def test_the_check_in_own_processes_follows_from_the_steps_there() -> None:
    rows = read_results("benchmarks", "memory")
    taken = {
        way: part.sort_values("step")["seconds"].tolist()[1:] for way, part in rows.groupby("way")
    }
    ratios = sorted(a / b for a, b in zip(taken["official"], taken["all"], strict=True))
    assert len(ratios) == 9
    assert benchmarks.numbers()["alone"] == pytest.approx(ratios[4])


def test_numbers_on_the_page_were_measured() -> None:
    page = (project_root() / "book" / "training_engine.md").read_text(encoding="utf-8")
    asked = set(re.findall(r"`bench_(\w+)", page))
    assert KEYS - {"memory_ratio_ordinary", "memory_ratio_saving"} <= asked
    numbers = benchmarks.numbers()
    assert asked <= set(numbers)
    kinds = {type(value) for value in numbers.values()}
    assert kinds <= {int, float, str}, "the page formats nothing else"


def test_tables_have_a_row_a_way() -> None:
    assert len(benchmarks.ways_table(benchmarks.WAYS)) == len(benchmarks.WAYS)
    assert list(benchmarks.ways_table(benchmarks.PAIRS)["way"]) == list(benchmarks.PAIRS.values())
    assert set(benchmarks.memory_table()["of the official"]) >= {1.0}
    machines = benchmarks.machines_table()
    assert set(benchmarks.MACHINES) < set(machines.columns)
    assert machines.notna().all(axis=None)


def test_growth_has_every_setting_of_both_ways() -> None:
    rows = read_results("benchmarks", "growth")
    counts = rows.groupby(["varied", "responses", "prompt", "batch", "way"]).size()
    assert counts.nunique() == 1
    assert len(counts) == 24
    wide = rows.pivot_table("tokens", ["varied", "responses", "prompt", "batch"], "way")
    assert (wide["ours"] < wide["official"]).all()
