"""Attention of a packed row, compiled and by tiles, is attention under the row's mask."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from wrpo_lib.cpu import attention
from wrpo_lib.sharing import Branches

ROWS = {
    "one example": ((40, (30, 21, 5)),),
    "long stretches": ((300, (270, 513)), (20, (257,))),
    "prompts of one token": ((1, (9, 1)), (1, (1,))),
    "filled up": ((33, (40, 2)), (6, ())),
    "a prompt alone": ((70, ()),),
    "empty responses": ((5, (0, 3)), (4, (0,)), (9, (2, 0))),
    "no prompt": ((0, (50, 1)), (7, (3,)), (0, (0, 2))),
    "whole tiles and blocks": ((48, (64, 47)), (96, (49, 63)), (128, (65, 192))),
    "one token": ((1, ()),),
}


def states(branches: Branches, heads: int, key_heads: int, width: int) -> list[Tensor]:
    """Queries, keys and values in the layout that a model gives them, (1, H, T, D)."""
    torch.manual_seed(0)
    n = branches.n_tokens
    return [
        torch.randn(1, n, h, width).transpose(1, 2).requires_grad_()
        for h in (heads, key_heads, key_heads)
    ]


def assert_as_torch(
    branches: Branches, heads: int = 6, key_heads: int = 2, width: int = 16
) -> None:
    """Values and gradients of attention and of torch's under the row's mask."""
    query, key, value = states(branches, heads, key_heads, width)
    weight = torch.randn(1, heads, branches.n_tokens, width)

    def gradients(out: Tensor) -> tuple[Tensor, ...]:
        return torch.autograd.grad((out * weight).sum(), (query, key, value))

    groups = heads // key_heads
    repeated = (t.repeat_interleave(groups, dim=1) for t in (key, value))
    expected = scaled_dot_product_attention(query, *repeated, attn_mask=branches.mask(), scale=0.3)
    found = attention.attend(query, key, value, branches, 0.3)
    assert torch.allclose(found, expected, atol=1e-5 * (1 + float(expected.detach().abs().max())))
    for mine, other in zip(gradients(found), gradients(expected), strict=True):
        assert torch.allclose(mine, other, atol=1e-5 * (1 + float(other.abs().max())))


@pytest.mark.parametrize("name", list(ROWS))
@pytest.mark.parametrize(("heads", "key_heads"), [(4, 4), (6, 2), (3, 1)])
def test_values_and_gradients(name: str, heads: int, key_heads: int) -> None:
    assert_as_torch(Branches(ROWS[name]), heads, key_heads)


@pytest.mark.parametrize("width", [8, 40, 48, 64, 80, 112, 256])
def test_sizes_of_a_head(width: int) -> None:
    """Those that the compiled code does not take (8, 40) go another way."""
    assert_as_torch(Branches(ROWS["one example"]), width=width)


@pytest.mark.parametrize("threads", [1, 2, 3, 40])
def test_numbers_of_threads(threads: int) -> None:
    """Each sums its share of keys' and values' gradients; the same number gives the same again."""
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        assert_as_torch(Branches(ROWS["long stretches"]))
        given = states(Branches(ROWS["long stretches"]), 6, 2, 16)
        first, second = (
            torch.autograd.grad(
                attention.attend(*given, Branches(ROWS["long stretches"]), None).square().sum(),
                given,
            )
            for _ in range(2)
        )
        assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    finally:
        torch.set_num_threads(before)


def test_what_is_not_a_number_is_not_hidden() -> None:
    branches = Branches(ROWS["one example"])
    query, key, value = states(branches, 2, 2, 16)
    with torch.no_grad():
        key[0, 1, 20, 3] = torch.nan
    out = attention.attend(query, key, value, branches, None)
    assert out[0, 1, 20:].isnan().any(-1).all(), "all that see the key, at 20 of the prompt's 40"
    assert out[0, 0].isfinite().all()


def test_scores_far_apart() -> None:
    """Weights too small for a float are 0, in the gradients too."""
    branches = Branches(((64, (64, 40)),))
    given = states(branches, 2, 1, 16)
    spread = [(t.detach() * 30).requires_grad_() for t in given[:2]] + given[2:]
    weight = torch.randn(1, 2, branches.n_tokens, 16)
    double = [t.detach().double().requires_grad_() for t in spread]
    repeated = (t.repeat_interleave(2, dim=1) for t in double[1:])
    expected = scaled_dot_product_attention(double[0], *repeated, attn_mask=branches.mask())
    found = attention.attend(*spread, branches, None)
    assert torch.allclose(found.double(), expected, atol=1e-3)
    wanted = torch.autograd.grad(expected, double, weight.double())
    for mine, other in zip(torch.autograd.grad(found, spread, weight), wanted, strict=True):
        assert torch.allclose(mine.double(), other, atol=1e-3 * float(other.abs().max()))


def test_numbers_that_do_not_lie_side_by_side() -> None:
    """Compiled code would read what lies there instead, without a word."""
    branches = Branches(ROWS["one example"])
    plain = states(branches, 4, 2, 16)
    spread = [t.detach().mT.contiguous().mT.requires_grad_() for t in plain]
    found, expected = (
        torch.autograd.grad(attention.attend(*given, branches, None).sum(), given)
        for given in (spread, plain)
    )  # the gradient of a sum is one number, repeated without a copy
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(found, expected, strict=True))
    weight = torch.ones(1, 4, branches.n_tokens, 16)
    dense = torch.autograd.grad(attention.attend(*plain, branches, None), plain, weight)
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(found, dense, strict=True))


def test_large_scores_stay_finite() -> None:
    """The halves of a softmax are weighed by logarithms, so none of them overflows."""
    branches = Branches(((64, (64, 64)),))
    query, key, value = states(branches, 2, 2, 16)
    out = attention.attend(query * 100, key * 100, value, branches, None)
    expected = scaled_dot_product_attention(
        query * 100, key * 100, value, attn_mask=branches.mask()
    )
    assert torch.allclose(out, expected, atol=1e-4)


def test_the_usual_scale_is_that_of_the_head_size() -> None:
    branches = Branches(ROWS["one example"])
    query, key, value = states(branches, 2, 2, 16)
    assert torch.equal(
        attention.attend(query, key, value, branches, None),
        attention.attend(query, key, value, branches, 0.25),
    )


def test_which_rows_are_taken() -> None:
    query = torch.zeros(1, 2, 200, 16)
    long, short = Branches(((100, (100,)),)), Branches(((10, (95, 95)), (4, (1, 1))))

    def taken(*, key: Tensor = query, value: Tensor = query, row: Branches = long, p: float = 0.0,
              query: Tensor = query) -> bool:  # fmt: skip
        return attention.takes(query, key, value, row, p)

    assert taken()
    assert taken(key=query[:, :1], value=query[:, :1])
    assert not taken(p=0.1), "dropout is torch's to draw"
    assert not taken(row=short), "stretches too short to be worth it"
    assert not taken(row=Branches(((100, (101,)),))), "a row of other tokens"
    assert not taken(query=query.bfloat16())
    assert not taken(value=query.double())
    assert not taken(value=torch.zeros(1, 2, 200, 32)), "values of another size than keys"
    three = torch.zeros(1, 3, 200, 16)
    assert not taken(query=three), "heads that do not divide"
