"""Templates without a system role, served models, and a real server."""

import json
from pathlib import Path
from typing import Any

import pytest
from commandline import wrpo
from generation_rows import Tiny, ask, by_name, prompt_rows, write_rows
from local_server import TRANSFORMERS, Answer, LocalServer, said, serving

from wrpo_lib.generation import Sampling, TransformersEngine, make_engine
from wrpo_lib.generation.stage import Request
from wrpo_lib.io import read_rows
from wrpo_lib.server import Server

SHORT = Sampling(n=2, max_tokens=8)
SYSTEM = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "copy : a b"}]
REFUSES = (
    "{% for m in messages %}{% if m.role == 'tool' %}{{ raise_exception('no "
    "tools') }}{% endif %}<{{ m.role }}>{{ m.content }}{% endfor %}<assistant>"
)


def test_a_conversation_that_no_template_takes_fails_alone(tiny: Tiny) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny.folder, chat_template=REFUSES)
    tool = [{"role": "tool", "content": "42"}, {"role": "user", "content": "q"}]
    engine = TransformersEngine(tiny.model, tokenizer)
    made = by_name(engine([Request("good", SYSTEM, SHORT), Request("bad", tool, SHORT)]))
    assert made["good", 0].error is None
    assert "cannot render the roles (tool, user)" in (made["bad", 0].error or "")


def test_a_served_response_is_a_request_of_its_own() -> None:
    async def handler(body: dict[str, Any]) -> Answer:
        return said(f"seed {body['seed']}")

    with LocalServer(handler) as local:
        extra = {"max_tokens": None, "max_completion_tokens": 9}
        options = {"server": Server(local.url), "retries": 0, "extra_body": extra}
        made = list(make_engine("server", "m", options)(ask(8, SHORT)))
    assert len(made) == len(local.requests) == 16
    for r in made:
        assert r.seed == SHORT.seed_of(r.key, r.sample)
        assert (r.text, r.n_tokens, r.finish_reason) == (f"seed {r.seed}", 3, "stop")
    names = {"model", "messages", "temperature", "top_p", "max_completion_tokens", "seed"}
    assert set(local.requests[0]) == names
    assert (local.requests[0]["temperature"], local.requests[0]["top_p"]) == (0.8, 0.95)


def choice(content: Any, reason: str = "stop", **message: Any) -> Answer:
    spoken = {"message": {"content": content, **message}, "finish_reason": reason}
    return Answer({"choices": [spoken]})


REPLIES = {
    "p0": (choice("", "error"), None),
    "p1": (choice("half", "content_filter"), None),
    "p2": (choice(" \n"), None),
    "p3": (choice("<think>\nhm [[2]]\n</think>\n\nLake \ud83d"), ("Lake ?", "hm [[2]]")),
}


def test_failures_inside_200_are_asked_again_and_thoughts_stand_beside_the_text(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = prompt_rows(4)
    names = {row["prompt"][-1]["content"]: row["prompt_id"] for row in rows}
    asked, out, well = write_rows(tmp_path / "p.jsonl", rows), tmp_path / "r.jsonl", False

    async def handler(body: dict[str, Any]) -> Answer:
        return said("fine") if well else REPLIES[names[body["messages"][-1]["content"]]][0]

    with LocalServer(handler) as local:
        how = ["--engine", "server", "--base-url", local.url, "--model", "m", "--n", 1]
        how += ["--extra-body", json.dumps({"api_key": "secret", "max_tokens": None})]
        code, _, err = wrpo(capsys, "sample", asked, "--out", out, *how)
        assert code == 2
        assert "3 responses failed, the first for prompt_id 'p" in err
        found = {r["prompt_id"]: (r["text"], r.get("thought", "")) for r in read_rows(out)}
        assert found == {k: kept for k, (_, kept) in REPLIES.items() if kept}
        well = True
        code, stdout, _ = wrpo(capsys, "sample", asked, "--out", out, *how)
    assert code == 0
    assert "made 3 responses to 4 prompts, 1 there already" in stdout
    assert "secret" not in (tmp_path / "r.run.json").read_text()
    assert local.requests[0]["api_key"] == "secret"


def test_thoughts_of_a_model_in_this_process(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    decode = tiny.tokenizer.decode
    monkeypatch.setattr(tiny.tokenizer, "decode", lambda *a, **k: f"hm</think> {decode(*a, **k)}")
    made = list(TransformersEngine(tiny.model, tiny.tokenizer)(ask(3, SHORT)))
    assert {r.row()["thought"] for r in made} == {"hm"}
    assert not any("think" in r.text for r in made)


def test_a_real_server_from_the_command_line(tiny: Tiny, tmp_path: Path, capsys: Any) -> None:
    """``transformers serve``: the same rows as in process; seeds honoured one at a time."""
    asked, made = write_rows(tmp_path / "prompts.jsonl", prompt_rows(4)), []
    how = ["--model", tiny.folder, "--name", "tiny", "--n", 2, "--max-tokens", 10]
    with serving([*TRANSFORMERS, "serve", str(tiny.folder), "--device", "cpu"], tmp_path) as url:
        for out in (tmp_path / "a.jsonl", tmp_path / "b.jsonl"):
            server = ["--engine", "server", "--base-url", url, "--connections", 1]
            code, stdout, stderr = wrpo(capsys, "sample", asked, "--out", out, *how, *server)
            assert code == 0, stderr
            assert "made 8 responses to 4 prompts" in stdout
            made.append({(r["prompt_id"], r["sample"]): r for r in read_rows(out)})
    assert made[0] == made[1], "the same seeds should give the same texts"
    sampling = Sampling(n=2, max_tokens=10)
    expected = by_name(TransformersEngine(tiny.model, tiny.tokenizer)(ask(4, sampling)))
    assert made[0].keys() == expected.keys()
    for key, row in made[0].items():
        assert set(row) == {"prompt_id", "prompt", "model", "made", *expected[key].row()}
        assert row["seed"] == sampling.seed_of(*key)
        assert 0 < row["n_tokens"] <= 10
        assert row["finish_reason"] == ("length" if row["n_tokens"] == 10 else "stop")
