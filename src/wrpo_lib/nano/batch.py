"""Small Llamas, several at a time: parameters stacked over S members, one member a world.

A model of 100,000 parameters spends its time in overhead, so the members of a stack are trained and
sampled together. They share shape and vocabulary and nothing else: no number of one member enters
another's. Parameters have the names and layouts of transformers' ``LlamaForCausalLM`` with a
leading S, so that any member exports as one (:mod:`wrpo_lib.nano.export`).
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import get_cosine_schedule_with_warmup

Params = dict[str, Tensor]
Cache = list[tuple[Tensor, Tensor]]

EPS, THETA = 1e-6, 20.0  # of RMSNorm; of rotary positions, small because a row has few
PAD, END = 0, 1
"""Token ids that every vocabulary of the testbed begins with."""


@dataclass(frozen=True)
class Shape:
    """What the members of a stack share; ``hidden`` is the width between the MLP's layers."""

    vocab: int
    width: int = 64
    layers: int = 2
    heads: int = 4
    hidden: int = 128

    def parameters(self) -> dict[str, tuple[int, ...]]:
        """Names and shapes of one member's parameters; the embedding is tied to the head."""
        found: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (self.vocab, self.width)}
        square, up = (self.width, self.width), (self.hidden, self.width)
        for k in range(self.layers):
            layer = f"model.layers.{k}."
            found |= {f"{layer}self_attn.{p}_proj.weight": square for p in "qkvo"}
            found |= {f"{layer}mlp.{p}_proj.weight": up for p in ("gate", "up")}
            found[f"{layer}mlp.down_proj.weight"] = (self.width, self.hidden)
            found[f"{layer}input_layernorm.weight"] = (self.width,)
            found[f"{layer}post_attention_layernorm.weight"] = (self.width,)
        return found | {"model.norm.weight": (self.width,)}


def build(shape: Shape, seeds: list[int]) -> Params:
    """Random members, one per seed: N(0, 1/fan-in) weights, norms of one.

    The embedding begins smaller, with which it is learned in fewer steps.
    """
    members = []
    for seed in seeds:
        rng, member = torch.Generator().manual_seed(seed), Params()
        for name, size in shape.parameters().items():
            scale = (0.3 if "embed" in name else 1.0) / size[-1] ** 0.5
            drawn = scale * torch.randn(size, generator=rng)
            member[name] = torch.ones(size) if "norm" in name else drawn
        members.append(member)
    return {name: torch.stack([m[name] for m in members]) for name in members[0]}


def copy_of(params: Params) -> Params:
    """The same values in new tensors, to be trained."""
    return {name: value.detach().clone() for name, value in params.items()}


def _linear(x: Tensor, weight: Tensor) -> Tensor:
    """(S, N, T, in) by (S, out, in) -> (S, N, T, out), each member by its own weight."""
    s, n, t, width = x.shape
    return torch.bmm(x.reshape(s, n * t, width), weight.mT).view(s, n, t, -1)


def _norm(x: Tensor, weight: Tensor) -> Tensor:
    scale = torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + EPS)
    return x * scale * weight[:, None, None]


def _rotate(x: Tensor, start: int) -> Tensor:
    """Rotary positions from ``start`` on for (R, heads, T, head width)."""
    half = x.shape[-1] // 2
    frequencies = THETA ** (-torch.arange(half) / half)
    angles = torch.arange(start, start + x.shape[-2])[:, None] * frequencies
    cos, sin = angles.cos(), angles.sin()
    a, b = x[..., :half], x[..., half:]
    return torch.cat([a * cos - b * sin, b * cos + a * sin], dim=-1)


def _attention(
    params: Params, layer: str, x: Tensor, heads: int, past: tuple[Tensor, Tensor] | None
) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    s, n, t, width = x.shape
    q, k, v = (
        _linear(x, params[f"{layer}self_attn.{p}_proj.weight"])
        .view(s * n, t, heads, width // heads)
        .transpose(1, 2)
        for p in "qkv"
    )
    start = past[0].shape[2] if past else 0
    q, k = _rotate(q, start), _rotate(k, start)
    if past:
        k, v = torch.cat([past[0], k], dim=2), torch.cat([past[1], v], dim=2)
    found = F.scaled_dot_product_attention(q, k, v, is_causal=t > 1)
    found = found.transpose(1, 2).reshape(s, n, t, width)
    return _linear(found, params[f"{layer}self_attn.o_proj.weight"]), (k, v)


def hidden_states(
    params: Params, ids: Tensor, heads: int, past: Cache | None = None
) -> tuple[Tensor, Cache]:
    """Last hidden states (S, N, T, width) of ids (S, N, T), and the keys and values.

    With ``past``, T is 1: one token more for every row.
    """
    table = params["model.embed_tokens.weight"]
    s, vocab, width = table.shape
    first = torch.arange(s).view(-1, 1, 1) * vocab
    x, cache = F.embedding(ids + first, table.reshape(s * vocab, width)), Cache()
    for k in range(sum(name.endswith("q_proj.weight") for name in params)):
        layer = f"model.layers.{k}."
        normed = _norm(x, params[f"{layer}input_layernorm.weight"])
        found, kept = _attention(params, layer, normed, heads, past[k] if past else None)
        x, cache = x + found, [*cache, kept]
        normed = _norm(x, params[f"{layer}post_attention_layernorm.weight"])
        gate = F.silu(_linear(normed, params[f"{layer}mlp.gate_proj.weight"]))
        up = _linear(normed, params[f"{layer}mlp.up_proj.weight"])
        x = x + _linear(gate * up, params[f"{layer}mlp.down_proj.weight"])
    return _norm(x, params["model.norm.weight"]), cache


def logits(params: Params, hidden: Tensor) -> Tensor:
    """(S, N, T, vocab) by the tied embedding."""
    return _linear(hidden, params["model.embed_tokens.weight"])


def token_logps(params: Params, ids: Tensor, prompt: int, heads: int) -> Tensor:
    """log π of each response token (S, N, T - prompt) in nats, 0 at padding.

    ``ids`` (S, N, T) hold a prompt of ``prompt`` tokens and a response padded on the right.
    """
    hidden, _ = hidden_states(params, ids[..., :-1], heads)
    found = logits(params, hidden[:, :, prompt - 1 :])
    labels = ids[..., prompt:]
    logps = found.gather(-1, labels[..., None])[..., 0] - found.logsumexp(-1)
    return logps * (labels != PAD)


def score(params: Params, ids: Tensor, prompt: int, heads: int, rows: int = 512) -> Tensor:
    """log π(y|x) (S, N) without gradient, ``rows`` rows of each member at a time."""
    with torch.no_grad():
        parts = [token_logps(params, part, prompt, heads).sum(-1) for part in ids.split(rows, 1)]
    return torch.cat(parts, dim=1)


@torch.no_grad()
def sample(
    params: Params,
    prompts: Tensor,
    heads: int,
    noise: Tensor,
    temperature: float = 0.8,
    top_p: float = 0.95,
) -> Tensor:
    """Responses (S, P, n, L) to prompts (S, P, T), padded after the end token.

    ``noise`` (S, P, n, L), uniform in [0, 1), picks each token by the inverse of the cumulative
    distribution in the vocabulary's order, so policies sampled with the same noise are as alike
    as they can be. ``temperature`` 0 is greedy.
    """
    s, p, n, length = noise.shape
    hidden, cache = hidden_states(params, prompts, heads)
    last = logits(params, hidden[:, :, -1:])[:, :, 0].repeat_interleave(n, dim=1)  # (S, P·n, V)
    cache = [(k.repeat_interleave(n, dim=0), v.repeat_interleave(n, dim=0)) for k, v in cache]
    drawn, over = [], torch.zeros(s, p * n, dtype=torch.bool)
    for k in range(length):
        token = _draw(last, noise.view(s, p * n, length)[..., k], temperature, top_p)
        token = token.masked_fill(over, PAD)
        drawn.append(token)
        over = over | (token == END)
        if k == length - 1 or bool(over.all()):
            break
        hidden, cache = hidden_states(params, token[..., None], heads, cache)
        last = logits(params, hidden)[:, :, 0]
    found = torch.stack(drawn, dim=-1)
    return F.pad(found, (0, length - found.shape[-1]), value=PAD).view(s, p, n, length)


def _draw(last: Tensor, noise: Tensor, temperature: float, top_p: float) -> Tensor:
    """One token a row from logits (..., V) and noise (...)."""
    if temperature == 0:
        return last.argmax(-1)
    probs = (last / temperature).softmax(-1)
    ordered, order = probs.sort(-1, descending=True)
    before = ordered.cumsum(-1) - ordered  # the mass above each token
    kept = probs * torch.zeros_like(probs).scatter(-1, order, (before < top_p).float())
    reached = kept.cumsum(-1)
    return (reached <= noise[..., None] * reached[..., -1:]).sum(-1).clamp(max=last.shape[-1] - 1)


def fit(
    params: Params,
    batches: Iterator[Tensor],
    loss: Callable[[Params, Tensor, int], Tensor],
    steps: int,
    learning_rate: float,
    *,
    warmup: float = 0.1,
    weight_decay: float = 0.0,
    beta2: float = 0.999,
    max_norm: float = 1.0,
    before: Callable[[Params, int], None] | None = None,
) -> Tensor:
    """Train all members in place; returns the losses (steps, S).

    ``loss(params, batch, step)`` gives one loss a member; their sum is differentiated, so members
    do not interact, and gradients are clipped member by member. AdamW with a cosine schedule, as
    transformers' ``Trainer`` has it. ``before`` sees the parameters before each step, and after the
    last.
    """
    tensors = list(params.values())
    for tensor in tensors:
        tensor.requires_grad_()
    optimizer = torch.optim.AdamW(
        tensors, learning_rate, (0.9, beta2), weight_decay=weight_decay, fused=True
    )
    schedule = get_cosine_schedule_with_warmup(optimizer, -int(-warmup * steps // 1), steps)
    losses = []
    for step, batch in zip(range(steps), batches, strict=False):
        if before:
            before(params, step)
        found = loss(params, batch, step)
        optimizer.zero_grad()
        found.sum().backward()
        _clip(tensors, max_norm)
        optimizer.step()
        schedule.step()
        losses.append(found.detach())
    if before:
        before(params, steps)
    for tensor in tensors:
        tensor.requires_grad_(False)
        tensor.grad = None
    return torch.stack(losses)


def _clip(tensors: list[Tensor], max_norm: float) -> None:
    """Scale each member's gradient to a norm of at most ``max_norm``."""
    grads = [t.grad for t in tensors if t.grad is not None]
    norm = torch.stack([g.flatten(1).pow(2).sum(1) for g in grads]).sum(0).sqrt()  # (S,)
    scale = (max_norm / (norm + 1e-6)).clamp(max=1.0)
    for grad in grads:
        grad.mul_(scale.view(-1, *[1] * (grad.ndim - 1)))
