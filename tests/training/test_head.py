"""The head on CPU gives the log-probabilities and gradients of a plain log-softmax."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck
from transformers import CohereConfig, CohereForCausalLM, LlamaForCausalLM
from trl.trainer.utils import add_fused_lm_head

from wrpo_lib.cpu import head
from wrpo_lib.cpu.head import add_cpu_head, token_log_probs


def inputs(dtype: torch.dtype, n: int = 7) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(n)
    hidden = torch.randn(n, 4, generator=generator, dtype=dtype, requires_grad=True)
    weight = torch.randn(11, 4, generator=generator, dtype=dtype, requires_grad=True)
    return hidden, weight, torch.randint(0, 11, (n,), generator=generator)


@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.parametrize("rows", [2, 3, 256])
def test_values_and_gradients(rows: int, keep: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many tiles there are, the last one smaller or not."""
    monkeypatch.setattr(head, "ROWS", rows)
    hidden, weight, labels = inputs(torch.float64)
    expected = (hidden @ weight.T).log_softmax(-1).gather(-1, labels[:, None])[:, 0]
    torch.testing.assert_close(token_log_probs(hidden, weight, labels, keep=keep), expected)
    assert gradcheck(lambda h, w: token_log_probs(h, w, labels, keep=keep), (hidden, weight))


def test_kept_logits_serve_one_backward_pass_and_are_made_anew_for_others() -> None:
    hidden, weight, labels = inputs(torch.float32)
    found = token_log_probs(hidden, weight, labels, keep=True)
    first, second = (torch.autograd.grad(found.sum(), hidden, retain_graph=True) for _ in "ab")
    torch.testing.assert_close(first, second)


def test_a_frozen_head_gets_no_gradient() -> None:
    hidden, weight, labels = inputs(torch.float32)
    token_log_probs(hidden, weight.detach(), labels).sum().backward()
    assert weight.grad is None
    assert hidden.grad is not None


def test_it_takes_the_calls_it_can_and_leaves_the_others_to_trl(
    model: LlamaForCausalLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    ordinary = head.token_log_probs
    monkeypatch.setattr(
        head,
        "token_log_probs",
        lambda *args, **kwargs: calls.append(len(args[0])) or ordinary(*args, **kwargs),
    )
    theirs, ours = copy.deepcopy(model), copy.deepcopy(model)
    add_fused_lm_head(theirs)
    add_fused_lm_head(ours)
    add_cpu_head(ours)
    ids = torch.tensor([[4, 5, 6, 7]])
    shifted = {"input_ids": ids, "shift_labels": torch.tensor([[5, 6, 7, 1]])}
    for kwargs, taken in [
        (shifted | {"fused_lm_head": True}, [4]),
        ({"input_ids": ids, "labels": ids, "fused_lm_head": True}, []),
    ]:
        calls.clear()
        found, expected = ours(**kwargs).log_probs, theirs(**kwargs).log_probs
        assert calls == taken
        torch.testing.assert_close(found, expected)
    calls.clear()
    torch.testing.assert_close(ours(input_ids=ids).logits, theirs(input_ids=ids).logits)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        ours(**shifted, fused_lm_head=True)
    assert calls == []


def test_a_head_that_scales_its_logits_is_left_alone() -> None:
    config = CohereConfig(vocab_size=11, hidden_size=8, intermediate_size=8, num_hidden_layers=1,
                          num_attention_heads=2, logit_scale=0.5, pad_token_id=0, bos_token_id=1,
                          eos_token_id=2)  # fmt: skip
    scaled = CohereForCausalLM(config)
    add_fused_lm_head(scaled)
    before = scaled.forward
    add_cpu_head(scaled)
    assert scaled.forward == before
