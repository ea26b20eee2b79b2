"""Prompt sharing is exact: losses and gradients of a packed row are those of padded rows."""

import copy
import inspect
import warnings
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM
from trl.trainer.utils import add_fused_lm_head

from wrpo_lib import sharing
from wrpo_lib.sharing import enable, obstacle, pack, pad, response_logps

VOCAB = 61
IDS = {"vocab_size": VOCAB, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
SMALL = {**IDS, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
SMALL |= {"num_attention_heads": 4, "max_position_embeddings": 64}
GROUPED = {"num_key_value_heads": 2, "head_dim": 8}
GPT2 = {**IDS, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}
GPT2 |= dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0)
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {**SMALL, **GROUPED},
    "qwen3": {**SMALL, **GROUPED},
    "gemma3_text": {**SMALL, **GROUPED, "sliding_window": 64},  # as long as the rows may be
    "gpt_neox": SMALL,
    "gpt2": GPT2,  # learned positions, told by position_ids, restart too
}
PROMPTS = [[5, 9, 11, 7, 3], [8, 4, 6], [12] * 9]
RESPONSES = [
    [[21, 22, 23], [24], [25, 26, 27, 28, 2]],
    [[31, 32], [33, 34, 35, 2], [36, 2]],
    [[41, 42, 43, 44], [45, 2], [46]],
]


def build(family: str, **overrides: Any) -> Any:
    torch.manual_seed(1)
    config = AutoConfig.for_model(family, **{**FAMILIES.get(family, SMALL), **overrides})
    model = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():  # weights large enough that attention matters
        for weight in model.parameters():
            weight.add_(0.15 * torch.randn_like(weight))
    return model


def plain_sums(model: Any) -> Tensor:
    """(B, R) by the ordinary forward, one row per response, full log-softmax."""
    sums = []
    for prompt, responses in zip(PROMPTS, RESPONSES, strict=True):
        for response in responses:
            row = torch.tensor([prompt + response], device=model.device)
            logits = model(input_ids=row, use_cache=False).logits[0, len(prompt) - 1 : -1]
            sums.append(logits.float().log_softmax(-1)[range(len(response)), response].sum())
    return torch.stack(sums).view(len(PROMPTS), -1)


def batch(arrange: Any = pack, device: str = "cpu") -> dict[str, Any]:
    lengths = torch.tensor([[len(r) for r in rs] for rs in RESPONSES])
    made = {**arrange(PROMPTS, RESPONSES), "lengths": lengths}
    return {k: v.to(device) if isinstance(v, Tensor) else v for k, v in made.items()}


def gradients(model: Any, sums: Tensor) -> dict[str, Tensor]:
    """Of a loss that weighs every response differently and mixes them, as WRPO's does."""
    weights = torch.linspace(0.3, 1.0, sums.numel()).view(sums.shape) * torch.tensor([1, 1, -1.0])
    weights = weights.to(sums.device)
    loss = -torch.nn.functional.logsigmoid((sums * weights).sum(1) / 10).mean()
    model.zero_grad()
    loss.backward()
    return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def prepare(model: Any, backend: str = "auto") -> Any:
    shared = copy.deepcopy(model)
    add_fused_lm_head(shared, outputs=("log_probs",))
    assert obstacle(shared, 64, backend) is None
    return shared


def assert_same_sums_and_gradients(plain: Any, shared: Any) -> None:
    expected, found = plain_sums(plain), response_logps(shared, batch())[0]
    assert expected.std() > 1, "a model that says the same everywhere would hide a fault"
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-4)
    theirs, ours = gradients(plain, expected), gradients(shared, found)
    assert set(ours) == set(theirs)
    for name, gradient in theirs.items():
        torch.testing.assert_close(ours[name], gradient, rtol=1e-4, atol=1e-4, msg=name)
    assert max(float(g.abs().max()) for g in theirs.values()) > 0.05


@pytest.mark.parametrize("family", FAMILIES)
def test_losses_and_gradients_are_those_of_a_row_per_response(family):
    model = build(family)
    shared = prepare(model)
    assert_same_sums_and_gradients(model, shared)
    padded = response_logps(shared, batch(pad))[0]
    torch.testing.assert_close(padded, plain_sums(model), rtol=1e-5, atol=1e-4)


# --- the shape of a packed row ------------------------------------------------------------------

LENGTHS = st.lists(
    st.tuples(st.integers(1, 6), st.lists(st.integers(1, 5), min_size=1, max_size=4).map(tuple)),
    min_size=1,
    max_size=4,
).map(tuple)


@given(LENGTHS)
@settings(deadline=None, max_examples=60)
def test_a_token_sees_its_prompt_and_its_own_branch(examples):
    ids = [([0] * prompt, [[0] * n for n in responses]) for prompt, responses in examples]
    row = pack(*zip(*ids, strict=True))
    mask, positions = row["branches"].mask(), row["position_ids"][0]
    assert len(positions) == len(mask)
    # as many tokens as its position says, each position once: what a row of its own would show
    assert mask.sum(1).tolist() == (positions + 1).tolist()
    for seen, position in zip(mask, positions, strict=True):
        assert positions[seen].tolist() == list(range(int(position) + 1))
    assert len(row["head_positions"]) == sum(sum(responses) for _, responses in examples)


def dense_varlen(
    query: Tensor, key: Tensor, value: Tensor, *ends: Any, scale: float, **how: Any
) -> Tensor:
    """What PyTorch documents of ``varlen_attn``, one dense softmax per sequence."""
    assert how == {"window_size": (-1, 0), "enable_gqa": True}
    query_ends, key_ends, *sizes = ends
    assert query_ends.dtype == key_ends.dtype == torch.int32
    assert sizes == [query_ends.diff().max(), key_ends.diff().max()]
    groups = query.shape[1] // key.shape[1]
    key, value = (t.repeat_interleave(groups, dim=1) for t in (key, value))
    parts = [query.split(query_ends.diff().tolist())]
    parts += [t.split(key_ends.diff().tolist()) for t in (key, value)]
    found = []
    for q, k, v in zip(*parts, strict=True):
        scores = torch.einsum("qhd,khd->hqk", q, k) * scale
        causal = torch.ones(len(q), len(k), dtype=torch.bool).tril(len(k) - len(q))
        found.append(torch.einsum("hqk,khd->qhd", scores.masked_fill(~causal, -1e9).softmax(-1), v))
    return torch.cat(found)


@pytest.mark.parametrize("family", ["llama", "gpt_neox"])
def test_varlen_attention_gives_the_same_sums_and_gradients(family, monkeypatch):
    """The kernel needs a GPU; what it is given does not."""
    real = inspect.getfullargspec(sharing.varlen_attn)
    assert {"scale", "window_size", "enable_gqa"} <= set(real.kwonlyargs)
    assert real.args == ["query", "key", "value", "cu_seq_q", "cu_seq_k", "max_q", "max_k"]
    monkeypatch.setattr(sharing, "varlen_attn", dense_varlen)
    monkeypatch.setattr(sharing, "_sdpa", lambda *given: sharing._varlen(*given[:5]))
    model = build(family)
    assert_same_sums_and_gradients(model, prepare(model))


def test_flex_attention_gives_the_same_sums():
    """Uncompiled and forward only: without a backward pass on a CPU, no run there shares by it."""
    model = build("llama")
    shared = prepare(model)
    assert "on a CPU" in (obstacle(shared, 64, "flex") or "")
    sums = []
    try:
        torch.compiler.set_stance("force_eager")
        for backend in ("sdpa", "flex"):
            enable(shared, backend)
            with torch.no_grad(), warnings.catch_warnings():
                warnings.simplefilter("ignore")  # torch asks to compile it
                sums.append(response_logps(shared, batch())[0])
    finally:
        torch.compiler.set_stance("default")
    assert not torch.equal(*sums)  # it is another kernel
    for found in sums:
        torch.testing.assert_close(found, plain_sums(model), rtol=1e-5, atol=1e-4)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("backend", ["auto", "flex"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_on_a_gpu_all_variants_agree(dtype, backend):
    model = build("llama").to("cuda", dtype)
    reference = copy.deepcopy(model).float()
    shared = prepare(model, backend)
    found, expected = response_logps(shared, batch(device="cuda"))[0], plain_sums(reference)
    exact = dtype == torch.float32
    close = {"rtol": 1e-4, "atol": 1e-3} if exact else {"rtol": 5e-2, "atol": 0.5}
    torch.testing.assert_close(found, expected, **close)
    ours, theirs = gradients(shared, found), gradients(reference, expected)
    for name, gradient in theirs.items():
        off = (ours[name].float() - gradient).norm() / gradient.norm()
        assert off < (1e-3 if exact else 0.1), name


# --- models that cannot -------------------------------------------------------------------------

TINY = {**IDS, "hidden_size": 32, "n_layer": 1, "num_hidden_layers": 1, "n_head": 4}
LFM2 = {**SMALL, "num_key_value_heads": 2, "layer_types": ["conv", "full_attention"]}


@pytest.mark.parametrize(
    ("family", "overrides", "why"),
    [
        ("mistral", {**GROUPED, "sliding_window": 16}, "its attention window is 16 tokens"),
        ("gemma2", GROUPED, "a trial row failed"),
        ("mamba", TINY, "attention"),
        ("lfm2", LFM2, "layers of kind conv"),
    ],
)
def test_a_model_that_cannot_share_is_found_out(family, overrides, why):
    model = build(family, **overrides)
    was = model.config._attn_implementation
    assert why in (obstacle(model, 32) or "")
    assert model.config._attn_implementation == was
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([[5, 6, 7]]), use_cache=False).logits
    assert logits.shape == (1, 3, VOCAB)


def test_positions_that_do_not_restart_give_themselves_away():
    """Whatever the code is called: the trial row is computed and compared."""
    model = build("llama")
    rotate = model.model.rotary_emb.forward

    def counted(states: Tensor, position_ids: Tensor) -> tuple[Tensor, Tensor]:
        own: tuple[Tensor, Tensor] = rotate(states, torch.arange(states.shape[1])[None])
        return own

    model.model.rotary_emb.forward = counted
    assert (obstacle(model, 32) or "").startswith("a trial row came out different")
    assert not model.config._attn_implementation.startswith("shared")


@pytest.mark.parametrize("asked", ["sdpa", "flash_attention_2", "kernels-community/flash-attn3"])
def test_ordinary_calls_stay_what_they_were(asked):
    """No flash package is installed here: what was loaded is the name alone."""
    model, loaded = build("llama"), build("llama")
    loaded.config._attn_implementation_internal = asked
    shared, ids = prepare(loaded), torch.tensor([[5, 6, 7, 8]])
    enable(shared)  # twice does no harm
    assert_same_sums_and_gradients(model, shared)
    with torch.no_grad():
        torch.testing.assert_close(shared(input_ids=ids).logits, model(input_ids=ids).logits)
        made = [m.generate(ids, max_new_tokens=4, do_sample=False) for m in (model, shared)]
    assert made[0].equal(made[1])
