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

from wrpo_lib.evaluation.judgements import read_judgements
from wrpo_lib.evaluation.summary import Options, summarise

Capture = pytest.CaptureFixture[str]
FUSECHAT = "FuseChat-Llama-3.1-8B-Instruct"
TEXTS = f"eval/alpacaeval2_annotations_{FUSECHAT}.json.gz"
MT_BENCH = "eval/mtbench_gpt4_judgments.jsonl.gz"
BATTLES = "eval/arena_hard_v01_battles_gpt-4-0613.jsonl.gz"


@pytest.fixture(autouse=True)
def _assets(shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WRPO_ASSETS", str(shared))


@pytest.fixture(scope="module")
def annotations(shared: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(gzip.decompress((shared / TEXTS).read_bytes()))
    return found


def said(capsys: Capture, *arguments: Any) -> str:
    code, out, err = wrpo(capsys, *arguments)
    assert code == 0, err
    return out


def refused(capsys: Capture, *arguments: Any) -> str:
    code, out, err = wrpo(capsys, *arguments)
    assert (code, out, len(err.strip().splitlines())) == (2, "", 1)
    return err


def report(capsys: Capture, *arguments: Any) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(
        said(capsys, "summarise", *arguments, "--workers", 1, "--json")
    )
    return found


def write(path: Path, rows: list[Any]) -> Path:
    if path.suffix == ".json":
        path.write_text(json.dumps(rows))
    else:
        lines = (r if isinstance(r, str) else json.dumps(r) for r in rows)
        path.write_text("".join(f"{line}\n" for line in lines))
    return path


# -- the formats ---------------------------------------------------------------------------------


def test_annotations_with_texts_and_the_table_without_agree(
    shared: Path, tmp_path: Path, capsys: Capture
) -> None:
    rows = pd.read_csv(shared / "eval" / "alpacaeval2_annotations.csv.gz")
    table = tmp_path / "rows.csv"
    rows[rows["model"] == FUSECHAT].to_csv(table, index=False)
    a = report(capsys, "alpaca-eval", table, "--replicates", 20)["models"][0]
    b = report(capsys, "alpaca-eval", shared / TEXTS, "--replicates", 20)["models"][0]
    assert a == b
    assert a["win_rate"] == pytest.approx(63.33158292362734, abs=1e-9)
    assert a["length_controlled_winrate"] == pytest.approx(65.38623116037492, abs=0.16)
    assert (a["n_total"], a["n_absent"], a["n_missing"], a["n_duplicates"]) == (805, 0, 0, 0)
    assert a["position_effect"]["low"] > 0  # shown second is better
    assert a["lc_joined_by"] == "instruction"
    texts = read_judgements("alpaca-eval", shared / TEXTS).select_dtypes("object")
    assert texts.map(lambda v: len(str(v)) < 50).all(axis=None), "texts are not kept"


def test_shuffled_annotations_change_nothing(
    annotations: list[dict[str, Any]], tmp_path: Path, capsys: Capture
) -> None:
    order = np.random.default_rng(0).permutation(len(annotations))
    shuffled = write(tmp_path / "shuffled.json", [annotations[i] for i in order])
    whole = write(tmp_path / "whole.json", annotations)
    fixed = ("--C", 2.782559402207126, "--replicates", 0)
    a, b = (report(capsys, "alpaca-eval", p, *fixed)["models"][0] for p in (shuffled, whole))
    for field in ("win_rate", "standard_error", "length_controlled_winrate"):
        assert a[field] == pytest.approx(b[field], abs=1e-3)


def test_missing_repeated_and_unreadable_rows_are_counted(
    annotations: list[dict[str, Any]], tmp_path: Path, capsys: Capture
) -> None:
    rows = [*annotations[3:], *annotations[:1] * 2]
    rows[2] = {**rows[2], "preference": None}
    path = write(tmp_path / "holed.json", rows)
    found = report(capsys, "alpaca-eval", path, "--replicates", 0)["models"][0]
    assert (found["n_total"], found["n_missing"]) == (803, 1)
    assert (found["n_absent"], found["n_duplicates"]) == (2, 1)
    assert len(found["notes"]) == 3


def test_fastchat_judgements(shared: Path, capsys: Capture) -> None:
    found = report(capsys, "mt-bench", shared / MT_BENCH)
    published = json.loads((shared / "eval" / "mtbench_published.json").read_text())
    models = {model["model"]: model for model in found["models"]}
    for name, triple in published.items():
        ours = [models[name][n] for n in ("first_turn", "second_turn", "overall")]
        assert ours == pytest.approx(triple, abs=1e-12)
    doubled = models["mistral-orpo"]
    assert (doubled["n_duplicates"], doubled["n_missing"], doubled["n_absent"]) == (160, 1, 0)
    seen = [d["detectable_difference"] for d in found["differences"]]
    assert len(seen) == 7
    assert 0.4 < np.median(seen) < 0.8


def test_battles_and_both_kinds_of_arena_judgements_agree(
    shared: Path, tmp_path: Path, capsys: Capture
) -> None:
    found = report(capsys, "arena-hard", shared / BATTLES)["models"][0]
    assert found["score"] == pytest.approx(37.9019, abs=5e-5)
    labels = [("A>B", "A=B"), ("B>>A", "A>B"), ("A>>B", "B<A"), (None, "A>B")]
    both = []
    for extra in ({"question_id": ""}, {"uid": "", "category": "hard_prompt"}):
        key = next(iter(extra))
        rows = [
            {**extra, key: f"q{i}", "model": "m", "judge": "j", "games": [{"score": s} for s in g]}
            for i, g in enumerate(labels)
        ]
        both += report(capsys, "arena-hard", write(tmp_path / "j.jsonl", rows))["models"]
    a, b = both
    assert a["score"] == pytest.approx(100 * (0 + 0.5 + 3 + 1 + 0 + 1 + 1) / 11)
    assert (a["n_missing"], b["n_missing"]) == (1, 2)  # v2.0 leaves out the question
    assert (a["baseline"], b["baseline"]) == ("gpt-4-0314", "o3-mini-2025-01-31")


def test_two_baselines_have_no_overall_score(tmp_path: Path, capsys: Capture) -> None:
    games = {"model": "m", "judge": "j", "games": [{"score": "A>B"}, {"score": "A>>B"}]}
    names = ["hard_prompt", "creative_writing"] * 3
    rows = [{"uid": f"q{i}", "category": name, **games} for i, name in enumerate(names)]
    found = report(capsys, "arena-hard", write(tmp_path / "j.jsonl", rows))["models"][0]
    assert found["score"] is None
    assert {c: v["score"] for c, v in found["categories"].items()} == dict.fromkeys(names, 75.0)


def test_style_control_from_answer_files(shared: Path, tmp_path: Path, capsys: Capture) -> None:
    """A judge that likes length, and a model that differs from the baseline in nothing else."""
    baseline = shared / "eval" / "arena_hard_v01_answers_gpt-4-0314.jsonl.gz"
    answers = pd.read_json(baseline, lines=True).head(200)
    rng = np.random.default_rng(0)
    rows, own = [], []
    for question, choices in zip(answers["question_id"], answers["choices"], strict=True):
        text, longer = choices[0]["turns"][0]["content"], float(rng.uniform(0.6, 2.2))
        common = {"question_id": question, "model": "m"}
        own.append({**common, "turn": 1, "text": "word " * int(len(text) * longer / 5)})
        wins = rng.random(2) < 1 / (1 + np.exp(-4 * (longer - 1) / (longer + 1)))
        games = [{"score": "B>A" if wins[0] else "A>B"}, {"score": "A>B" if wins[1] else "B>A"}]
        rows.append({**common, "judge": "j", "games": games})
    judged, mine = write(tmp_path / "j.jsonl", rows), write(tmp_path / "answers.jsonl", own)
    style = ("--style", mine, "--style", baseline, "--replicates", 40)
    (model,) = report(capsys, "arena-hard", judged, *style)["models"]
    controlled = model["style_controlled"]["gpt-4-0314"]
    assert model["interval"]["low"] > 51
    assert controlled["interval"]["low"] < 50 < controlled["interval"]["high"]
    assert controlled["coefficients"]["token_len"] > 0
    wrong = refused(capsys, "summarise", "arena-hard", judged, "--style", mine)
    assert "style control lacks 200 answers (first: 'gpt-4-0314'" in wrong
    wrong = refused(capsys, "summarise", "arena-hard", judged, "--style", judged)
    assert "line 1 is no Arena-Hard answer" in wrong


def ours(model: str, n: int = 40, shift: float = 0.0, **changes: Any) -> list[dict[str, Any]]:
    """Rows as `wrpo judge` writes them: two orders, nano questions."""
    rng = np.random.default_rng(1)
    common = {
        "attempt": 1,
        "status": "ok",
        "benchmark": "alpaca-eval",
        "version": "nano",
        "model": model,
        "baseline": "b",
        "judge": "local",
        "template": "t",
        "metric": "weighted",
        "length_baseline": 50,
    }
    return [
        common
        | {"request": f"{model}{i}{order}", "question_id": f"n{i}", "order": order}
        | {"preference": float(np.clip(1.5 + shift + rng.normal(0, 0.2), 1, 2))}
        | {"length_model": 40 + i, **changes}
        for i in range(n)
        for order in ("baseline first", "model first")
    ]


def test_our_rows_attempts_and_paired_differences(tmp_path: Path, capsys: Capture) -> None:
    first = ours("a")
    failed = {**first[0], "status": "error", "preference": None}
    gone = {**first[1], "status": "error", "preference": None, "attempt": 2, "request": "other"}
    a = write(tmp_path / "a.jsonl", [failed, *first, gone])
    b = write(tmp_path / "b.jsonl", ours("c", shift=0.3))
    other = write(tmp_path / "d.jsonl", ours("d", judge="another"))
    found = report(capsys, "alpaca-eval", a, b, other, "--replicates", 30)
    model, (pair, apart) = found["models"][0], found["differences"]
    assert (model["n_total"], model["n_missing"]) == (80, 1)  # the first failure was made good
    assert model["lc_glm"] == "length_controlled_minimal"
    assert pair["difference"]["low"] > 15
    assert pair["n_shared_questions"] == 40
    assert pair["lc_difference"]["low"] < pair["difference"]["value"]
    assert (apart["difference"], apart["reason"]) == (None, "the judge is another, not local")
    text = said(capsys, "summarise", "alpaca-eval", a, b, "--replicates", 0)
    assert "c minus a: " in text


def test_several_samples_are_no_duplicates(tmp_path: Path, capsys: Capture) -> None:
    sampled = {"metric": "verdict of 2 samples"}
    rows = [
        {**r, "request": f"{r['request']}{k}", "sample": k}
        for r in ours("a", **sampled)
        for k in (0, 1)
    ]
    same = {"request": "s", "question_id": "n99", "metric": "identical outputs", "preference": 1.5}
    rows.append({**rows[0], **same})
    (found,) = report(capsys, "alpaca-eval", write(tmp_path / "a.jsonl", rows))["models"]
    assert (found["n_total"], found["n_duplicates"], found["n_draws"]) == (161, 0, 1)
    assert found["metric"] == "verdict of 2 samples"
    assert found["interval"]["n_clusters"] == 41


def test_our_pairwise_mt_bench_rows(tmp_path: Path, capsys: Capture) -> None:
    winners = [("model", "model"), ("model", "baseline"), ("tie", None), ("baseline", "baseline")]
    common = {"benchmark": "mt-bench", "version": "nano", "turn": 1, "model": "m", "baseline": "b"}
    common |= {"judge": "j", "template": "t", "metric": "verdict"}
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
    shared: Path, annotations: list[dict[str, Any]], tmp_path: Path, capsys: Capture
) -> None:
    mine = {"annotator": "weighted_alpaca_eval_gpt-4o-mini", "generator_2": "mine"}
    other = write(tmp_path / "other.json", [{**row, **mine} for row in annotations])
    options = ("--replicates", 0, "--workers", 1, "--json")
    found = json.loads(said(capsys, "leaderboard", "alpaca-eval", shared / TEXTS, other, *options))
    (own,) = (r for r in found["board"] if r["origin"] == "ours")
    (twin,) = (r for r in found["board"] if r["model"] == FUSECHAT and r["origin"] == "published")
    assert own["model"] == FUSECHAT
    assert own["score"] == pytest.approx(twin["score"], abs=0.16)
    assert len(found["board"]) > 200
    (apart,) = found["apart"]
    assert apart["model"] == "mine"
    assert "its judge is weighted_alpaca_eval_gpt-4o-mini" in apart["reasons"][0]


def test_what_a_file_leaves_unsaid_may_be_stated(shared: Path, capsys: Capture) -> None:
    out = said(capsys, "leaderboard", "arena-hard", shared / BATTLES)
    assert "shown apart: its judge is not named" in out
    stated = ["--state", "judge=gpt-4-1106-preview", "--state", "template=arena-hard-v0.1"]
    out = said(capsys, "leaderboard", "arena-hard", shared / BATTLES, *stated)
    assert "apart" not in out
    assert out.count("gpt-4-0613") == 2  # the published row, and ours below it
    wrong = refused(capsys, "summarise", "arena-hard", shared / BATTLES, "--state", "colour=red")
    assert "--state is 'colour=red'" in wrong


def test_the_mt_bench_board_comes_from_judgements(shared: Path, capsys: Capture) -> None:
    path = shared / MT_BENCH
    options = ("--state", "version=original-references", "--json", "--workers", 1)
    found = json.loads(said(capsys, "leaderboard", "mt-bench", path, "--board", path, *options))
    assert len(found["board"]) == 16
    assert found["apart"] == []


def test_agreement_of_two_judges(shared: Path, tmp_path: Path, capsys: Capture) -> None:
    a = write(tmp_path / "a.jsonl", ours("m"))
    b = write(tmp_path / "b.jsonl", ours("m", n=30, judge="other"))
    found = json.loads(said(capsys, "agreement", "alpaca-eval", a, b, "--json"))
    assert (found["n"], found["n_missing"]) == (30, 10)
    assert found["raw"]["value"] == 1
    path = shared / MT_BENCH
    assert "raw: 1.000" in said(capsys, "agreement", "mt-bench", path, path, "--replicates", 20)


def test_agreement_with_people(tmp_path: Path, capsys: Capture) -> None:
    """People name the models in the other order, and several vote on one comparison."""
    games = [("model_1",) * 2, ("model_1", "model_2"), ("error", "tie"), ("model_2",) * 2]
    votes = [(1, "b"), (1, "b"), (1, "a"), (2, "a"), (3, None), (4, "b")]  # two of three for a
    pairs = [
        {"question_id": i, "turn": 1, "model_1": "a", "model_2": "b", "judge": ["gpt-4", "pair-v2"]}
        | {"g1_winner": first, "g2_winner": second}
        for i, (first, second) in enumerate(games, 1)
    ]
    people = [
        {"question_id": i, "turn": 1, "model_a": "b", "model_b": "a", "judge": "expert_1"}
        | {"winner": f"model_{side}" if side else "tie"}
        for i, side in votes
    ]
    a, b = write(tmp_path / "judge.jsonl", pairs), write(tmp_path / "people.jsonl", people)
    found = json.loads(said(capsys, "agreement", "mt-bench", a, b, "--json"))
    assert (found["n"], found["n_missing"], found["n_tied"]) == (3, 1, 1)
    assert found["raw"]["value"] == pytest.approx(1 / 3)


# -- bad input -----------------------------------------------------------------------------------

ROW = ours("m")[0]
OTHER = {"question_id": 1, "model": "m", "turn": 1, "score": 5}


@pytest.mark.parametrize(
    ("benchmark", "rows", "sentence"),
    [
        ("alpaca-eval", [ROW, '{"question_id": "q'], "line 2: not JSON"),
        ("alpaca-eval", [{**ROW, "preference": 3}], "line 1, field 'preference'"),
        ("alpaca-eval", [{**ROW, "preference": "m"}], "field 'preference'"),
        ("alpaca-eval", [{**ROW, "preference": None}], "0 of 1 judgements have a preference"),
        ("alpaca-eval", [OTHER], "line 1 has no field 'preference'"),
        ("mt-bench", [ROW], "line 1 is a judgement of alpaca-eval, not mt-bench"),
        ("arena-hard", [{"uid": "q", "model": "m"}], "line 1 has no field 'game'"),
        ("alpaca-eval", [], "holds no judgements"),
        ("helm", [ROW], "unknown benchmark 'helm'; choose one of alpaca-eval"),
    ],
)
def test_bad_input_is_one_sentence_and_status_2(
    tmp_path: Path, capsys: Capture, benchmark: str, rows: list[Any], sentence: str
) -> None:
    path = write(tmp_path / "j.jsonl", rows)
    assert sentence in refused(capsys, "summarise", benchmark, path, "--workers", 1)


def test_another_benchmark_version_is_noticed(
    annotations: list[dict[str, Any]], tmp_path: Path, capsys: Capture
) -> None:
    rows = annotations[:50]
    mixed = write(tmp_path / "mixed.json", [*rows, {**rows[0], "instruction": "Sing."}])
    changed = [{**r, "instruction": r["instruction"] + " "} for r in rows]
    other = write(tmp_path / "other.json", changed)
    wrong = refused(capsys, "summarise", "alpaca-eval", mixed)
    assert "1 of 51 instructions are none of AlpacaEval-2's (first: row 51)" in wrong
    model = report(capsys, "alpaca-eval", other, "--replicates", 0)["models"][0]
    assert model["version"] == ""
    assert any("not AlpacaEval-2's" in note for note in model["notes"])
    out = said(capsys, "leaderboard", "alpaca-eval", other, "--replicates", 0)
    assert "shown apart: its version is not named" in out


def test_a_file_cut_short_and_a_model_twice_are_named(
    shared: Path, tmp_path: Path, capsys: Capture
) -> None:
    whole, cut = (shared / MT_BENCH).read_bytes(), tmp_path / "cut.jsonl.gz"
    cut.write_bytes(whole[:5000])
    assert "cut" in refused(capsys, "summarise", "mt-bench", cut)
    cut.write_bytes(whole)
    wrong = refused(capsys, "summarise", "mt-bench", shared / MT_BENCH, cut)
    assert "give each model once" in wrong


def test_without_the_side_file_the_rest_is_still_computed(
    shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.setenv("WRPO_ASSETS", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    code, out, err = wrpo(capsys, "summarise", "alpaca-eval", shared / TEXTS, "--json")
    assert code == 0
    assert "run `wrpo assets fetch` or give --side" in err
    model = json.loads(out)["models"][0]
    assert "length_controlled_winrate" not in model
    assert any("without the side file" in note for note in model["notes"])
