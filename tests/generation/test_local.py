"""Batched sampling in process: right distribution, a seed for every response, speed."""

from __future__ import annotations

import time
from collections import Counter
from typing import Any

import pytest
import torch
from generation_rows import Tiny, prompt_rows

from wrpo_lib.errors import WRPOError
from wrpo_lib.generation.local import LocalEngine
from wrpo_lib.generation.nucleus import draw_nucleus
from wrpo_lib.generation.request import SIMPO_SEEDS, Request, Response, Sampling

SHORT = Sampling(n=3, max_tokens=12)


def requests(n: int, sampling: Sampling = SHORT) -> list[Request]:
    return [Request(r["prompt_id"], r["prompt"], sampling) for r in prompt_rows(n)]


def by_key(made: Any) -> dict[tuple[str, int], Response]:
    return {(r.key, r.sample): r for r in made}


@pytest.mark.parametrize("top_p", [0.3, 0.9, 0.95, 1.0])
@pytest.mark.parametrize("vocabulary", [40, 1000])
def test_the_nucleus_is_that_of_transformers(top_p: float, vocabulary: int) -> None:
    """Every token drawn at a fine grid of quantiles, in the shares of the renormalised nucleus."""
    from transformers import TopPLogitsWarper

    logits = 3 * torch.randn(1, vocabulary, generator=torch.Generator().manual_seed(0))
    n = 4000
    u = (torch.arange(n) + 0.5) / n
    drawn = draw_nucleus(logits.expand(n, -1), u, top_p)
    shares = torch.bincount(drawn, minlength=vocabulary) / n
    expected = TopPLogitsWarper(top_p)(None, logits).softmax(-1)[0]
    # each token's share of the grid is right to within one step of it (and rounding of sums)
    assert (shares - expected).abs().max() < 2 / n
    assert set(drawn.tolist()) <= set(expected.nonzero()[:, 0].tolist())


def test_a_quantile_of_one_is_the_last_of_the_nucleus() -> None:
    logits = torch.tensor([[0.5, 0.3, 0.2]]).log()
    assert draw_nucleus(logits, torch.tensor([1.0 - 2**-24]), 0.7).item() == 1
    assert draw_nucleus(logits, torch.tensor([0.0]), 0.7).item() == 0
    assert draw_nucleus(logits, torch.tensor([0.999]), 1e-6).item() == 0


def test_a_response_depends_on_its_seed_and_not_on_its_batch(tiny: Tiny) -> None:
    together = by_key(LocalEngine(tiny.model, tiny.tokenizer)(requests(20)))
    assert len(together) == 60
    alone = LocalEngine(tiny.model, tiny.tokenizer, batch_rows=1)
    for request in reversed(requests(20)):
        for sample in (2, 0):
            some = Request(request.key, request.messages, SHORT, samples=(sample,))
            (made,) = alone([some])
            assert made == together[request.key, sample]
    texts = [r.text for r in together.values()]
    assert len(set(texts)) > 50, "samples of one prompt should differ"


ARCHITECTURES = {
    "gpt_neox": {"intermediate_size": 96},
    "mistral": {"num_key_value_heads": 2, "intermediate_size": 96, "sliding_window": 8},
    "qwen3": {"num_key_value_heads": 2, "intermediate_size": 96, "head_dim": 16},
    "gemma3_text": {"num_key_value_heads": 2, "intermediate_size": 96, "head_dim": 16,
                    "sliding_window": 8},
    "mamba": {"intermediate_size": 96, "state_size": 8},
}  # fmt: skip


@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_prompts_computed_once_and_rows_that_leave_change_nothing(
    tiny: Tiny, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Architectures with other caches: sliding windows shorter than a prompt, recurrent states."""
    from wrpo_lib.generation import local
    from wrpo_lib.nano.models import build_model

    config = {"model_type": kind, "hidden_size": 48, "num_hidden_layers": 3}
    if kind != "mamba":
        config["num_attention_heads"] = 4
    model = build_model({**config, **ARCHITECTURES[kind]}, tiny.tokenizer, seed=3).eval()
    monkeypatch.setattr(local, "STRETCH", 3)
    together = by_key(LocalEngine(model, tiny.tokenizer)(requests(8)))
    monkeypatch.setattr(local, "STRETCH", 1000)
    alone = LocalEngine(model, tiny.tokenizer, batch_rows=1)
    assert by_key(alone(requests(8))) == together


def test_rows_that_have_ended_leave_the_batch(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    """The work done is little more than the tokens made, and the responses are the same."""
    sampling = Sampling(n=5, max_tokens=120)
    engine = LocalEngine(tiny.model, tiny.tokenizer)
    stretch, work = engine._stretch, []

    def watched(ids: torch.Tensor, *rest: Any) -> torch.Tensor:
        output = stretch(ids, *rest)
        work.append(len(ids) * (output.shape[1] - ids.shape[1]))
        return output

    monkeypatch.setattr(engine, "_stretch", watched)
    made = by_key(engine(requests(20, sampling)))
    tokens = [r.n_tokens or 0 for r in made.values()]
    assert min(tokens) < 30 < max(tokens)
    assert sum(work) < sum(tokens) + 16 * len(tokens)
    assert sum(work) < 0.95 * len(tokens) * max(tokens), "as in whole batches"
    whole = LocalEngine(tiny.model, tiny.tokenizer, batch_rows=1)
    same = [made[key] == r for key, r in by_key(whole(requests(20, sampling)[:4])).items()]
    assert sum(same) >= 18, "of 20, each of up to 120 tokens: rounding may turn one of them"


def test_a_cache_with_room_holds_what_a_plain_one_does() -> None:
    """After rows have left, too."""
    from transformers.cache_utils import DynamicCache

    from wrpo_lib.generation.room import RoomyLayer, with_room

    source = torch.Generator().manual_seed(0)

    def new(rows: int, tokens: int) -> list[torch.Tensor]:
        return [torch.randn(rows, 2, tokens, 4, generator=source) for _ in range(2)]

    plain, first = DynamicCache(), new(5, 3)
    plain.update(*first, 0)
    roomy = DynamicCache()
    roomy.update(*first, 0)
    roomy = with_room(roomy, 8)
    assert isinstance(roomy.layers[0], RoomyLayer)
    kept = torch.tensor([3, 0])
    for rows, tokens in ((5, 1), (5, 1), (2, 1), (2, 2)):
        if rows == 2 and plain.layers[0].keys.shape[0] == 5:
            plain.batch_select_indices(kept)
            roomy.batch_select_indices(kept)
        step = new(rows, tokens)
        for found, expected in zip(roomy.update(*step, 0), plain.update(*step, 0), strict=True):
            assert torch.equal(found, expected)
        assert roomy.get_seq_length() == plain.get_seq_length()


def test_a_larger_batch_is_not_padded_much(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = LocalEngine(tiny.model, tiny.tokenizer)
    tokens, batches = engine._tokens, []

    def watched(rows: list[Any]) -> list[list[int]]:
        batches.append([len(r.ids) + r.max_tokens for r in rows])
        return tokens(rows)

    monkeypatch.setattr(engine, "_tokens", watched)
    long = [Request(f"l{k}", [{"role": "user", "content": "a " * 60}], SHORT) for k in range(12)]
    assert len(list(engine([*long, *requests(12)]))) == 72
    assert len(batches) > 1
    assert all(len(b) <= 32 or b[-1] <= 1.25 * b[0] for b in batches)


def test_wide_and_narrow_nuclei_in_one_batch() -> None:
    """Each row is drawn as it would be alone, however many candidates its neighbours need."""
    flat, peaked = torch.full((1, 5000), 1 / 5000), torch.zeros(1, 5000)
    peaked[0, 7] = 1.0
    slope = torch.arange(5000, 0, -1.0)[None] ** 2
    logits = torch.cat([peaked, flat, slope, peaked]).log()
    u = torch.tensor([0.5, 0.999, 0.9, 0.1])
    together = draw_nucleus(logits, u, 0.95)
    alone = [draw_nucleus(p[None], q[None], 0.95) for p, q in zip(logits, u, strict=True)]
    assert torch.equal(together, torch.cat(alone))
    assert together[0] == together[3] == 7
    by_hand = slope[0].cumsum(0) / slope.sum()
    inside = by_hand[int((by_hand < 0.95).sum())]  # the token that reaches top_p belongs to it
    assert abs(int(together[2]) - int((by_hand < 0.9 * inside).sum())) <= 1


def test_seeds_are_recorded_and_others_give_other_texts(tiny: Tiny) -> None:
    engine = LocalEngine(tiny.model, tiny.tokenizer)
    first, other = (
        by_key(engine(requests(6, Sampling(n=2, max_tokens=12, seed=seed)))) for seed in (0, 1)
    )
    assert all(first[key].seed != other[key].seed for key in first)
    assert sum(first[key].text != other[key].text for key in first) >= 10
    simpo = by_key(engine(requests(2, Sampling(n=5, max_tokens=4, seeds=SIMPO_SEEDS))))
    assert [simpo["p1", k].seed for k in range(5)] == [13, 21, 42, 79, 100]
    more = by_key(engine(requests(6, Sampling(n=4, max_tokens=12))))
    assert {key: more[key] for key in first} == first, "asking for more must not change the first"


def test_the_distribution_is_that_of_generate(tiny: Tiny) -> None:
    """First tokens of 4,000 samples against the model's own probabilities."""
    request = requests(1)[0]
    n = 4000
    wide = Sampling(n=n, temperature=0.8, top_p=0.9, max_tokens=1)
    engine = LocalEngine(tiny.model, tiny.tokenizer, batch_rows=1000)
    found = Counter(r.text for r in engine([Request("p", request.messages, wide)]))
    from transformers import TopPLogitsWarper

    ids = torch.tensor([engine.renderer.ids(request.messages)])
    with torch.no_grad():
        logits = tiny.model(ids).logits[:, -1] / 0.8
    probs = TopPLogitsWarper(0.9)(None, logits).softmax(-1)[0]
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
    greedy = Sampling(n=1, temperature=0, max_tokens=10)
    found = by_key(LocalEngine(tiny.model, tiny.tokenizer)(requests(6, greedy)))
    for request in requests(6, greedy):
        ids = tiny.tokenizer.apply_chat_template(
            request.messages, add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
        plain = tiny.model.generate(
            **ids, do_sample=False, max_new_tokens=10, temperature=None, top_k=None
        )[0, ids["input_ids"].shape[1] :]
        text = tiny.tokenizer.decode(plain, skip_special_tokens=True)
        assert found[request.key, 0].text == text


def test_ends_and_token_counts(tiny: Tiny) -> None:
    made = list(LocalEngine(tiny.model, tiny.tokenizer)(requests(20, Sampling(max_tokens=30))))
    reasons = Counter(r.finish_reason for r in made)
    assert set(reasons) == {"stop", "length"}
    for r in made:
        assert r.n_tokens == 30 if r.finish_reason == "length" else 0 < r.n_tokens <= 30
        assert "<end>" not in r.text
        assert set(r.row()) == {"sample", "text", "n_tokens", "finish_reason", "seed"}


def test_a_prompt_too_long_fails_alone(tiny: Tiny) -> None:
    long = Request("long", [{"role": "user", "content": "a " * 400}], SHORT)
    made = list(LocalEngine(tiny.model, tiny.tokenizer)([requests(1)[0], long]))
    failed = [r for r in made if r.error]
    assert [(r.key, r.sample) for r in failed] == [("long", k) for k in range(3)]
    assert "tokens, the context 256" in (failed[0].error or "")
    assert sum(r.error is None for r in made) == 3


def test_near_the_context_fewer_tokens_are_made(tiny: Tiny) -> None:
    near = Request("near", [{"role": "user", "content": "a " * 120}], Sampling(n=2, max_tokens=200))
    engine = LocalEngine(tiny.model, tiny.tokenizer)
    room = 256 - len(engine.renderer.ids(near.messages))
    assert 0 < room < 200
    for made in engine([near]):
        assert made.n_tokens is not None
        assert made.n_tokens <= room


def test_a_batch_that_does_not_fit_is_halved(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = LocalEngine(tiny.model, tiny.tokenizer)
    whole = by_key(engine(requests(8)))
    tokens, sizes = engine._tokens, []

    def small_gpu(rows: list[Any]) -> list[list[int]]:
        sizes.append(len(rows))
        if len(rows) > 5:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return tokens(rows)

    monkeypatch.setattr(engine, "_tokens", small_gpu)
    assert by_key(engine(requests(8))) == whole
    assert max(sizes) == 24
    monkeypatch.setattr(engine, "_tokens", lambda rows: (_ for _ in ()).throw(
        torch.OutOfMemoryError("CUDA out of memory")))  # fmt: skip
    with pytest.raises(WRPOError, match="one response of 12 tokens does not fit into memory"):
        list(engine(requests(1)))


def test_batches_stay_within_the_budget(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = LocalEngine(tiny.model, tiny.tokenizer, batch_tokens=300)
    tokens, areas = engine._tokens, []

    def watched(rows: list[Any]) -> list[list[int]]:
        areas.append(len(rows) * (max(len(r.ids) for r in rows) + 12))
        return tokens(rows)

    monkeypatch.setattr(engine, "_tokens", watched)
    assert len(list(engine(requests(12)))) == 36
    assert max(areas) <= 300
    assert len(areas) > 3


def test_the_state_of_model_and_generators_is_left_alone(tiny: Tiny) -> None:
    tiny.model.train()
    torch.manual_seed(5)
    before = torch.get_rng_state()
    list(LocalEngine(tiny.model, tiny.tokenizer)(requests(2)))
    assert torch.equal(before, torch.get_rng_state())
    assert tiny.model.training
    tiny.model.eval()


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"n": 0}, "n is 0"),
        ({"max_tokens": 0}, "max_tokens 0"),
        ({"temperature": -1}, "temperature is -1"),
        ({"top_p": 0}, "top_p 0"),
        ({"top_p": 1.5}, "top_p 1.5"),
        ({"temperature": 0}, "greedy decoding"),
        ({"seeds": (1, 2)}, "2 seeds for n = 5"),
    ],
)
def test_impossible_settings(values: dict[str, Any], sentence: str) -> None:
    with pytest.raises(WRPOError, match=sentence):
        Sampling(**values)


def test_three_times_a_plain_loop(tiny: Tiny) -> None:
    """One prompt at a time against batches, interleaved; measured about 20 to 30 times here."""
    sampling = Sampling(n=1, max_tokens=24)
    todo = requests(24, sampling)
    engine = LocalEngine(tiny.model, tiny.tokenizer)

    def plain() -> None:
        with torch.no_grad():
            for request in todo:
                ids = tiny.tokenizer.apply_chat_template(
                    request.messages, add_generation_prompt=True, return_tensors="pt",
                    return_dict=True,
                )  # fmt: skip
                tiny.model.generate(
                    **ids, do_sample=True, temperature=0.8, top_p=0.95, top_k=0, max_new_tokens=24
                )

    def batched() -> None:
        assert len(list(engine(todo))) == 24

    seconds = {plain: [], batched: []}  # type: ignore[var-annotated]
    for _ in range(3):
        for way in (plain, batched):
            start = time.perf_counter()
            way()
            seconds[way].append(time.perf_counter() - start)
    assert min(seconds[plain]) > 3 * min(seconds[batched]), seconds
