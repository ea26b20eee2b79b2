"""Small Llamas, several at a time: parameters stacked over S members, one member a world.

A model of 100,000 parameters spends its time in overhead, so members are trained and sampled
together. They share shape and vocabulary; no number of one enters another's. Parameters have the
names and layouts of transformers' ``LlamaForCausalLM`` with a leading S.
"""

import re
import string
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
import transformers
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor

from wrpo_lib.models import SPECIAL, with_template
from wrpo_lib.nano.world import LETTERS, SKILLS, WORDINGS

Params = dict[str, Tensor]
Cache = list[tuple[Tensor, Tensor]]

EPS, THETA = 1e-6, 20.0  # of RMSNorm; of rotary positions, small because a row has few
PAD, END = 0, 1  # the ids that every vocabulary of the testbed begins with

PATTERNS = {
    "phrase": "[a-z]+ |.",  # a word with the space behind it
    "word": "[a-z]+|.",
    "syllable": "[a-z]{1,2}|.",
    "character": ".",
}
"""Kind of vocabulary -> what its tokens are; what no wording has is spelt in characters."""


@cache
def tokenizer(kind: str) -> transformers.PreTrainedTokenizerFast:
    """A tokenizer of the testbed's words that can spell any other; it renders a prompt as
    ``<user>blend BDAC<assistant>``."""
    texts = [f"{skill} " for skill in SKILLS] + [w.replace("{}", "") for w in WORDINGS]
    words = [token for text in texts for token in re.findall(PATTERNS[kind], text)]
    names = dict.fromkeys([*SPECIAL, *words, *LETTERS, *string.ascii_lowercase, *" .;!?"])
    made = Tokenizer(models.WordLevel({t: k for k, t in enumerate(names)}, unk_token="<pad>"))
    known = sorted({re.escape(w) for w in words}, key=lambda w: (-len(w), w))
    made.pre_tokenizer = pre_tokenizers.Split(Regex("|".join([*known, "."])), "isolated")
    made.decoder = decoders.Fuse()
    return with_template(made, additional_special_tokens=SPECIAL[2:])


@dataclass(frozen=True)
class Shape:
    """What the members of a stack share; ``hidden`` is the width between the MLP's layers."""

    vocab: int
    width: int = 64
    layers: int = 2
    heads: int = 4
    hidden: int = 128

    def llama(self) -> transformers.LlamaForCausalLM:
        """One member as a transformers model, its weights to be loaded."""
        config = transformers.LlamaConfig(
            vocab_size=self.vocab,
            hidden_size=self.width,
            intermediate_size=self.hidden,
            num_hidden_layers=self.layers,
            num_attention_heads=self.heads,
            max_position_embeddings=256,
            rms_norm_eps=EPS,
            rope_parameters={"rope_type": "default", "rope_theta": THETA},
            tie_word_embeddings=True,
            bos_token_id=None,
            eos_token_id=END,
            pad_token_id=PAD,
        )
        return transformers.LlamaForCausalLM(config).eval()


def build(shape: Shape, seeds: list[int]) -> Params:
    """Random members, one per seed: N(0, 1/fan-in), the embedding smaller, and norms of one."""
    rngs, params = [torch.Generator().manual_seed(seed) for seed in seeds], Params()
    with torch.device("meta"):
        parameters = dict(shape.llama().named_parameters())
    for name, one in parameters.items():
        scale = (0.3 if "embed" in name else 1.0) / one.shape[-1] ** 0.5
        drawn = torch.stack([scale * torch.randn(one.shape, generator=rng) for rng in rngs])
        params[name] = torch.ones_like(drawn) if "norm" in name else drawn
    return params


def _linear(x: Tensor, weight: Tensor) -> Tensor:
    """(S, N, T, in) by (S, out, in) -> (S, N, T, out), each member by its own weight."""
    s, n, t, width = x.shape
    return torch.bmm(x.reshape(s, n * t, width), weight.mT).view(s, n, t, -1)


def _norm(x: Tensor, weight: Tensor) -> Tensor:
    scale = torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + EPS)
    return x * scale * weight[:, None, None]


@cache
def _angles(start: int, length: int, half: int) -> tuple[Tensor, Tensor]:
    angles = torch.arange(start, start + length)[:, None] * THETA ** (-torch.arange(half) / half)
    return angles.cos(), angles.sin()


def _rotate(x: Tensor, start: int) -> Tensor:
    """Rotary positions from ``start`` on for (R, heads, T, head width)."""
    a, b = x.chunk(2, dim=-1)
    cos, sin = _angles(start, *a.shape[-2:])
    return torch.cat([a * cos - b * sin, b * cos + a * sin], dim=-1)


def forward(
    params: Params, ids: Tensor, heads: int, past: Cache | None = None, first: int = 0
) -> tuple[Tensor, Cache]:
    """Logits (S, N, T - first, vocab) of ids (S, N, T) from token ``first`` on, keys and values.

    ``past``: keys and values of the tokens before.
    """
    table = params["model.embed_tokens.weight"]
    (s, vocab, width), (_, n, t) = table.shape, ids.shape
    member = torch.arange(s).view(-1, 1, 1) * vocab
    x, cache = F.embedding(ids + member, table.reshape(s * vocab, width)), Cache()
    for layer in range(sum(name.endswith("q_proj.weight") for name in params)):
        name = f"model.layers.{layer}."
        normed = _norm(x, params[f"{name}input_layernorm.weight"])
        q, k, v = (
            _linear(normed, params[f"{name}self_attn.{p}_proj.weight"])
            .view(s * n, t, heads, width // heads)
            .transpose(1, 2)
            for p in "qkv"
        )
        start = past[layer][0].shape[2] if past else 0
        q, k = _rotate(q, start), _rotate(k, start)
        if past:
            k, v = torch.cat([past[layer][0], k], dim=2), torch.cat([past[layer][1], v], dim=2)
        cache.append((k, v))
        seen = torch.ones(t, start + t, dtype=torch.bool).tril(start) if past and t > 1 else None
        causal = t > 1 and not past
        found = F.scaled_dot_product_attention(q, k, v, seen, is_causal=causal)
        found = found.transpose(1, 2).reshape(s, n, t, width)
        x = x + _linear(found, params[f"{name}self_attn.o_proj.weight"])

        normed = _norm(x, params[f"{name}post_attention_layernorm.weight"])
        gate = F.silu(_linear(normed, params[f"{name}mlp.gate_proj.weight"]))
        up = _linear(normed, params[f"{name}mlp.up_proj.weight"])
        x = x + _linear(gate * up, params[f"{name}mlp.down_proj.weight"])
    return _linear(_norm(x, params["model.norm.weight"])[:, :, first:], table), cache


def token_logps(params: Params, ids: Tensor, prompt: int, heads: int) -> Tensor:
    """log π of each response token (S, N, T - prompt) in nats, 0 at padding.

    ``ids`` (S, N, T) hold a prompt of ``prompt`` tokens and a response padded on the right.
    """
    found, _ = forward(params, ids[..., :-1], heads, first=prompt - 1)
    return _logps(found, ids[..., prompt:])


def shared_logps(params: Params, rows: Tensor, prompt: int, heads: int) -> Tensor:
    """log π(y|x) (S, N, R) in nats of R responses to one prompt, which is computed once.

    ``rows`` (S, N, R, T) are as in :func:`token_logps`.
    """
    n, r = rows.shape[1:3]
    first, cache = forward(params, rows[:, :, 0, :prompt], heads, first=prompt - 1)
    labels = rows[..., prompt:].flatten(1, 2)
    rest, _ = forward(params, labels[..., :-1], heads, _repeated(cache, r))
    found = torch.cat([first.repeat_interleave(r, dim=1), rest], dim=2)
    return _logps(found, labels).sum(-1).unflatten(1, (n, r))


def _logps(logits: Tensor, labels: Tensor) -> Tensor:
    found = logits.gather(-1, labels[..., None])[..., 0] - logits.logsumexp(-1)
    return found * (labels != PAD)


def _repeated(cache: Cache, n: int) -> Cache:
    """Keys and values for ``n`` rows after each prompt."""
    return [(k.repeat_interleave(n, dim=0), v.repeat_interleave(n, dim=0)) for k, v in cache]


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
    distribution, so that policies with the same noise differ little. ``temperature`` 0 is greedy.
    """
    s, p, n, length = noise.shape
    last, cache = forward(params, prompts, heads, first=-1)
    last = last.repeat_interleave(n, dim=1)  # (S, P·n, 1, V)
    cache, drawn, over = _repeated(cache, n), [], torch.zeros(s, p * n, dtype=torch.bool)
    for k in range(length):
        if temperature == 0:
            token = last[:, :, 0].argmax(-1)
        else:
            probs = (last[:, :, 0] / temperature).softmax(-1)
            ordered, order = probs.sort(-1, descending=True)
            above = ordered.cumsum(-1) - ordered  # the mass above each token
            kept = torch.zeros_like(probs).scatter(-1, order, (above < top_p).float())
            reached = (probs * kept).cumsum(-1)
            mass = noise.view(s, p * n, length)[..., k, None] * reached[..., -1:]
            token = (reached <= mass).sum(-1).clamp(max=probs.shape[-1] - 1)
        token = token.masked_fill(over, PAD)
        drawn.append(token)
        over = over | (token == END)
        if k == length - 1 or bool(over.all()):
            break
        last, cache = forward(params, token[..., None], heads, cache)
    found = torch.stack(drawn, dim=-1)
    return F.pad(found, (0, length - found.shape[-1]), value=PAD).view(s, p, n, length)


def fit(
    params: Params,
    batches: Iterator[Tensor],
    loss: Callable[[Params, Tensor, int], Tensor],
    spec: Mapping[str, Any],
    before: Callable[[Params, int], object] = lambda params, step: None,
) -> tuple[Params, Tensor]:
    """Train copies of all members; returns them and the losses (steps, S).

    ``loss(params, batch, step)`` gives one loss per member; their sum is differentiated, so members
    do not interact, and gradients are clipped member by member to a norm of 1. AdamW with a cosine
    schedule, as transformers' ``Trainer`` has it; ``spec``: steps, learning_rate, and its warmup,
    weight_decay, beta2. ``before`` sees the parameters before each step, and after the last.
    """
    steps, betas = spec["steps"], (0.9, spec.get("beta2", 0.999))
    params = {name: value.detach().clone().requires_grad_() for name, value in params.items()}
    tensors = list(params.values())
    options = {"weight_decay": spec.get("weight_decay", 0.0), "fused": True}
    optimizer = torch.optim.AdamW(tensors, spec["learning_rate"], betas, **options)
    warmup = -int(-spec.get("warmup", 0.1) * steps // 1)
    schedule = transformers.get_cosine_schedule_with_warmup(optimizer, warmup, steps)
    losses = []
    for step, batch in zip(range(steps), batches, strict=False):
        before(params, step)
        found = loss(params, batch, step)
        optimizer.zero_grad()
        found.sum().backward()
        grads = [t.grad for t in tensors if t.grad is not None]
        scale = (1.0 / (norms(grads) + 1e-6)).clamp(max=1.0)
        for grad in grads:
            grad.mul_(scale.view(-1, *[1] * (grad.ndim - 1)))
        optimizer.step()
        schedule.step()
        losses.append(found.detach())
    before(params, steps)
    return {name: value.detach() for name, value in params.items()}, torch.stack(losses)


def norms(gradients: Iterable[Tensor]) -> Tensor:
    """The norm of each member's gradient (S,)."""
    return torch.stack([g.flatten(1).pow(2).sum(1) for g in gradients]).sum(0).sqrt()
