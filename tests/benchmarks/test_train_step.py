"""The benchmark on a tiny model: ways agree, wrong ones are found, the summary is complete."""

from __future__ import annotations

import json
import mmap
import subprocess
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from wrpo_lib.errors import WRPOError

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated")
KEYS = {"speedup_ordinary", "speedup_ordinary_cached", "speedup_long_prompt",
        "speedup_long_prompt_cached", "memory_ratio_ordinary", "memory_ratio_saving",
        "share_of_matmul_rate"}  # fmt: skip


@pytest.fixture(scope="module")
def steps() -> pd.DataFrame:
    import train_step
    import variants

    return train_step.compare("tiny", 1, 1, variants.NAMES)


def test_every_way_takes_the_same_step(steps: pd.DataFrame) -> None:
    """The comparison refuses to return otherwise; here, that it compared what it should."""
    losses = steps.set_index("way")["loss"]
    assert losses["all"] == pytest.approx(losses["official"], abs=1e-5)
    assert losses["pair"] == pytest.approx(losses["trl"], abs=1e-5)
    norms = steps.set_index("way")["grad_norm"]
    assert abs(norms["all"] - norms["pair"]) > 1e-3, "two objectives are told apart"
    assert 0.1 < losses["official"] < 2
    assert abs(losses["official"] - 0.693147) > 1e-6, "the policy is not its reference"


def test_turns_are_kept_and_gone_on_from(
    steps: pd.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import train_step
    import variants

    kept = tmp_path / "turns.csv"
    taken: list[int] = []
    block = train_step._block

    def stops(*args: Any) -> Any:
        taken.extend(args[3])
        if len(taken) == 2:
            raise KeyboardInterrupt
        return block(*args)

    monkeypatch.setattr(train_step, "_block", stops)
    with pytest.raises(KeyboardInterrupt):
        train_step.compare("tiny", 1, 2, variants.NAMES, 1, kept)
    first = pd.read_csv(kept)
    assert set(first["way"]) == set(steps["way"]), "the turn before it is there"
    whole = train_step.compare("tiny", 1, 2, variants.NAMES, 1, kept)
    assert taken == [0, 1, 1]
    assert whole["seconds"].tolist()[: len(first)] == pytest.approx(first["seconds"].tolist())
    assert set(whole[whole["turn"] == 1]["way"]) >= {*train_step.MAIN, train_step.REFERENCE}


def test_a_timed_step_follows_one_of_its_own_way() -> None:
    import train_step

    calls: list[list[Any]] = []

    def step(rows: list[Any]) -> dict[str, float]:
        calls.append(rows)
        return {"seconds": float(len(calls))}

    found = train_step._in_a_row("all", step, {4: [{"prompt_id": "a"}], 5: [{"prompt_id": "b"}]})
    assert [rows[0]["prompt_id"] for rows in calls] == ["b", "a", "b"]
    assert [(row["turn"], row["way"], row["seconds"]) for row in found] == [
        (4, "all", 2.0), (5, "all", 3.0)
    ]  # fmt: skip
    assert all(row["rate"] > 0 for row in found)


def test_faults_of_a_step_are_counted(steps: pd.DataFrame) -> None:
    """By the system: memory that a process has not touched yet comes page by page."""
    import train_step

    page = 2**21  # at most
    with mmap.mmap(-1, 32 * page) as memory:  # malloc might have kept some
        before = train_step._minor_faults()
        for start in range(0, len(memory), page):
            memory[start] = 1
        assert train_step._minor_faults() - before >= 32
    ours = steps[steps["way"] != train_step.REFERENCE]
    assert (ours["faults"] >= 0).all()


def test_a_disturbed_step_leaves_its_ratios_out() -> None:
    """Those of the other ways in its turn stay, unless it is their baseline's."""
    import train_step

    from wrpo_lib.analysis.benchmarks import speedups, undisturbed

    slow = {(0, "all"), (1, "official")}
    seconds = {"official": 6.0, "head": 3.0, "all": 2.0, "trl": 4.0}
    rows = [{"workload": "w", "turn": turn, "way": way, "seconds": seconds[way],
             "rate": 50.0 if (turn, way) in slow else 100.0}
            for turn in range(3) for way in seconds]  # fmt: skip
    found = speedups(undisturbed(pd.DataFrame(rows)))
    assert found["head"].dropna().to_dict() == {0: 2.0, 2: 2.0}
    assert found["all"].dropna().to_dict() == {2: 3.0}
    assert "pair" not in found
    assert train_step._without_a_ratio(rows, ("official", "head", "all")) == []
    assert train_step._without_a_ratio(rows[:8], ("official", "head", "all")) == ["all"]


@pytest.mark.parametrize(
    ("disturbed", "more"), [(0, []), (2, [[2]]), (9, [[2], [3]])], ids=["never", "twice", "always"]
)
def test_ways_go_on_until_each_has_a_ratio(
    disturbed: int, more: list[list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not for ever, where the machine is never quiet; and the main ways to the end."""
    import train_step
    import variants

    taken: list[tuple[int, list[int]]] = []

    def block(stepper: Any, ways: Any, names: tuple[str, ...], turns: Any) -> list[dict[str, Any]]:
        taken.append((len(names), list(turns)))
        calm = {"rate": 100.0, "seconds": 1.0, "loss": 0.0, "grad_norm": 1.0}
        found = [{**calm, "turn": turn, "way": name} for turn in turns for name in names]
        for row in found:
            if row["way"] == "head" and row["turn"] < disturbed:
                row["rate"] = 1.0
        return found

    monkeypatch.setattr(train_step, "_block", block)
    table = train_step.compare("tiny", 2, 4, variants.NAMES, 2)
    assert [turns for n, turns in taken if n == len(variants.NAMES)] == [[0, 1], *more]
    assert taken[-1][0] == len(train_step.MAIN)
    assert [turn for _, turns in taken for turn in turns] == list(range(8))
    assert table["turn"].nunique() == 8


def test_a_way_whose_turns_were_all_disturbed_has_no_number(
    steps: pd.DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And neither does it stop the summary, the table or the figure."""
    import matplotlib.pyplot as plt
    import train_step

    from wrpo_lib.analysis import benchmarks
    from wrpo_lib.figures import benchmarks as figures

    calm = steps[steps["way"].isin(["official", "all", "reference"])].assign(turn=1, rate=100.0)
    table = pd.concat([steps.assign(rate=1.0), calm])
    table = pd.concat([table.assign(workload=load) for load in ("ordinary", "long")])
    told = train_step.summary(table)
    assert told["turns_left_out"] == {"ordinary": 1, "long": 1}
    assert set(told["ways"]["long"]) == {"official", "all", "reference", benchmarks.ONE_PASS}
    for module in (benchmarks, figures):
        monkeypatch.setattr(module, "read_results", lambda *_: table)
    shown = benchmarks.ways_table(benchmarks.WAYS).set_index("way")["long prompts"]
    assert shown["prompt sharing alone"] == "every ratio left out"
    assert shown["all, reference cached"][0].isdigit()
    plt.close(figures.train_step())


def test_a_wrong_way_is_found(steps: pd.DataFrame) -> None:
    import train_step

    for column, factor in (("loss", 1.001), ("grad_norm", 1.01)):
        wrong = steps.copy()
        wrong.loc[wrong["way"] == "all", column] *= factor
        with pytest.raises(WRPOError, match="one of them is wrong"):
            train_step.check_agreement(wrong)


def test_the_summary_has_what_is_asked_for(steps: pd.DataFrame) -> None:
    import train_step

    steps = steps.assign(rate=steps["rate"].max())  # other tests beside it would disturb its turn
    rows = [("official", 3.0), ("all", 2.0), ("official", 4.0), ("all", 1.0), ("saving", 1.0)]
    memory = train_step.memory_ratios(pd.DataFrame(rows, columns=["way", "peak_gib"]))
    detail = {**train_step.summary(steps), **memory}
    assert set(detail) >= KEYS - {"share_of_matmul_rate"}  # from steps in a row
    wide = steps.set_index("way")["seconds"]
    assert detail["speedup_ordinary_cached"] == pytest.approx(wide["official"] / wide["all"])
    once = wide["official"] / (wide["all"] + wide["reference"])
    assert detail["speedup_ordinary"] == pytest.approx(once)
    assert detail["memory_ratio_ordinary"] == 0.5
    assert detail["memory_ratio_saving"] == 0.25
    assert 0 < detail["share_in_turns"] < 1


def test_steps_in_a_row_are_put_into_the_summary(tmp_path: Path) -> None:
    import store
    import train_step

    rows = train_step.steady("tiny", 2)
    assert list(rows["turn"]) == [2, 3], "the first pass only warms up"
    assert rows["loss"].nunique() == 2
    assert (rows["rate"] >= rows["torch_rate"]).all()
    record = {"share_of_matmul_rate": train_step.share(rows), "batches": {"tiny": 2}}
    assert 0 < record["share_of_matmul_rate"] <= train_step.share(rows, "torch_rate") < 1
    records = {"steps": {"n": 3}, "steady": record, "memory": {"memory_ratio_saving": 0.3}}
    store.save(dict.fromkeys(records, rows), records, {"commit": "abc"}, tmp_path)
    found = json.loads((tmp_path / "train_step.json").read_text())
    detail = found["detail"]
    assert found["commit"] == "abc"
    assert detail["share_of_matmul_rate"] == record["share_of_matmul_rate"]
    assert detail["memory_ratio_saving"] == 0.3
    assert detail["n"] == 3
    assert detail["steady"] == {"commit": "abc", **record}


def test_steps_in_a_row_keep_their_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    import variants
    import workloads

    calls: list[str] = []
    monkeypatch.setattr(variants.memory, "keep_freed", lambda: calls.append("kept"))
    monkeypatch.setattr(variants.memory, "give_back", lambda: calls.append("given back"))
    switch = variants.Switch(workloads.small_model()[0])
    for on in (True, True, False, False, True):
        switch(on)
    assert calls == ["kept", "given back", "kept"]


def test_memory_of_a_way_is_measured_step_by_step() -> None:
    import train_step

    held = torch.ones(2**30)  # of the process that starts the measured one: 4 GiB that do not count
    rows = train_step.peaks("tiny", "all", 2)
    del held
    assert list(rows["step"]) == [1, 2]
    assert 0.1 < rows["peak_gib"][0] <= rows["peak_gib"][1] < 4
    assert (rows["seconds"] > 0).all()
    assert rows["faults"][0] > rows["faults"][1] >= 0, "the first step finds no memory yet"


def test_a_process_that_is_killed_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    import train_step

    def killed(*args: Any, **kwargs: Any) -> Any:
        return subprocess.CompletedProcess(args, -9, "", "")

    monkeypatch.setattr(train_step.subprocess, "run", killed)
    with pytest.raises(WRPOError, match=r"measuring all on tiny was killed by signal 9"):
        train_step.peaks("tiny", "all", 1)


def test_a_part_that_fails_leaves_those_before_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import train_step

    def fail(args: Any) -> Any:
        raise WRPOError("no")

    rows = pd.DataFrame({"way": ["all"], "peak_gib": [1.0]})
    monkeypatch.setattr(train_step, "PARTS", {"memory": lambda args: (rows, {}), "steps": fail})
    monkeypatch.setattr(train_step.sys, "argv", ["train_step", "--quick", "--out", str(tmp_path)])
    threads = torch.get_num_threads()
    try:
        with pytest.raises(WRPOError, match="no"):
            train_step.main()
    finally:
        torch.set_num_threads(threads)
    assert pd.read_csv(tmp_path / "memory.csv").equals(rows)


def test_a_way_that_cannot_be_measured_is_named() -> None:
    import train_step

    with pytest.raises(WRPOError, match=r"measuring none on tiny failed"):
        train_step.peaks("tiny", "none", 1)


def test_the_official_way_is_the_formula_of_the_paper() -> None:
    import variants
    import workloads

    from wrpo_lib.objective import wrpo_loss

    policy, _ = workloads.small_model(seed=1)
    reference, _ = workloads.small_model(seed=2)
    rows = workloads.random_rows(2, 5, (7, 4, 6), 512)

    def logps(model: Any, name: str) -> torch.Tensor:
        found = []
        for row in rows:
            ids = torch.tensor([row["prompt_ids"] + row[f"{name}_ids"]])
            token = model(input_ids=ids).logits[0, :-1].log_softmax(-1)
            picked = token.gather(1, ids[0, 1:, None])[:, 0]
            found.append(picked[-len(row[f"{name}_ids"]) :].sum())
        return torch.stack(found)

    with torch.no_grad():
        values = [logps(m, n) for m in (policy, reference) for n in workloads.RESPONSES]
        by_hand = wrpo_loss(*values, alpha=variants.ALPHA, beta=variants.BETA).losses.mean()
        for way in ({}, {"shared": True}, {"cached": True}):
            loss = variants.Official(policy, reference, 0, **way)(rows)
            assert float(loss) == pytest.approx(float(by_hand), abs=1e-5)


def test_growth_times_both_ways(tmp_path: Path) -> None:
    import growth
    import workloads

    model, tokenizer = workloads.small_model()
    setting = {"responses": 4, "prompt": 20, "batch": 2}
    rows = pd.DataFrame(growth._time(model, tokenizer, setting, 512, 1))
    tokens = rows.set_index("way")["tokens"]
    assert tokens["official"] == 2 * 4 * (20 + growth.RESPONSE)
    assert tokens["ours"] == 2 * (20 + 4 * growth.RESPONSE)
    assert (rows["seconds"] > 0).all()


def test_long_prompts_are_four_times_the_responses(shared: Path) -> None:
    import workloads

    tokenizer = workloads.load_tokenizer(workloads.SMOLLM2)
    rows = workloads.long_prompt(tokenizer, 4)
    end = tokenizer.eos_token_id
    for row in rows:
        assert len(row["prompt_ids"]) == 512
        for name in workloads.RESPONSES:
            ids = row[f"{name}_ids"]
            assert len(ids) == 128
            assert ids[-1] == end
            assert ids.count(end) == 1
