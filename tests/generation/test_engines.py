"""Engines in process (distribution, seeds, batches) and on a server."""

import json
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
import torch
from generation_rows import Tiny, ask, by_name, prompt_rows, write_rows
from local_server import Answer, LocalServer, said
from transformers import TopPLogitsWarper

from wrpo_lib.generation import local
from wrpo_lib.generation.engines import make_engine
from wrpo_lib.generation.local import TransformersEngine, sample
from wrpo_lib.generation.stage import Request, Sampling
from wrpo_lib.io import read_rows
from wrpo_lib.server import Server

SHORT = Sampling(n=2, max_tokens=8)
GREEDY = Sampling(n=1, temperature=0, max_tokens=10)


def test_the_same_requests_give_the_same_responses(tiny: Tiny) -> None:
    """In any order. Other seeds give others; the global generator is left as it was."""
    engine = TransformersEngine(tiny.model, tiny.tokenizer)
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first, again = by_name(engine(ask(8, SHORT))), by_name(engine(ask(8, SHORT)[::-1]))
    assert torch.equal(before, torch.get_rng_state())
    assert first == again
    assert len({r.text for r in first.values()}) > 12, "samples of one prompt should differ"
    for r in first.values():
        assert r.n_tokens == 8 if r.finish_reason == "length" else 0 < r.n_tokens <= 8
    other = by_name(engine(ask(8, Sampling(n=2, max_tokens=8, seed=1))))
    assert sum(first[key].text != other[key].text for key in first) > 12


def test_batches_keep_to_the_budget_and_their_seeds_make_them_again(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen, generate = [], local.generate

    def watched(model: Any, tokenizer: Any, ids: list[list[int]], sampling: Sampling) -> Any:
        seen.append(ids)
        return generate(model, tokenizer, ids, sampling)

    monkeypatch.setattr(local, "generate", watched)
    made = list(TransformersEngine(tiny.model, tiny.tokenizer, batch_tokens=200)(ask(12, SHORT)))
    assert len({r.seed for r in made}) == len(seen) > 3
    assert sum(map(len, seen)) == len(made) == 24
    assert max(len(ids) * (max(map(len, ids)) + 8) for ids in seen) <= 200
    torch.manual_seed(made[0].seed)
    again = [text for text, *_ in generate(tiny.model, tiny.tokenizer, seen[0], SHORT)]
    assert [r.text for r in made[: len(again)]] == again
    # as many as half of 1 MiB holds: keys and values of two layers with 4 bytes a number
    text = tiny.model.config
    each = 16 * text.num_key_value_heads * text.hidden_size // text.num_attention_heads
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=2**20))
    assert TransformersEngine(tiny.model, tiny.tokenizer).batch_tokens == 2**19 // each


def test_the_distribution_is_the_models_own(tiny: Tiny) -> None:
    """First tokens of 4,000 samples; the model's generation defaults (top-k 5) are not applied."""
    n, temperature, top_p = 4000, 0.8, 0.9
    engine = TransformersEngine(tiny.model, tiny.tokenizer)
    requests = ask(1, Sampling(n, temperature, top_p, max_tokens=1))
    found = Counter(r.text for r in engine(requests))
    with torch.no_grad():
        ids = torch.tensor([engine.renderer.ids(requests[0].messages)])
        logits = tiny.model(ids).logits[:, -1]
    probs = TopPLogitsWarper(top_p)(None, logits / temperature).softmax(-1)[0]
    expected: Counter[str] = Counter()
    for token in probs.nonzero()[:, 0].tolist():
        expected[tiny.tokenizer.decode([token], skip_special_tokens=True)] += float(probs[token])
    assert set(found) <= set(expected)
    # Pearson's chi-square, 5 standard deviations above its mean (seeded, so no chance)
    chi = sum((found[t] - n * p) ** 2 / (n * p) for t, p in expected.items())
    freedom = len(expected) - 1
    assert freedom > 10
    assert chi < freedom + 5 * (2 * freedom) ** 0.5


def test_greedy_is_generate(tiny: Tiny) -> None:
    """In batches as one prompt at a time, by the engine and by ``sample``."""
    requests = ask(6, GREEDY)
    found = by_name(TransformersEngine(tiny.model, tiny.tokenizer)(requests))
    asked = [r.messages for r in requests]
    sampled = sample(tiny.model, tiny.tokenizer, asked, n=1, temperature=0.0, max_new_tokens=10)
    for request, (row,) in zip(requests, sampled, strict=True):
        ids = tiny.tokenizer.apply_chat_template(
            request.messages, add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
        plain = tiny.model.generate(
            **ids, do_sample=False, max_new_tokens=10, temperature=None, top_k=None
        )[0, ids["input_ids"].shape[1] :]
        text = tiny.tokenizer.decode(plain, skip_special_tokens=True)
        assert found[request.key, 0].text == row["text"] == text


def test_prompts_too_long_and_almost_too_long(tiny: Tiny) -> None:
    """One longer than the context fails alone; one near it gets the tokens that are left."""
    engine = TransformersEngine(tiny.model, tiny.tokenizer)
    made = by_name(engine(ask(1, SHORT, "long", "a " * 400)))
    assert {name for name, r in made.items() if r.error} == {("long", k) for k in range(2)}
    assert "tokens, the context 256" in (made["long", 0].error or "")
    near = Request("near", [{"role": "user", "content": "a " * 120}], Sampling(max_tokens=200))
    left = 256 - len(engine.renderer.ids(near.messages))
    assert 0 < left < 200
    assert all(0 < (made.n_tokens or 0) <= left for made in engine([near]))


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
    "p0": (choice("half", "content_filter"), None),
    "p1": (choice("<think>\nhm [[2]]\n</think>\n\nLake \ud83d"), ("Lake ?", "hm [[2]]")),
}


def test_failures_inside_200_are_asked_again_and_thoughts_stand_beside_the_text(
    tmp_path: Path, wrpo: Any
) -> None:
    rows = prompt_rows(2)
    names = {row["prompt"][-1]["content"]: row["prompt_id"] for row in rows}
    asked, out, well = write_rows(tmp_path / "p.jsonl", rows), tmp_path / "r.jsonl", False

    async def handler(body: dict[str, Any]) -> Answer:
        return said("fine") if well else REPLIES[names[body["messages"][-1]["content"]]][0]

    with LocalServer(handler) as local:
        how = ["--engine", "server", "--base-url", local.url, "--model", "m", "--n", 1]
        how += ["--extra-body", json.dumps({"api_key": "secret", "max_tokens": None})]
        code, _, err = wrpo("sample", asked, "--out", out, *how)
        assert code == 2
        assert "1 responses failed, the first for prompt_id 'p0" in err
        found = {r["prompt_id"]: (r["text"], r.get("thought", "")) for r in read_rows(out)}
        assert found == {k: kept for k, (_, kept) in REPLIES.items() if kept}
        well = True
        code, stdout, _ = wrpo("sample", asked, "--out", out, *how)
    assert code == 0
    assert "made 1 responses to 2 prompts, 1 there already" in stdout
    assert "secret" not in (tmp_path / "r.run.json").read_text()
    assert local.requests[0]["api_key"] == "secret"


def test_thoughts_of_a_model_in_this_process(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    decode = tiny.tokenizer.decode
    monkeypatch.setattr(tiny.tokenizer, "decode", lambda *a, **k: f"hm</think> {decode(*a, **k)}")
    made = list(TransformersEngine(tiny.model, tiny.tokenizer)(ask(3, SHORT)))
    assert {r.row()["thought"] for r in made} == {"hm"}
    assert not any("think" in r.text for r in made)
