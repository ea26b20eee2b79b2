"""Sampling and scoring from file to file: kept rows, bad input, kills."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from commandline import wait_until
from generation_rows import Tiny, prompt_rows, read_rows, write_rows

from wrpo_lib.errors import WRPOError
from wrpo_lib.generation import Request, Response, Sampling, TransformersEngine
from wrpo_lib.generation.stage import sample_responses, score_responses
from wrpo_lib.quadruples import read_responses
from wrpo_lib.quadruples.split import read_prompts

SHORT = Sampling(n=2, max_tokens=8)


def prompts(n: int) -> list[tuple[str, list[dict[str, str]]]]:
    return [(r["prompt_id"], r["prompt"]) for r in prompt_rows(n)]


def keys(path: Path) -> list[tuple[str, int]]:
    return [(r["prompt_id"], r["sample"]) for r in read_rows(path)]


def echo(requests: Iterable[Request]) -> Iterator[Response]:
    """An engine without a model, for what no model is needed to show."""
    for r in requests:
        for k in r.wanted:
            seed = r.sampling.seed_of(r.key, k)
            yield Response(r.key, k, f"{k} {r.messages[-1]['content']}", 3, "stop", seed)


def length(rows: list[dict[str, Any]]) -> Iterator[tuple[int, float]]:
    """A scorer: the last row first, to show that order does not matter."""
    for k in reversed(range(len(rows))):
        yield k, float(len(rows[k]["text"]))


def test_rows_are_what_pairing_reads(tiny: Tiny, tmp_path: Path) -> None:
    out = tmp_path / "responses.jsonl"
    engine = TransformersEngine(tiny.model, tiny.tokenizer)
    counts = sample_responses(prompts(9), engine, "tiny", SHORT, out)
    rows = read_rows(out)
    assert counts["made"] == len(rows) == 18
    assert set(rows[0]) == {"prompt_id", "prompt", "model", "sample", "text", "n_tokens",
                            "finish_reason", "seed"}  # fmt: skip
    assert counts["truncated"] == sum(r["finish_reason"] == "length" for r in rows) > 0
    assert len(read_responses([out], scored=False)) == 18
    record = json.loads((tmp_path / "responses.run.json").read_text())
    assert record["settings"]["temperature"] == 0.8
    assert record["versions"]["torch"]


def test_only_missing_samples_are_made(tiny: Tiny, tmp_path: Path) -> None:
    """Kept rows stay as they are; the last one, cut short, is made again."""
    out, engine = tmp_path / "r.jsonl", TransformersEngine(tiny.model, tiny.tokenizer)
    sample_responses(prompts(3), engine, "tiny", SHORT, out)
    kept = out.read_bytes().split(b"\n")[:5]
    out.write_bytes(out.read_bytes()[:-20])
    counts = sample_responses(prompts(6), engine, "tiny", SHORT, out)
    assert (counts["made"], counts["kept"]) == (7, 5)
    assert out.read_bytes().split(b"\n")[:5] == kept
    more = sample_responses(prompts(6), engine, "tiny", Sampling(n=3, max_tokens=8), out)
    assert (more["made"], more["kept"]) == (6, 12)
    assert sorted(keys(out)) == sorted((f"p{i}", k) for i in range(6) for k in range(3))


def test_other_settings_do_not_mix(tmp_path: Path) -> None:
    out = tmp_path / "r.jsonl"
    sample_responses(prompts(1), echo, "m", SHORT, out)
    hot = Sampling(n=2, max_tokens=8, temperature=1.0)
    with pytest.raises(WRPOError, match=r"was made with temperature 0.8, not 1.0"):
        sample_responses(prompts(2), echo, "m", hot, out)
    with pytest.raises(WRPOError, match="was made with model 'm', not 'other'"):
        sample_responses(prompts(2), echo, "other", SHORT, out)
    (tmp_path / "r.run.json").write_text("{}")
    with pytest.raises(WRPOError, match="is no run record"):
        sample_responses(prompts(2), echo, "m", SHORT, out)


def test_failed_responses_are_said_and_made_by_a_rerun(tmp_path: Path) -> None:
    out = tmp_path / "r.jsonl"

    def flaky(requests: Iterable[Request]) -> Iterator[Response]:
        for made in echo(requests):
            bad = made.key == "p1"
            yield Response(made.key, made.sample, "", None, "error", 1, "it hung") if bad else made

    with pytest.raises(WRPOError) as error:
        sample_responses(prompts(3), flaky, "m", SHORT, out)
    assert "2 responses failed, the first for prompt_id 'p1': it hung" in str(error.value)
    assert "the 4 made are kept" in str(error.value)
    assert sample_responses(prompts(3), echo, "m", SHORT, out)["made"] == 2


def test_it_gives_up_when_nothing_comes(tmp_path: Path) -> None:
    asked = 0

    def dead(requests: Iterable[Request]) -> Iterator[Response]:
        nonlocal asked
        for r in requests:
            for k in r.wanted:
                asked += 1
                yield Response(r.key, k, "", None, "error", 1, "no answer")

    with pytest.raises(WRPOError, match="200 responses failed"):
        sample_responses(prompts(500), dead, "m", SHORT, tmp_path / "r.jsonl")
    assert asked == 200


def test_a_model_that_returns_nothing(tmp_path: Path) -> None:
    def nothing(requests: Iterable[Request]) -> Iterator[Response]:
        yield from (Response(r.key, k, " \n", 1, "stop", 0) for r in requests for k in r.wanted)

    with pytest.raises(WRPOError, match=r"m returned nothing but empty text \(4 responses"):
        sample_responses(prompts(2), nothing, "m", SHORT, tmp_path / "r.jsonl")


def test_empty_responses_are_counted_and_get_no_reward(tmp_path: Path) -> None:
    rows = [
        {"prompt_id": f"p{k}", "prompt": "q", "model": "m", "sample": 0, "text": text,
         "finish_reason": reason}
        for k, (text, reason) in enumerate([("fine", "stop"), ("", "stop"), (" \n\t", "length"),
                                            ("long", "length")])
    ]  # fmt: skip
    out = tmp_path / "rewards.jsonl"
    counts = score_responses(rows, length, "length", out)
    assert counts == {"made": 2, "empty": 2, "truncated": 2}
    assert [(r["prompt_id"], r["reward"], r["reward_model"]) for r in read_rows(out)] == [
        ("p3", 4.0, "length"), ("p0", 4.0, "length")]  # fmt: skip
    assert len(read_responses([out])) == 2
    again = score_responses(rows, length, "length", out)
    assert (again["made"], again["kept"], again["empty"]) == (0, 2, 2)
    with pytest.raises(WRPOError, match="was made with reward_model 'length', not 'other'"):
        score_responses(rows, length, "other", out)


def responses(n: int) -> list[dict[str, Any]]:
    return [
        {"prompt_id": f"p{k}", "prompt": "q", "model": "m", "sample": 0, "text": "x" * (k + 1)}
        for k in range(n)
    ]


BAD = {
    "missing text": ({"prompt_id": "p", "model": "m", "sample": 0}, "row 2, field 'text'"),
    "missing sample": ({"prompt_id": "p", "model": "m", "text": "t"}, "row 2, field 'sample'"),
    "id is no text": (
        {"prompt_id": 7, "model": "m", "sample": 0, "text": "t"},
        "row 2, field 'prompt_id'",
    ),
    "repeated": (responses(1)[0], "row 2: sample 0 of 'm' for prompt_id 'p0' stands in an earlier"),
}


@pytest.mark.parametrize(("row", "sentence"), BAD.values(), ids=BAD)
def test_a_bad_row_is_named(tmp_path: Path, row: dict[str, Any], sentence: str) -> None:
    with pytest.raises(WRPOError) as error:
        score_responses([responses(1)[0], row], length, "l", tmp_path / "r.jsonl", where="f.jsonl")
    assert sentence in str(error.value)
    assert str(error.value).startswith("f.jsonl, ")


@pytest.mark.parametrize("reward", [float("nan"), float("inf")])
def test_a_reward_that_is_no_number_names_its_row(tmp_path: Path, reward: float) -> None:
    out = tmp_path / "r.jsonl"

    def broken(rows: list[dict[str, Any]]) -> Iterator[tuple[int, float]]:
        for k, row in enumerate(rows):
            yield k, reward if row["prompt_id"] == "p2" else 1.0

    with pytest.raises(WRPOError, match=r"'p2', 'm', 0\) .* holds NaN or infinity"):
        score_responses(responses(5), broken, "b", out, where="f")
    assert len(read_rows(out)) == 2
    counts = score_responses(responses(5), length, "b", out)
    assert (counts["made"], counts["kept"]) == (3, 2)


def wrpo(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "wrpo_lib.cli", *map(str, arguments)]


def lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.is_file() else 0


def kill_after(command: list[str], out: Path, rows: int) -> None:
    """Run ``command`` and kill it (SIGKILL) once ``out`` has so many whole rows."""
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as run:
        wait_until(lambda: lines(out) >= rows, run, lambda: run.communicate()[1].decode())
        run.send_signal(signal.SIGKILL)
        run.wait()


def test_killed_and_run_again_from_the_command_line(tiny: Tiny, tmp_path: Path) -> None:
    """SIGKILL in the middle of sampling and of scoring; each rerun makes only what is missing."""
    asked = write_rows(tmp_path / "prompts.jsonl", prompt_rows(120))
    made, scored = tmp_path / "responses.jsonl", tmp_path / "rewards.jsonl"
    sample = wrpo(
        "sample", asked, "--out", made, "--model", tiny.folder, "--n", 2, "--max-tokens", 24,
        "--batch-tokens", 250, "--name", "tiny",
    )  # fmt: skip
    kill_after(sample, made, rows=20)
    kept = made.read_bytes()
    kept = kept[: kept.rfind(b"\n") + 1]
    n = kept.count(b"\n")
    assert 20 <= n < 240
    done = subprocess.run(sample, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert f"made {240 - n} responses to 120 prompts" in done.stdout
    assert f"{n} were there already" in done.stdout
    assert made.read_bytes().startswith(kept), "finished rows must stay as they are"
    assert len(set(keys(made))) == lines(made) == 240

    references = write_rows(tmp_path / "references.jsonl", [
        {"prompt_id": f"p{k}", "text": "the answer is a b c"} for k in range(120)])  # fmt: skip
    score = wrpo("score", made, "--out", scored, "--bleu", references)
    empty = sum(not r["text"].strip() for r in read_rows(made))
    kill_after(score, scored, rows=1)
    kept = scored.read_bytes()
    kept = kept[: kept.rfind(b"\n") + 1]
    done = subprocess.run(score, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert scored.read_bytes().startswith(kept)
    assert len(set(keys(scored))) == lines(scored) == 240 - empty


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--engine", "magic"], "unknown engine 'magic'; choose transformers, vllm or server"),
        (["--engine", "vllm"], "vllm is not installed; install the extra `gpu`"),
        (["--engine", "server"], "--engine server needs --base-url"),
        (["--seeds", "one"], "--seeds is 'one'"),
        (["--temperature", "0"], "greedy decoding (temperature 0) gives one response"),
        (["--out", "r.parquet"], "--out is r.parquet; rows are appended one by one"),
        (["--engine", "server", "--base-url", "http://h/v1", "--extra-body", "[1]"],
         "--extra-body is '[1]'"),
        (["--model", "no/such-model"], "cannot load 'no/such-model'"),
    ],
)  # fmt: skip
def test_bad_arguments_are_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
    arguments: list[str], sentence: str,
) -> None:  # fmt: skip
    asked = write_rows(tmp_path / "p.jsonl", prompt_rows(1))
    code, err = run(capsys, monkeypatch, "sample", asked, "--out", tmp_path / "r.jsonl",
                    "--model", "m", *arguments)  # fmt: skip
    assert code == 2
    assert sentence in err
    assert len(err.strip().splitlines()) == 1


def run(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *arguments: object
) -> tuple[int, str]:
    from wrpo_lib.cli import main

    monkeypatch.setattr(sys, "argv", ["wrpo", *map(str, arguments)])
    with pytest.raises(SystemExit) as stop:
        main()
    return int(stop.value.code or 0), capsys.readouterr().err


PROMPTS = {
    "malformed": ('{"prompt_id": "p1", "pro', "line 2: not JSON"),
    "no id": ('{"prompt": "q"}', "row 2, field 'prompt_id': missing"),
    "no prompt": ('{"prompt_id": "p1"}', "row 2, field 'prompt': is missing"),
    "repeated": ('{"prompt_id": "p0", "prompt": "q"}', "'p0' stands in an earlier row already"),
    "rendered": (
        '{"prompt_id": "p1", "prompt": "<|im_start|>user"}',
        "row 2, field 'prompt': went through a chat template already",
    ),
    "ends with an answer": (
        '{"prompt_id": "p1", "prompt": [{"role": "assistant", "content": "a"}]}',
        "row 2, field 'prompt': does not end in a user turn",
    ),
}


@pytest.mark.parametrize(("line", "sentence"), PROMPTS.values(), ids=PROMPTS)
def test_bad_prompts_are_named_before_anything_is_made(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
    line: str, sentence: str,
) -> None:  # fmt: skip
    path = tmp_path / "p.jsonl"
    path.write_text('{"prompt_id": "p0", "prompt": "q"}\n' + line + "\n")
    out = tmp_path / "r.jsonl"
    code, err = run(capsys, monkeypatch, "sample", path, "--out", out, "--model", "no/model")
    assert code == 2
    assert sentence in err
    assert str(path) in err
    assert not out.exists()


def test_prompts_from_responses_and_quadruples(tmp_path: Path) -> None:
    rows = [{"prompt_id": "p", "prompt": "q", "model": "m", "sample": k, "text": "t"}
            for k in range(3)]  # fmt: skip
    path = write_rows(tmp_path / "r.jsonl", rows)
    assert list(read_prompts(path)) == [("p", [{"role": "user", "content": "q"}])]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "choose one reward: --reward-model MODEL, --bleu REFERENCES or --nano"),
        (["--nano", "--bleu", "x.jsonl"], "choose one reward"),
        (["--nano"], "prompt_id 'p0' is no task of the nano testbed"),
        (["--bleu", "nowhere.jsonl"], "nowhere.jsonl does not exist"),
        (["--reward-model", "no/such"], "cannot load 'no/such'"),
        (["--reward-model", "RLHFlow/ArmoRM-Llama3-8B-v0.1", "--trust-remote-code"],
         "pin it with --revision and the 40 digits of a commit"),
        (["--reward-model", "a/b", "--trust-remote-code", "--revision", "main"],
         "pin it with --revision"),
    ],
)  # fmt: skip
def test_bad_arguments_of_scoring(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
    arguments: list[str], sentence: str,
) -> None:  # fmt: skip
    made = write_rows(tmp_path / "r.jsonl", responses(2))
    out = tmp_path / "s.jsonl"
    code, err = run(capsys, monkeypatch, "score", made, "--out", out, *arguments)
    assert code == 2
    assert sentence in err
    assert len(err.strip().splitlines()) == 1
