"""Sampling and scoring from file to file: kept rows, bad input, kills."""

import json
import shutil
import signal
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from commandline import Command, wait_until
from generation_rows import Tiny, prompt_rows, write_rows

from wrpo_lib.errors import WRPOError
from wrpo_lib.generation.local import TransformersEngine
from wrpo_lib.generation.stage import Request, Response, Sampling, sample_responses, score_responses
from wrpo_lib.io import read_rows
from wrpo_lib.nano.world import LETTERS
from wrpo_lib.quadruples import read_prompts, read_responses

SHORT = Sampling(n=2, max_tokens=8)


def prompts(n: int) -> list[tuple[str, list[dict[str, str]]]]:
    return [(r["prompt_id"], r["prompt"]) for r in prompt_rows(n)]


def keys(path: Path) -> list[tuple[str, int]]:
    return sorted((r["prompt_id"], r["sample"]) for r in read_rows(path))


def echo(requests: Iterable[Request], failing: Iterable[str] = ()) -> Iterator[Response]:
    """An engine without a model, for what no model is needed to show."""
    for r in requests:
        error = "it hung" if r.key in failing else None
        yield Response(r.key, r.sample, r.messages[-1]["content"], 3, "stop", r.seed, error)


def length(rows: Iterable[dict[str, Any]]) -> Iterator[tuple[dict[str, Any], float]]:
    """A scorer: the last row first, to show that order does not matter."""
    for row in reversed(list(rows)):
        yield row, float(len(row["text"])) if row["text"] != "odd" else float("inf")


def responses(*texts: str) -> list[dict[str, Any]]:
    same = {"prompt": "q", "model": "m", "sample": 0}
    return [{"prompt_id": f"p{k}", **same, "text": text} for k, text in enumerate(texts)]


def test_only_missing_samples_are_made(tiny: Tiny, tmp_path: Path) -> None:
    """Kept rows stay as they are; the last one, cut short, is made again."""
    out, engine = tmp_path / "r.jsonl", TransformersEngine(tiny.model, tiny.tokenizer)
    first = sample_responses(prompts(3), engine, "tiny", SHORT, out)
    assert first["truncated"] == sum(r["finish_reason"] == "length" for r in read_rows(out)) > 0
    kept = out.read_bytes().split(b"\n")[:5]
    out.write_bytes(out.read_bytes()[:-20])
    counts = sample_responses(prompts(6), engine, "tiny", SHORT, out)
    assert (counts["made"], counts["kept"]) == (7, 5)
    assert out.read_bytes().split(b"\n")[:5] == kept
    more = sample_responses(prompts(6), engine, "tiny", Sampling(n=3, max_tokens=8), out)
    assert (more["made"], more["kept"]) == (6, 12)
    assert keys(out) == [(f"p{i}", k) for i in range(6) for k in range(3)]
    assert sorted(read_prompts(out)) == sorted(prompts(6))
    record = json.loads((tmp_path / "r.run.json").read_text())
    assert (record["settings"]["temperature"], "torch" in record["versions"]) == (0.8, True)


def test_other_settings_prompts_and_texts_do_not_mix(tmp_path: Path) -> None:
    """Where ids stay and texts change, nothing made of the old ones is kept among the new."""
    out, scored = tmp_path / "r.jsonl", tmp_path / "s.jsonl"
    sample_responses(prompts(2), echo, "m", SHORT, out)
    rows = read_rows(out)
    score_responses(rows, length, "length", scored)
    hot = Sampling(n=2, max_tokens=8, temperature=1.0)
    with pytest.raises(WRPOError, match=r"was made with temperature 0.8, not 1.0"):
        sample_responses(prompts(2), echo, "m", hot, out)
    with pytest.raises(WRPOError, match="was made with reward_model 'length', not 'other'"):
        score_responses(rows, length, "other", scored)
    changed = [(name, [{"role": "user", "content": "new"}]) for name, _ in prompts(2)]
    with pytest.raises(WRPOError, match=r"has \('p0', 'm', 0\) made of another prompt or text"):
        sample_responses(changed, echo, "m", SHORT, out)
    rows[3]["text"] = "new"
    with pytest.raises(WRPOError, match=r"has \('p1', 'm', 1\) made of another prompt or text"):
        score_responses(rows, length, "length", scored)
    assert len(read_rows(out)) == len(read_rows(scored)) == 4


def test_failed_responses_are_said_and_made_by_a_rerun(tmp_path: Path) -> None:
    out, failing = tmp_path / "r.jsonl", ["p1"]
    said = "2 responses failed, the first for prompt_id 'p1': it hung; the 4 made are kept"
    with pytest.raises(WRPOError, match=said):
        sample_responses(prompts(3), lambda r: echo(r, failing), "m", SHORT, out)
    assert sample_responses(prompts(3), echo, "m", SHORT, out)["made"] == 2
    failing = [name for name, _ in prompts(500)]
    many = tmp_path / "other.jsonl"
    with pytest.raises(WRPOError, match="200 responses failed"):  # it gives up
        sample_responses(prompts(500), lambda r: echo(r, failing), "m", SHORT, many)


def test_empty_responses_get_no_reward_and_odd_rewards_stop_the_run(tmp_path: Path) -> None:
    rows, out = responses("fine", "", " \n\t", "odd", "long"), tmp_path / "rewards.jsonl"
    rows[4]["finish_reason"] = "length"
    with pytest.raises(WRPOError, match=r"'p3', 'm', 0\) .* cannot be written as JSON"):
        score_responses(rows, length, "length", out)
    assert len(read_rows(out)) == 1
    del rows[3]
    counts = score_responses(rows, length, "length", out)
    assert counts == {"made": 1, "kept": 1, "empty": 2, "truncated": 1}
    found = [(r["prompt_id"], r["reward"], r["reward_model"]) for r in read_rows(out)]
    assert found == [("p4", 4.0, "length"), ("p0", 4.0, "length")]
    assert len(read_responses([out]).frame) == 2


def test_killed_and_run_again_from_the_command_line(tiny: Tiny, tmp_path: Path, wrpo: Any) -> None:
    """SIGKILL amid sampling, then scoring; a rerun makes what is missing, by the same weights."""
    folder = tmp_path / "model"
    shutil.copytree(tiny.folder, folder)
    rows = prompt_rows(60)
    for k, row in enumerate(rows):
        row["prompt_id"] = "blend-" + "".join(LETTERS[int(d)] for d in f"{k:04o}")
    asked = write_rows(tmp_path / "prompts.jsonl", rows)
    made, scored = tmp_path / "responses.jsonl", tmp_path / "rewards.jsonl"
    model = ("--model", folder, "--name", "tiny", "--n", 2, "--max-tokens", 24)
    sample = ("sample", asked, *model, "--set", "batch_tokens=250", "--out", made)

    def finished(out: Path) -> list[bytes]:
        return out.read_bytes().split(b"\n")[:-1] if out.exists() else []

    for out, least, arguments in (
        (made, 20, sample),
        (scored, 1, ("score", made, "--nano", "--out", scored)),
    ):
        run = Command(tmp_path, *arguments)
        wait_until(lambda out=out, least=least: len(finished(out)) >= least, run)
        run.send(signal.SIGKILL)
        kept = finished(out)
        code, said, err = wrpo(*arguments)
        assert code == 0, err
        assert f"{len(kept)} there already" in said
        assert finished(out)[: len(kept)] == kept, "finished rows must stay as they are"
    assert len(set(keys(made))) == len(keys(made)) == 120
    empty = sum(not r["text"].strip() for r in read_rows(made))
    assert len(set(keys(scored))) == len(keys(scored)) == 120 - empty
    (folder / "model.safetensors").touch()
    code, _, err = wrpo(*sample)
    assert (code, "was made with weights 'model.safetensors" in err) == (2, True)


CASES = [
    ("sample", "--engine magic", "unknown engine 'magic'; choose transformers, vllm or server"),
    ("sample", "--engine vllm", "vLLM did not start (No module named 'vllm'); install the extra"),
    ("sample", "--out r.parquet", "r.parquet: unknown kind of file; use .jsonl"),
    ("sample", "--extra-body [1]", "--extra-body [1] cannot be read"),
    ("sample", "", "cannot load 'no/model'"),
    ("score", "", "choose one reward: --reward-model MODEL or --nano"),
    ("score", "--nano", "'p0' is no prompt of the nano world"),
    ("score", "--reward-model a/b --trust-remote-code --revision main", "pin it with --revision"),
]


@pytest.mark.parametrize(("command", "options", "sentence"), CASES)
def test_bad_arguments_are_one_sentence(
    tmp_path: Path, wrpo: Any, command: str, options: str, sentence: str
) -> None:
    model = ["--model", "no/model"] if command == "sample" else []
    file, out = write_rows(tmp_path / "r.jsonl", responses("a")), tmp_path / "out.jsonl"
    code, _, err = wrpo(command, file, "--out", out, *model, *options.split())
    assert (code, sentence in err, len(err.strip().splitlines())) == (2, True, 1), err
