"""The layers for a CPU give what torch's and the model's own give, and keep less for it."""

from __future__ import annotations

import copy
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor
from torch.utils.checkpoint import checkpoint
from transformers import (
    GemmaConfig,
    GemmaForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
)
from transformers.models.llama import modeling_llama

from wrpo_lib.cpu import layers, products
from wrpo_lib.cpu.products import plain, product

SIZE = {"vocab_size": 99, "hidden_size": 272, "intermediate_size": 304, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 68}  # fmt: skip
"""Just large enough that layers are replaced: 272² is above 2¹⁶."""
MODELS = {
    "llama": (LlamaForCausalLM, LlamaConfig),
    "mistral": (MistralForCausalLM, MistralConfig),
    "qwen": (Qwen2ForCausalLM, Qwen2Config),
    "gemma": (GemmaForCausalLM, GemmaConfig),
}


def build(name: str, **sizes: Any) -> Any:
    torch.manual_seed(0)
    kind, config = MODELS[name]
    return kind(config(**{**SIZE, **sizes}, attn_implementation="sdpa"))


def assert_same(model: Any, ids: Tensor, *, recompute: bool) -> None:
    """Logits and gradients of a model before our layers are put into it and after."""
    logits, expected = gradients(model, ids)
    layers.enable(model)
    model.train()
    if recompute:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    found, mine = gradients(model, ids)
    assert torch.allclose(found, logits, atol=1e-4)
    assert mine.keys() == expected.keys()
    for key, grad in expected.items():
        assert torch.allclose(mine[key], grad, atol=1e-4 + 1e-4 * float(grad.abs().max())), key


def gradients(model: Any, ids: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    model.zero_grad()
    logits = model(ids).logits
    logits.log_softmax(-1)[..., 7].sum().backward()
    return logits.detach(), {n: p.grad for n, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("layout", ["plain", "transposed", "gaps"])
def test_a_product_is_a_times_b_transposed(layout: str, library: str) -> None:
    a, b = torch.randn(30, 20), torch.randn(50, 20)
    expected = a @ b.T
    if layout == "transposed":
        a, b = a.T.contiguous().T, b.T.contiguous().T
    if layout == "gaps":
        a, b = (torch.stack([t, t], dim=2)[..., 0] for t in (a, b))
    found = product(a, b)
    assert torch.allclose(found, expected, atol=1e-5)
    if library == "torch":
        assert torch.equal(found, a @ b.T), "torch's own"


def test_the_make_of_the_processor_is_read(tmp_path: Path) -> None:
    told = tmp_path / "cpuinfo"
    told.write_text(
        "processor\t: 0\nvendor_id\t: MakerOfIt\nmodel name\t: Model 7\nflags\t: avx\n\n" * 2
    )
    assert products.processor(told) == "MakerOfIt, Model 7"
    assert products.processor(tmp_path / "none") == platform.processor()


@pytest.mark.parametrize("threads", [1, 3, 40])
@pytest.mark.parametrize("width", [272, 304, 300])
def test_norm_and_gate_in_double(width: int, threads: int) -> None:
    """300 is no multiple of what compiled code takes; 90 is where exp overflows a float."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        assert_norm_and_gate(width)
    finally:
        torch.set_num_threads(before)


def assert_norm_and_gate(width: int) -> None:
    gate, up = (torch.randn(2, 7, width, dtype=torch.double, requires_grad=True) for _ in range(2))
    with torch.no_grad():
        gate[0, 0, :4] = torch.tensor([-90.0, 90.0, 0.0, -1e4])
    weight = torch.randn(width, dtype=torch.double, requires_grad=True)
    grad = torch.randn(2, 7, width, dtype=torch.double)
    singles = [t.detach().float() for t in (gate, up, grad)]
    hidden = torch.nn.functional.silu(gate) * up
    expected = (*torch.autograd.grad(hidden, (gate, up), grad), hidden)
    assert torch.allclose(layers._opened(*singles[:2]).double(), hidden, atol=1e-5)
    for mine, other in zip(layers._opened_backward(*singles), expected, strict=True):
        assert torch.allclose(mine.double(), other, atol=1e-5)

    x = up.detach().requires_grad_()
    norm = x * (x.square().mean(-1, keepdim=True) + 1e-5).rsqrt() * weight
    y, scale = x.detach().float().requires_grad_(), weight.detach().float().requires_grad_()
    ours = layers._NormFunction.apply(y, scale, 1e-5)
    assert torch.allclose(ours.double(), norm, atol=1e-5)
    wanted = torch.autograd.grad(norm, (x, weight), grad)
    found = torch.autograd.grad(ours, (y, scale), grad.float())
    for mine, other in zip(found, wanted, strict=True):
        assert torch.allclose(mine.double(), other, atol=1e-5)


@pytest.mark.parametrize("bias", [True, False])
def test_gradients_of_a_linear_layer(bias: bool) -> None:
    usual = torch.nn.Linear(300, 260, bias=bias).double()
    ours = copy.deepcopy(usual).float()
    layers.enable(ours)
    assert type(ours) is layers.Linear
    x = torch.randn(2, 7, 300, dtype=torch.double, requires_grad=True)
    y = x.detach().float().requires_grad_()
    usual(x).sin().sum().backward()
    ours(y).sin().sum().backward()
    for mine, other in zip([y, *ours.parameters()], [x, *usual.parameters()], strict=True):
        assert mine.grad is not None
        assert other.grad is not None
        assert torch.allclose(mine.grad.double(), other.grad, atol=1e-4)


def test_frozen_weights_get_no_gradient() -> None:
    layer = torch.nn.Linear(300, 260).requires_grad_(False)
    layers.enable(layer)
    x = torch.randn(4, 300, requires_grad=True)
    layer(x).sum().backward()
    assert layer.weight.grad is None
    assert x.grad is not None


@pytest.mark.parametrize("name", list(MODELS))
@pytest.mark.parametrize("recompute", [False, True])
def test_a_model_gives_the_same_logits_and_gradients(name: str, recompute: bool) -> None:
    assert_same(build(name), torch.randint(0, 99, (2, 23)), recompute=recompute)


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("heads", [1, 4])
def test_rotated_heads_in_double(heads: int, threads: int) -> None:
    """Both halves have angles of their own here, as nothing says that they are the same."""
    before = torch.get_num_threads()
    x = torch.randn(1, 5, heads, 64, dtype=torch.double).transpose(1, 2).requires_grad_()
    cosine, sine, grad = (torch.randn(1, n, 5, 64, dtype=torch.double) for n in (1, 1, heads))
    first, second = x.chunk(2, dim=-1)
    turned = x * cosine + torch.cat([-second, first], dim=-1) * sine
    angles = [a[:, 0].float() for a in (cosine, sine)]
    torch.set_num_threads(threads)
    try:
        y = x.detach().float().requires_grad_()
        usual = modeling_llama.apply_rotary_pos_emb
        ours, also = layers._rotated(usual, y, y.detach()[:, :1], *angles)
        assert torch.equal(also, ours[:, :1])
        (found,) = torch.autograd.grad(ours, y, grad.float())
    finally:
        torch.set_num_threads(before)
    assert torch.allclose(ours.double(), turned, atol=1e-5)
    assert torch.allclose(found.double(), torch.autograd.grad(turned, x, grad)[0], atol=1e-5)


@pytest.mark.parametrize("name", list(MODELS))
@pytest.mark.parametrize("recompute", [False, True])
def test_a_model_of_one_row_rotates_its_heads(
    name: str, recompute: bool, library: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = torch.randint(0, 99, (1, 23))
    calls: list[bool] = []
    rotate = layers._rotate
    monkeypatch.setattr(
        layers,
        "_rotate",
        lambda *a, backward: calls.append(backward) or rotate(*a, backward=backward),
    )
    assert_same(build(name, head_dim=64), ids, recompute=recompute)
    each = 4 if library == "compiled" else 0  # queries and keys of two layers
    assert calls.count(True) == each
    assert calls.count(False) == each * (1 + recompute)
    calls.clear()
    build(name, head_dim=64)(ids)
    assert not calls, "other models keep transformers' own"


def test_heads_are_rotated_under_adapters_of_all_projections() -> None:
    names = ["q_proj", "k_proj", "v_proj", "o_proj"]
    adapted = get_peft_model(build("llama", head_dim=64), LoraConfig(r=4, target_modules=names))
    layers.enable(adapted)
    assert isinstance(adapted.get_base_model().model.layers[0].self_attn, layers._Rotary)
    ids = torch.randint(0, 99, (1, 9))
    with adapted.disable_adapter():
        found = adapted(ids).logits
    assert torch.allclose(found, build("llama", head_dim=64)(ids).logits, atol=1e-4)


def test_an_attention_that_rotates_in_another_way_is_left_alone() -> None:
    def interleaved(q: Tensor, k: Tensor, cosine: Tensor, sine: Tensor) -> tuple[Tensor, Tensor]:
        def turn(x: Tensor) -> Tensor:
            other = torch.stack([-x[..., 1::2], x[..., ::2]], dim=-1).flatten(-2)
            return x * cosine[:, None] + other * sine[:, None]

        return turn(q), turn(k)

    assert layers._rotates_halves(modeling_llama.apply_rotary_pos_emb)
    assert not layers._rotates_halves(interleaved)
    assert not layers._rotates_halves(lambda q, k: (q, k))
    assert layers._with_rotary(torch.nn.Linear) is None


@pytest.mark.parametrize("words", [0, 500])
def test_embedding_and_head_of_one_matrix(words: int) -> None:
    """Equal gradients, dense, over two steps without clearing; small ones are left alone."""
    size = {"vocab_size": words or 99, "tie_word_embeddings": True}
    usual = build("llama", **size)
    ours = copy.deepcopy(usual)
    layers.enable(ours)
    weight = ours.model.embed_tokens.weight
    assert ours.lm_head.weight is weight
    assert isinstance(ours.model.embed_tokens, layers._TiedEmbedding) == bool(words)
    ids = torch.tensor([[3, 5, 3, 8, 8, 8]])
    for _ in range(2):
        for model in (usual, ours):
            model(ids).logits.log_softmax(-1)[..., 7].sum().backward()
    assert not weight.grad.is_sparse
    assert torch.allclose(weight.grad, usual.lm_head.weight.grad, atol=1e-4)
    apart = build("llama", vocab_size=500, tie_word_embeddings=False)
    layers.enable(apart)
    assert type(apart.model.embed_tokens) is torch.nn.Embedding


def test_what_is_replaced_and_what_is_not() -> None:
    llama, gemma = build("llama"), build("gemma")
    layers.enable(llama)
    layers.enable(gemma)
    block, other = llama.model.layers[0], gemma.model.layers[0]
    assert isinstance(block.mlp, layers._Gated)
    assert isinstance(block.input_layernorm, layers._Norm)
    assert type(block.self_attn.q_proj) is layers.Linear
    assert type(block.self_attn.k_proj) is torch.nn.Linear, "272 x 136 is small"
    assert not isinstance(other.mlp, layers._Gated), "Gemma's gate is a gelu"
    assert not isinstance(other.input_layernorm, layers._Norm), "Gemma's norm adds 1"
    assert type(block.mlp).__name__ == "LlamaMLP"
    assert type(block.self_attn).__name__ == "LlamaAttention"
    assert isinstance(block.self_attn, layers._Rotary)
    assert llama.state_dict().keys() == build("llama").state_dict().keys()


def test_enabling_twice_or_copying_changes_nothing() -> None:
    model = build("llama")
    layers.enable(model)
    kinds = [type(m) for m in model.modules()]
    layers.enable(model)
    assert [type(m) for m in model.modules()] == kinds
    assert [type(m) for m in copy.deepcopy(model).modules()] == kinds


def test_other_precisions_and_traces_take_torchs_way() -> None:
    model = build("llama")
    usual = copy.deepcopy(model)
    layers.enable(model)
    ids = torch.randint(0, 99, (1, 9))
    for dtype in (torch.bfloat16, torch.double):
        assert torch.equal(model.to(dtype)(ids).logits, usual.to(dtype)(ids).logits)
    model, usual = model.float(), usual.float()
    with torch.autocast("cpu", torch.bfloat16):
        assert not plain(torch.ones(2))
        assert torch.equal(model(ids).logits, usual(ids).logits)


def test_a_hook_on_the_last_layer_of_a_gate_is_called() -> None:
    model = build("llama")
    layers.enable(model)
    seen: list[int] = []
    down = model.model.layers[0].mlp.down_proj
    down.register_forward_hook(lambda module, args, out: seen.append(args[0].shape[-1]))
    model(torch.randint(0, 99, (1, 5)))
    assert seen == [304]


def kept(run: Any) -> int:
    """Bytes that a forward pass keeps for its backward pass."""
    found: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        found[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
        run()
    return sum(found.values())


def test_less_is_kept() -> None:
    model = build("llama")
    ids = torch.randint(0, 99, (4, 100))
    alive: list[Any] = []
    usual = kept(lambda: alive.append(model(ids).logits))
    layers.enable(model)
    ours = kept(lambda: alive.append(model(ids).logits))
    tokens, weights = 400, 4 * sum(p.numel() for p in model.parameters())
    gated = 2 * 2 * 4 * tokens * SIZE["intermediate_size"]  # silu(gate) and its product, two layers
    assert ours < weights + usual - gated


def test_checkpointed_layers_run(monkeypatch: pytest.MonkeyPatch) -> None:
    mlp = build("llama").model.layers[0].mlp
    layers.enable(mlp)
    x = torch.randn(3, 272, requires_grad=True)
    checkpoint(mlp, x, use_reentrant=False).sum().backward()
    first = x.grad
    x.grad = None
    mlp(x).sum().backward()
    assert first is not None
    assert x.grad is not None
    assert torch.allclose(first, x.grad, atol=1e-5)


FAULTS = """
import resource, torch
from wrpo_lib.cpu import memory

def faults(size):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(size)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

sizes = [9 * 2**26, 9 * 2**26 - 2**20]  # 2.25 GiB; the second fits into what the first leaves
memory.give_back()
fresh = [faults(size) for size in sizes]
memory.keep_freed()
again = [faults(size) for size in sizes]
print(fresh[1], again[1])
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's memory only")
def test_freed_memory_is_kept() -> None:
    """In a process of its own: glibc keeps memory for the main thread, unlike a test worker's."""
    done = subprocess.run([sys.executable, "-c", FAULTS], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    fresh, again = map(int, done.stdout.split())
    if fresh < 1000:
        pytest.skip("this system hands memory out in large pages")
    assert again < fresh / 10
