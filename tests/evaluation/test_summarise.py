"""`wrpo summarise` and its kin over every format, good and bad."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from commandline import wrpo

from wrpo_lib.evaluation.formats import instruction_key, instructions
from wrpo_lib.evaluation.judgements import read_judgements
from wrpo_lib.evaluation.summary import Options, summarise

FUSECHAT = "FuseChat-Llama-3.1-8B-Instruct"


@pytest.fixture(autouse=True)
def _assets(shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WRPO_ASSETS", str(shared))


def report(capsys: pytest.CaptureFixture[str], *arguments: Any) -> dict[str, Any]:
    code, out, err = wrpo(capsys, "summarise", *arguments, "--workers", 1, "--json")
    assert code == 0, err
    found: dict[str, Any] = json.loads(out)
    return found


def write(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join((r if isinstance(r, str) else json.dumps(r)) + "\n" for r in rows))
    return path


def annotations(shared: Path) -> list[dict[str, Any]]:
    path = shared / "eval" / f"alpacaeval2_annotations_{FUSECHAT}.json.gz"
    found: list[dict[str, Any]] = json.loads(gzip.decompress(path.read_bytes()))
    return found


# -- the formats ---------------------------------------------------------------------------------


def test_annotations_with_texts_and_the_table_without_agree(
    shared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = pd.read_csv(shared / "eval" / "alpacaeval2_annotations.csv.gz")
    table = tmp_path / "rows.csv"
    rows[rows["model"] == FUSECHAT].to_csv(table, index=False)
    texts = shared / "eval" / f"alpacaeval2_annotations_{FUSECHAT}.json.gz"
    a = report(capsys, "alpaca-eval", table, "--replicates", 20)["models"][0]
    b = report(capsys, "alpaca-eval", texts, "--replicates", 20)["models"][0]
    assert a == b
    assert a["win_rate"] == pytest.approx(63.33158292362734, abs=1e-9)
    assert a["length_controlled_winrate"] == pytest.approx(65.38623116037492, abs=0.16)
    assert (a["n_total"], a["n_absent"], a["n_missing"], a["n_duplicates"]) == (805, 0, 0, 0)
    assert a["position_effect"]["low"] > 0  # shown second is better
    assert a["lc_joined_by"] == "instruction"


def test_shuffled_annotations_change_nothing(
    shared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = annotations(shared)
    order = np.random.default_rng(0).permutation(len(rows))
    path = tmp_path / "shuffled.json"
    path.write_text(json.dumps([rows[i] for i in order]))
    whole = tmp_path / "whole.json"
    whole.write_text(json.dumps(rows))
    a, b = (
        report(capsys, "alpaca-eval", p, "--C", 2.782559402207126, "--replicates", 0)["models"][0]
        for p in (path, whole)
    )
    for field in ("win_rate", "standard_error", "length_controlled_winrate"):
        assert a[field] == pytest.approx(b[field], abs=1e-3)


def test_missing_repeated_and_unreadable_rows_are_counted(
    shared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = annotations(shared)
    rows[5]["preference"] = None
    path = tmp_path / "holed.json"
    path.write_text(json.dumps(rows[3:] + rows[:1] * 2))
    found = report(capsys, "alpaca-eval", path, "--replicates", 0)["models"][0]
    assert (found["n_total"], found["n_missing"]) == (803, 1)
    assert (found["n_absent"], found["n_duplicates"]) == (2, 1)
    assert len(found["notes"]) == 3


def test_fastchat_judgements(shared: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = shared / "eval" / "mtbench_gpt4_judgments.jsonl.gz"
    found = report(capsys, "mt-bench", path)
    published = json.loads((shared / "eval" / "mtbench_published.json").read_text())
    for model in found["models"]:
        if triple := published.get(model["model"]):
            ours = [model["first_turn"], model["second_turn"], model["overall"]]
            assert ours == pytest.approx(triple, abs=1e-12)
    doubled = next(m for m in found["models"] if m["model"] == "mistral-orpo")
    assert (doubled["n_duplicates"], doubled["n_missing"], doubled["n_absent"]) == (160, 1, 0)
    assert len(found["differences"]) == 7
    seen = [d["detectable_difference"] for d in found["differences"]]
    assert 0.4 < np.median(seen) < 0.8


def test_battles_and_both_kinds_of_arena_judgements_agree(
    shared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    battles = shared / "eval" / "arena_hard_v01_battles_gpt-4-0613.jsonl.gz"
    found = report(capsys, "arena-hard", battles)["models"][0]
    assert found["score"] == pytest.approx(37.9019, abs=5e-5)
    assert found["interval"]["high"] - found["score"] == pytest.approx(3.9, abs=0.15)
    labels = [("A>B", "A=B"), ("B>>A", "A>B"), ("A>>B", "B<A"), (None, "A>B")]
    v01 = [{"question_id": f"q{i}", "model": "m", "judge": "j",
            "games": [{"score": a}, {"score": b}]} for i, (a, b) in enumerate(labels)]  # fmt: skip
    v2 = [{"uid": r["question_id"], "category": "hard_prompt", "model": "m", "judge": "j",
           "games": r["games"]} for r in v01]  # fmt: skip
    a, b = (report(capsys, "arena-hard", write(tmp_path / "j.jsonl", r))["models"][0]
            for r in (v01, v2))  # fmt: skip
    assert a["score"] == pytest.approx(100 * (0 + 0.5 + 3 + 1 + 0 + 1 + 1) / 11)
    assert (a["n_missing"], b["n_missing"]) == (1, 2)  # v2.0 leaves out the question
    assert (a["baseline"], b["baseline"]) == ("gpt-4-0314", "o3-mini-2025-01-31")


def test_style_control_from_answer_files(
    shared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    baseline = shared / "eval" / "arena_hard_v01_answers_gpt-4-0314.jsonl.gz"
    with gzip.open(baseline, "rt") as file:
        answers = [json.loads(line) for line in file]
    rng = np.random.default_rng(0)
    rows, own = [], []
    for row in answers[:200]:  # a judge that likes length, and a model that differs in nothing else
        text, longer = row["choices"][0]["turns"][0]["content"], float(rng.uniform(0.6, 2.2))
        own.append({"benchmark": "arena-hard", "question_id": row["question_id"], "turn": 1,
                    "model": "m", "text": "word " * int(len(text) * longer / 5)})  # fmt: skip
        wins = rng.random(2) < 1 / (1 + np.exp(-4 * (longer - 1) / (longer + 1)))
        games = [{"score": "B>A" if wins[0] else "A>B"}, {"score": "A>B" if wins[1] else "B>A"}]
        rows.append({"question_id": row["question_id"], "model": "m", "judge": "j", "games": games})
    judged = write(tmp_path / "j.jsonl", rows)
    mine = write(tmp_path / "answers.jsonl", own)
    (model,) = report(capsys, "arena-hard", judged, "--style", mine, "--style", baseline,
                      "--replicates", 40)["models"]  # fmt: skip
    controlled = model["style_controlled"]["gpt-4-0314"]
    assert model["interval"]["low"] > 51
    assert controlled["interval"]["low"] < 50 < controlled["interval"]["high"]
    assert controlled["coefficients"]["token_len"] > 0
    code, _, err = wrpo(capsys, "summarise", "arena-hard", judged, "--style", mine)
    assert code == 2
    assert "style control lacks 200 answers (first: 'gpt-4-0314'" in err
    code, _, err = wrpo(capsys, "summarise", "arena-hard", judged, "--style", judged)
    assert code == 2
    assert "line 1 is no Arena-Hard answer" in err


def test_two_baselines_have_no_overall_score(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{"uid": f"q{i}", "category": c, "model": "m", "judge": "j",
             "games": [{"score": "A>B"}, {"score": "A>>B"}]}
            for i, c in enumerate(["hard_prompt", "creative_writing"] * 3)]  # fmt: skip
    found = report(capsys, "arena-hard", write(tmp_path / "j.jsonl", rows))["models"][0]
    assert found["score"] is None
    assert {c: v["score"] for c, v in found["categories"].items()} == {
        "creative_writing": 75.0,
        "hard_prompt": 75.0,
    }


def ours(model: str, n: int = 40, shift: float = 0.0, **changes: Any) -> list[dict[str, Any]]:
    """Rows as `wrpo judge` writes them: two orders, nano questions."""
    rng = np.random.default_rng(1)
    rows = []
    for i in range(n):
        for order in ("baseline first", "model first"):
            value = float(np.clip(1.5 + shift + rng.normal(0, 0.2), 1, 2))
            rows.append({"request": f"{model}{i}{order}", "attempt": 1, "status": "ok",
                         "benchmark": "alpaca-eval", "version": "nano", "question_id": f"n{i}",
                         "model": model, "baseline": "b", "judge": "local", "template": "t",
                         "metric": "weighted", "order": order, "preference": value,
                         "length_model": 40 + i, "length_baseline": 50, **changes})  # fmt: skip
    return rows


def test_our_rows_attempts_and_paired_differences(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = ours("a")
    failed = {**first[0], "status": "error", "preference": None}
    gone = {**first[1], "status": "error", "preference": None, "attempt": 2, "request": "other"}
    a = write(tmp_path / "a.jsonl", [failed, *first, gone])
    b = write(tmp_path / "b.jsonl", ours("c", shift=0.3))
    found = report(capsys, "alpaca-eval", a, b, "--replicates", 30)
    model = found["models"][0]
    assert (model["n_total"], model["n_missing"]) == (80, 1)  # the first failure was made good
    assert model["lc_glm"] == "length_controlled_minimal"
    pair = found["differences"][0]
    assert pair["difference"]["low"] > 15
    assert pair["n_shared_questions"] == 40
    assert pair["lc_difference"]["low"] < pair["difference"]["value"]
    code, out, _ = wrpo(capsys, "summarise", "alpaca-eval", a, b, "--replicates", 0)
    assert code == 0
    assert "c minus a: " in out


def test_several_samples_are_no_duplicates(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{**r, "request": f"{r['request']}{k}", "sample": k, "metric": "verdict of 2 samples"}
            for r in ours("a") for k in (0, 1)]  # fmt: skip
    same = {**rows[0], "request": "s", "question_id": "n99", "metric": "identical outputs",
            "preference": 1.5}  # fmt: skip
    (found,) = report(capsys, "alpaca-eval", write(tmp_path / "a.jsonl", [*rows, same]))["models"]
    assert (found["n_total"], found["n_duplicates"], found["n_draws"]) == (161, 0, 1)
    assert found["metric"] == "verdict of 2 samples"
    assert found["interval"]["n_clusters"] == 41


def test_other_judges_are_not_subtracted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a = write(tmp_path / "a.jsonl", ours("a"))
    b = write(tmp_path / "b.jsonl", ours("b", judge="another"))
    pair = report(capsys, "alpaca-eval", a, b, "--replicates", 0)["differences"][0]
    assert pair["difference"] is None
    assert pair["reason"] == "the judge is another, not local"


def test_our_pairwise_mt_bench_rows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    winners = [("model", "model"), ("model", "baseline"), ("tie", None), ("baseline", "baseline")]
    common = {"benchmark": "mt-bench", "version": "nano", "turn": 1, "model": "m", "baseline": "b",
              "judge": "j", "template": "t", "metric": "verdict"}  # fmt: skip
    rows = [
        {**common, "question_id": i, "game": game, "winner": winner}
        for i, pair in enumerate(winners)
        for game, winner in enumerate(pair, 1)
    ]
    found = report(capsys, "mt-bench", write(tmp_path / "p.jsonl", rows))["models"][0]
    assert [found[n] for n in ("win", "loss", "tie", "n_missing")] == [1, 1, 1, 1]


def test_processes_change_nothing(tmp_path: Path) -> None:
    rows = [row for k in range(5) for row in ours(f"m{k}", n=12, shift=0.02 * k)]
    table = read_judgements("alpaca-eval", write(tmp_path / "five.jsonl", rows))
    one, two = (
        [s.as_dict() for s in summarise("alpaca-eval", table, Options(replicates=5, workers=w))]
        for w in (1, 2)
    )
    assert len(one) == 5
    assert one == two


# -- leaderboards and agreement ------------------------------------------------------------------


def test_a_model_stands_on_the_board_only_if_all_agrees(
    shared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    texts = shared / "eval" / f"alpacaeval2_annotations_{FUSECHAT}.json.gz"
    other = tmp_path / "other.json"
    rows = [{**r, "annotator": "weighted_alpaca_eval_gpt-4o-mini", "generator_2": "mine"}
            for r in annotations(shared)]  # fmt: skip
    other.write_text(json.dumps(rows))
    code, out, err = wrpo(capsys, "leaderboard", "alpaca-eval", texts, other, "--replicates", 0,
                          "--workers", 1, "--json")  # fmt: skip
    assert code == 0, err
    found = json.loads(out)
    own = [r for r in found["board"] if r["origin"] == "ours"]
    assert [r["model"] for r in own] == [FUSECHAT]
    twin = next(r for r in found["board"] if r["model"] == FUSECHAT and r["origin"] == "published")
    assert own[0]["score"] == pytest.approx(twin["score"], abs=0.16)
    assert len(found["board"]) > 200
    (apart,) = found["apart"]
    assert apart["model"] == "mine"
    assert "its judge is weighted_alpaca_eval_gpt-4o-mini" in apart["reasons"][0]


def test_what_a_file_leaves_unsaid_may_be_stated(
    shared: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    battles = shared / "eval" / "arena_hard_v01_battles_gpt-4-0613.jsonl.gz"
    code, out, _ = wrpo(capsys, "leaderboard", "arena-hard", battles)
    assert code == 0
    assert "shown apart: its judge is not named" in out
    stated = ["--state", "judge=gpt-4-1106-preview", "--state", "template=arena-hard-v0.1"]
    code, out, _ = wrpo(capsys, "leaderboard", "arena-hard", battles, *stated)
    assert "apart" not in out
    assert out.count("gpt-4-0613") == 2  # the published row, and ours below it


def test_the_mt_bench_board_comes_from_judgements(
    shared: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = shared / "eval" / "mtbench_gpt4_judgments.jsonl.gz"
    code, out, _ = wrpo(capsys, "leaderboard", "mt-bench", path, "--board", path, "--state",
                        "version=original-references", "--json", "--workers", 1)  # fmt: skip
    assert code == 0
    assert len(json.loads(out)["board"]) == 16
    assert json.loads(out)["apart"] == []


def test_agreement_of_two_judges(
    shared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a = write(tmp_path / "a.jsonl", ours("m"))
    b = write(tmp_path / "b.jsonl", [{**r, "judge": "other"} for r in ours("m", n=30)])
    code, out, _ = wrpo(capsys, "agreement", "alpaca-eval", a, b, "--json")
    assert code == 0
    found = json.loads(out)
    assert (found["n"], found["n_missing"]) == (30, 10)
    assert found["raw"]["value"] == 1
    path = shared / "eval" / "mtbench_gpt4_judgments.jsonl.gz"
    code, out, _ = wrpo(capsys, "agreement", "mt-bench", path, path, "--replicates", 20)
    assert code == 0
    assert "raw: 1.000" in out


def test_agreement_with_people(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def pair(question: int, first: str, second: str) -> dict[str, Any]:
        return {"question_id": question, "turn": 1, "model_1": "a", "model_2": "b",
                "judge": ["gpt-4", "pair-v2"], "g1_winner": first, "g2_winner": second}  # fmt: skip

    def vote(question: int, winner: str) -> dict[str, Any]:
        return {"question_id": question, "turn": 1, "model_a": "b", "model_b": "a",
                "judge": "expert_1", "winner": winner}  # fmt: skip

    judge = write(tmp_path / "judge.jsonl", [
        pair(1, "model_1", "model_1"), pair(2, "model_1", "model_2"), pair(3, "error", "tie"),
        pair(4, "model_2", "model_2")])  # fmt: skip
    people = write(tmp_path / "people.jsonl", [
        vote(1, "model_b"), vote(1, "model_b"), vote(1, "model_a"),  # two of three for a
        vote(2, "model_a"), vote(3, "tie"), vote(4, "model_b")])  # fmt: skip
    code, out, _ = wrpo(capsys, "agreement", "mt-bench", judge, people, "--json")
    assert code == 0
    found = json.loads(out)
    assert (found["n"], found["n_missing"], found["n_tied"]) == (3, 1, 1)
    assert found["raw"]["value"] == pytest.approx(1 / 3)


# -- bad input -----------------------------------------------------------------------------------

ROW: dict[str, Any] = {
    "benchmark": "alpaca-eval", "question_id": "q", "model": "m", "judge": "j", "preference": 1.2,
    "length_model": 5, "length_baseline": 6,
}  # fmt: skip


@pytest.mark.parametrize(
    ("benchmark", "rows", "sentence"),
    [
        ("alpaca-eval", [ROW, '{"question_id": "q'], "line 2: not JSON"),
        ("alpaca-eval", [{**ROW, "preference": 3}], "line 1, field 'preference': 3.0 is outside"),
        ("alpaca-eval", [{**ROW, "preference": "m"}], "field 'preference': is 'm', not a number"),
        ("alpaca-eval", [{**ROW, "preference": None}] * 3, "0 of 3 judgements have a preference"),
        ("alpaca-eval", [[1, 2]], "line 1: not a JSON object"),
        ("alpaca-eval", [{"question_id": 1, "model": "m", "turn": 1, "score": 5}],
         "line 1 has no field 'preference'"),
        ("mt-bench", [ROW], "line 1 is a judgement of alpaca-eval, not mt-bench"),
        ("arena-hard", [{"uid": "q", "model": "m"}], "line 1 has no field 'game'"),
        ("alpaca-eval", [], "holds no judgements"),
        ("helm", [ROW], "unknown benchmark 'helm'; choose one of alpaca-eval"),
    ],
)  # fmt: skip
def test_bad_input_is_one_sentence_and_status_2(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    benchmark: str,
    rows: list[Any],
    sentence: str,
) -> None:
    path = write(tmp_path / "j.jsonl", rows)
    code, out, err = wrpo(capsys, "summarise", benchmark, path, "--workers", 1)
    assert (code, out) == (2, "")
    assert sentence in err
    assert len(err.strip().splitlines()) == 1


def test_another_benchmark_version_is_noticed(
    shared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = annotations(shared)[:50]
    mixed, other = tmp_path / "mixed.json", tmp_path / "other.json"
    mixed.write_text(json.dumps([*rows, {**rows[0], "instruction": "Sing."}]))
    other.write_text(json.dumps([{**r, "instruction": r["instruction"] + " "} for r in rows]))
    code, _, err = wrpo(capsys, "summarise", "alpaca-eval", mixed)
    assert code == 2
    assert "1 of 51 instructions are none of AlpacaEval-2's (first: row 51)" in err
    model = report(capsys, "alpaca-eval", other, "--replicates", 0)["models"][0]
    assert model["version"] == ""
    assert any("not AlpacaEval-2's" in note for note in model["notes"])
    code, out, _ = wrpo(capsys, "leaderboard", "alpaca-eval", other, "--replicates", 0)
    assert "shown apart: its version is not named" in out


def test_a_file_cut_short_and_a_model_twice_are_named(
    shared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = shared / "eval" / "mtbench_gpt4_judgments.jsonl.gz"
    cut = tmp_path / "cut.jsonl.gz"
    cut.write_bytes(whole.read_bytes()[:5000])
    code, _, err = wrpo(capsys, "summarise", "mt-bench", cut)
    assert code == 2
    assert "cannot be read" in err
    again = tmp_path / "again.jsonl.gz"
    again.write_bytes(whole.read_bytes())
    code, _, err = wrpo(capsys, "summarise", "mt-bench", whole, again)
    assert code == 2
    assert "give each model once" in err
    code, _, err = wrpo(capsys, "summarise", "mt-bench", whole, "--state", "colour=red")
    assert code == 2
    assert "--state is 'colour=red'" in err


def test_without_the_side_file_the_rest_is_still_computed(
    shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setenv("WRPO_ASSETS", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    texts = shared / "eval" / f"alpacaeval2_annotations_{FUSECHAT}.json.gz"
    code, out, err = wrpo(capsys, "summarise", "alpaca-eval", texts, "--json", "--workers", 1)
    assert code == 0
    assert "run `wrpo assets fetch` or give --side" in err
    model = json.loads(out)["models"][0]
    assert "length_controlled_winrate" not in model
    assert any("without the side file" in note for note in model["notes"])


def test_the_instruction_table_is_that_of_the_benchmark(shared: Path) -> None:
    path = shared / "alpaca_eval" / "gpt4_1106_preview.json.gz"
    rows = json.loads(gzip.decompress(path.read_bytes()))
    known = instructions()
    assert [known[instruction_key(r["instruction"])][0] for r in rows] == list(range(805))
    assert sum(first for _, first in known.values()) == 406


def test_texts_are_not_kept(shared: Path) -> None:
    path = shared / "eval" / f"alpacaeval2_annotations_{FUSECHAT}.json.gz"
    table = read_judgements("alpaca-eval", path)
    longest = max(len(v) for row in table.itertuples() for v in row if isinstance(v, str))
    assert longest < 50
