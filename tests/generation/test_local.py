"""Batched sampling in process: right distribution, recorded seeds, batches that fit."""

from collections import Counter
from typing import Any

import pytest
import torch
from generation_rows import Tiny, ask, by_name

from wrpo_lib.generation import Sampling, TransformersEngine, local, sample
from wrpo_lib.generation.stage import Request

SHORT = Sampling(n=3, max_tokens=12)
GREEDY = Sampling(n=1, temperature=0, max_tokens=10)


def test_the_same_requests_give_the_same_responses(tiny: Tiny) -> None:
    """In any order. Other seeds give others; the global generator is left as it was."""
    engine = TransformersEngine(tiny.model, tiny.tokenizer)
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first, again = by_name(engine(ask(8, SHORT))), by_name(engine(ask(8, SHORT)[::-1]))
    assert torch.equal(before, torch.get_rng_state())
    assert first == again
    assert len(first) == 24
    assert len({r.text for r in first.values()}) > 20, "samples of one prompt should differ"
    other = by_name(engine(ask(8, Sampling(n=3, max_tokens=12, seed=1))))
    assert sum(first[key].text != other[key].text for key in first) > 20


def test_batches_keep_to_the_budget_and_their_seeds_make_them_again(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen, generate = [], local.generate

    def watched(model: Any, tokenizer: Any, ids: list[list[int]], sampling: Sampling) -> Any:
        seen.append(ids)
        return generate(model, tokenizer, ids, sampling)

    monkeypatch.setattr(local, "generate", watched)
    made = list(TransformersEngine(tiny.model, tiny.tokenizer, batch_tokens=300)(ask(12, SHORT)))
    assert len({r.seed for r in made}) == len(seen) > 3
    assert sum(map(len, seen)) == len(made) == 36
    assert max(len(ids) * (max(map(len, ids)) + 12) for ids in seen) <= 300
    torch.manual_seed(made[0].seed)
    again = [text for text, *_ in generate(tiny.model, tiny.tokenizer, seen[0], SHORT)]
    assert [r.text for r in made[: len(again)]] == again


@pytest.mark.parametrize(("temperature", "top_p"), [(0.8, 0.9), (1.2, 1.0)])
def test_the_distribution_is_the_models_own(tiny: Tiny, temperature: float, top_p: float) -> None:
    """First tokens of 4,000 samples; the model's generation defaults (top-k 5) are not applied."""
    from transformers import TopPLogitsWarper

    n, engine = 4000, TransformersEngine(tiny.model, tiny.tokenizer)
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


def test_ends_and_token_counts(tiny: Tiny) -> None:
    made = list(TransformersEngine(tiny.model, tiny.tokenizer)(ask(20, Sampling(max_tokens=30))))
    assert {r.finish_reason for r in made} == {"stop", "length"}
    for r in made:
        assert r.n_tokens == 30 if r.finish_reason == "length" else 0 < r.n_tokens <= 30
        assert "<end>" not in r.text


def test_prompts_too_long_and_almost_too_long(tiny: Tiny) -> None:
    """One longer than the context fails alone; one near it gets the tokens that are left."""
    engine = TransformersEngine(tiny.model, tiny.tokenizer)
    made = by_name(engine(ask(1, SHORT, "long", "a " * 400)))
    assert {name for name, r in made.items() if r.error} == {("long", k) for k in range(3)}
    assert "tokens, the context 256" in (made["long", 0].error or "")
    near = Request("near", [{"role": "user", "content": "a " * 120}], Sampling(max_tokens=200))
    left = 256 - len(engine.renderer.ids(near.messages))
    assert 0 < left < 200
    assert all(0 < (made.n_tokens or 0) <= left for made in engine([near]))
