"""Batched sampling in process: right distribution, recorded seeds, batches that fit."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from generation_rows import Tiny, prompt_rows

from wrpo_lib.errors import WRPOError
from wrpo_lib.generation import TransformersEngine, local, sample
from wrpo_lib.generation.request import SIMPO_SEEDS, Request, Response, Sampling

SHORT = Sampling(n=3, max_tokens=12)
GREEDY = Sampling(n=1, temperature=0, max_tokens=10)


def requests(n: int, sampling: Sampling = SHORT) -> list[Request]:
    return [Request(r["prompt_id"], r["prompt"], sampling) for r in prompt_rows(n)]


def by_key(made: Any) -> dict[tuple[str, int], Response]:
    return {(r.key, r.sample): r for r in made}


@pytest.fixture
def batches(monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """The lengths of the prompts in each batch that reaches the model."""
    seen: list[list[int]] = []
    generate = local.generate

    def watched(model: Any, tokenizer: Any, ids: list[list[int]], *rest: Any) -> Any:
        seen.append([len(row) for row in ids])
        return generate(model, tokenizer, ids, *rest)

    monkeypatch.setattr(local, "generate", watched)
    return seen


def test_the_same_requests_give_the_same_responses(tiny: Tiny) -> None:
    """In any order. Other seeds give others; the global generator is left as it was."""
    engine = TransformersEngine(tiny.model, tiny.tokenizer)
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first, again = by_key(engine(requests(8))), by_key(engine(requests(8)[::-1]))
    assert torch.equal(before, torch.get_rng_state())
    assert first == again
    assert len(first) == 24
    assert len({r.text for r in first.values()}) > 20, "samples of one prompt should differ"
    other = by_key(engine(requests(8, Sampling(n=3, max_tokens=12, seed=1))))
    assert sum(first[key].text != other[key].text for key in first) > 20


def test_each_batch_has_a_seed_of_its_own_and_records_it(
    tiny: Tiny, batches: list[list[int]]
) -> None:
    engine = TransformersEngine(tiny.model, tiny.tokenizer, batch_tokens=300)
    made = list(engine(requests(12)))
    assert len({r.seed for r in made}) == len(batches) > 3
    assert Counter(r.seed for r in made).total() == sum(map(len, batches)) == 36


def test_a_recorded_seed_makes_the_batch_again(tiny: Tiny) -> None:
    engine = TransformersEngine(tiny.model, tiny.tokenizer)
    made = list(engine(requests(4)))
    ids = [engine.renderer.ids(r.messages) for r in requests(4) for _ in range(3)]
    ids.sort(key=len)
    torch.manual_seed(made[0].seed)
    again = local.generate(tiny.model, tiny.tokenizer, ids, SHORT, 12)
    assert [r.text for r in made] == [row["text"] for row in again]


def test_seeds_fixed_for_every_sample(tiny: Tiny) -> None:
    engine = TransformersEngine(tiny.model, tiny.tokenizer)
    made = by_key(engine(requests(3, Sampling(n=5, max_tokens=4, seeds=SIMPO_SEEDS))))
    assert {(k, r.seed) for (_, k), r in made.items()} == set(enumerate(SIMPO_SEEDS))


@pytest.mark.parametrize(("temperature", "top_p"), [(0.8, 0.9), (1.2, 1.0)])
def test_the_distribution_is_the_models_own(tiny: Tiny, temperature: float, top_p: float) -> None:
    """First tokens of 4,000 samples; the model's generation defaults (top-k 5) are not applied."""
    from transformers import TopPLogitsWarper

    messages, n = prompt_rows(1)[0]["prompt"], 4000
    engine = TransformersEngine(tiny.model, tiny.tokenizer)
    wanted = Sampling(n, temperature, top_p, max_tokens=1)
    found = Counter(r.text for r in engine([Request("p", messages, wanted)]))
    with torch.no_grad():
        logits = tiny.model(torch.tensor([engine.renderer.ids(messages)])).logits[:, -1]
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
    found = by_key(TransformersEngine(tiny.model, tiny.tokenizer)(requests(6, GREEDY)))
    messages = [r.messages for r in requests(6)]
    options = {"n": 1, "temperature": 0.0, "max_new_tokens": 10, "batch_size": 4}
    sampled = sample(tiny.model, tiny.tokenizer, messages, **options)
    for request, (row,) in zip(requests(6), sampled, strict=True):
        ids = tiny.tokenizer.apply_chat_template(
            request.messages, add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
        plain = tiny.model.generate(
            **ids, do_sample=False, max_new_tokens=10, temperature=None, top_k=None
        )[0, ids["input_ids"].shape[1] :]
        text = tiny.tokenizer.decode(plain, skip_special_tokens=True)
        assert found[request.key, 0].text == row["text"] == text


def test_sample_is_generate_with_one_seed(tiny: Tiny) -> None:
    """``num_return_sequences`` over prompts by length: what tracked results were made with."""
    messages = [r["prompt"] for r in prompt_rows(7)]
    found = sample(tiny.model, tiny.tokenizer, messages, n=3, max_new_tokens=9, seed=4)
    tokenizer = tiny.tokenizer
    texts = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    ids = tokenizer(texts, add_special_tokens=False)["input_ids"]
    order = sorted(range(7), key=lambda i: len(ids[i]))
    inputs = tokenizer.pad(
        {"input_ids": [ids[i] for i in order]}, padding_side="left", return_tensors="pt"
    )
    torch.manual_seed(4)
    with torch.no_grad():
        output = tiny.model.generate(
            **inputs, do_sample=True, temperature=0.8, top_p=0.95, top_k=0, max_new_tokens=9,
            num_return_sequences=3,
        )[:, inputs["input_ids"].shape[1] :]  # fmt: skip
    plain = tokenizer.batch_decode(output, skip_special_tokens=True)
    assert [row["text"] for i in order for row in found[i]] == plain


def test_ends_and_token_counts(tiny: Tiny) -> None:
    engine = TransformersEngine(tiny.model, tiny.tokenizer)
    made = list(engine(requests(20, Sampling(max_tokens=30))))
    assert {r.finish_reason for r in made} == {"stop", "length"}
    for r in made:
        assert r.n_tokens == 30 if r.finish_reason == "length" else 0 < r.n_tokens <= 30
        assert "<end>" not in r.text


@pytest.mark.parametrize("kind", ["gpt_neox", "gemma3_text", "mamba"])
def test_other_architectures(tiny: Tiny, kind: str) -> None:
    """Greedy in a batch is greedy alone, with sliding windows and with recurrent states."""
    from wrpo_lib.nano.models import build_model

    sizes = {
        "gpt_neox": {"num_attention_heads": 4},
        "gemma3_text": {
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 16,
            "sliding_window": 8,
        },
        "mamba": {"state_size": 8},
    }
    config = {"model_type": kind, "hidden_size": 48, "num_hidden_layers": 3}
    config |= {"intermediate_size": 96, **sizes[kind]}
    model = build_model(config, tiny.tokenizer, seed=3).eval()
    together = TransformersEngine(model, tiny.tokenizer)(requests(8, GREEDY))
    alone = TransformersEngine(model, tiny.tokenizer, batch_tokens=1)(requests(8, GREEDY))
    assert {k: r.text for k, r in by_key(together).items()} == {
        k: r.text for k, r in by_key(alone).items()
    }


def test_a_prompt_too_long_fails_alone(tiny: Tiny) -> None:
    long = Request("long", [{"role": "user", "content": "a " * 400}], SHORT)
    made = list(TransformersEngine(tiny.model, tiny.tokenizer)([requests(1)[0], long]))
    failed = [r for r in made if r.error]
    assert [(r.key, r.sample) for r in failed] == [("long", k) for k in range(3)]
    assert "tokens, the context 256" in (failed[0].error or "")
    assert sum(r.error is None for r in made) == 3


def test_near_the_context_fewer_tokens_are_made(tiny: Tiny) -> None:
    near = Request("near", [{"role": "user", "content": "a " * 120}], Sampling(n=2, max_tokens=200))
    engine = TransformersEngine(tiny.model, tiny.tokenizer)
    left = 256 - len(engine.renderer.ids(near.messages))
    assert 0 < left < 200
    assert all(0 < (made.n_tokens or 0) <= left for made in engine([near, *requests(2)][:1]))


def test_batches_stay_within_the_budget(tiny: Tiny, batches: list[list[int]]) -> None:
    engine = TransformersEngine(tiny.model, tiny.tokenizer, batch_tokens=300)
    assert len(list(engine(requests(12)))) == 36
    assert max(len(b) * (max(b) + 12) for b in batches) <= 300
    assert len(batches) > 3


def test_a_batch_that_does_not_fit_is_halved(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = TransformersEngine(tiny.model, tiny.tokenizer)
    generate, sizes, most = local.generate, [], 5

    def small_gpu(model: Any, tokenizer: Any, ids: list[list[int]], *rest: Any) -> Any:
        sizes.append(len(ids))
        if len(ids) > most:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return generate(model, tokenizer, ids, *rest)

    monkeypatch.setattr(local, "generate", small_gpu)
    assert len(by_key(engine(requests(8)))) == 24
    assert max(sizes) == 24
    most = 0
    with pytest.raises(WRPOError, match="one response of 12 tokens does not fit into memory"):
        list(engine(requests(1)))


def test_the_state_of_the_model_is_left_alone(tiny: Tiny) -> None:
    tiny.model.train()
    list(TransformersEngine(tiny.model, tiny.tokenizer)(requests(2)))
    assert tiny.model.training
    tiny.model.eval()


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"n": 0}, "n 0"),
        ({"max_tokens": 0}, "max_tokens 0"),
        ({"temperature": -1}, "temperature -1"),
        ({"top_p": 0}, "top_p 0"),
        ({"top_p": 1.5}, "top_p 1.5"),
        ({"temperature": 0}, "greedy decoding"),
        ({"seeds": (1, 2)}, "2 seeds for n = 5"),
    ],
)
def test_impossible_settings(values: dict[str, Any], sentence: str) -> None:
    with pytest.raises(WRPOError, match=sentence):
        Sampling(**values)
