"""The objective with several source responses and a dispreferred one, in its three forms."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from wrpo_lib.errors import WRPOError
from wrpo_lib.objective import (
    WeightedObjective,
    Weights,
    dpo_loss,
    fusion_weights,
    weighted_ipo_loss,
    weighted_loss,
    weighted_reward,
    weighted_simpo_loss,
    wrpo_ipo_loss,
    wrpo_loss,
    wrpo_simpo_loss,
)

NAMES = ("source_chosen", "source_chosen_2", "source_chosen_3", "target_chosen", "rejected",
         "source_rejected")  # fmt: skip
Values = dict[str, Tensor]
Form = Callable[[Values, Values, Weights], WeightedObjective]
FORMS: dict[str, Form] = {
    "dpo": lambda p, r, w: weighted_loss(p, r, w, beta=0.3),
    "ipo": lambda p, r, w: weighted_ipo_loss(p, r, w, tau=0.2),
    "simpo": lambda p, r, w: weighted_simpo_loss(
        p, {n: -v.round() for n, v in r.items()}, w, beta=2.0, gamma=0.4
    ),
}
PAPER = {
    "dpo": lambda p, r, a: wrpo_loss(*p, *r, alpha=a, beta=0.3),
    "ipo": lambda p, r, a: wrpo_ipo_loss(*p, *r, alpha=a, tau=0.2),
    "simpo": lambda p, r, a: wrpo_simpo_loss(
        *p, *(-v.round() for v in r), alpha=a, beta=2.0, gamma=0.4
    ),
}
shares = st.lists(st.floats(0.01, 1.0), min_size=1, max_size=3).map(
    lambda found: {n: x / sum(found) for n, x in zip(NAMES, found, strict=False)}
)
alphas = st.floats(0.0, 1.0)
seeds = st.integers(0, 2**31 - 1)
fast = settings(max_examples=25, deadline=None)
every_form = pytest.mark.parametrize("form", FORMS)


def values(seed: int) -> tuple[Values, Values]:
    """Policy and reference, float64, (4,) each; the reference's magnitudes serve as lengths."""
    generator = torch.Generator().manual_seed(seed)
    reference = -60 * torch.rand(len(NAMES), 4, generator=generator, dtype=torch.float64) - 1
    policy = reference + 4 * torch.randn(len(NAMES), 4, generator=generator, dtype=torch.float64)
    return dict(zip(NAMES, policy, strict=True)), dict(zip(NAMES, reference, strict=True))


@every_form
@given(seeds, alphas)
@fast
def test_one_source_response_is_the_papers(form: str, seed: int, alpha: float) -> None:
    policy, reference = values(seed)
    three = ("source_chosen", "target_chosen", "rejected")
    found = FORMS[form](policy, reference, fusion_weights(alpha))
    paper = PAPER[form]([policy[n] for n in three], [reference[n] for n in three], alpha)
    torch.testing.assert_close(found.losses, paper.losses)
    torch.testing.assert_close(found.chosen, paper.rewards.fused)
    torch.testing.assert_close(found.rejected, paper.rewards.rejected)


@every_form
@given(seeds, alphas, shares)
@fast
def test_equal_source_responses_make_the_shares_irrelevant(
    form: str, seed: int, alpha: float, shares: dict[str, float]
) -> None:
    policy, reference = values(seed)
    for side in (policy, reference):
        side["source_chosen_2"] = side["source_chosen_3"] = side["source_chosen"]
    several = FORMS[form](policy, reference, fusion_weights(alpha, shares)).losses
    one = FORMS[form](policy, reference, fusion_weights(alpha)).losses
    torch.testing.assert_close(several, one)


@every_form
@given(seeds, alphas, shares, alphas)
@fast
def test_the_margin_is_the_mix_of_the_margins_of_all_pairs(
    form: str, seed: int, alpha: float, shares: dict[str, float], alpha_rejected: float
) -> None:
    """So the loss, convex in the margin, is at most the same mix of the pairs' losses."""
    policy, reference = values(seed)
    weights = fusion_weights(alpha, shares, alpha_rejected)
    assert sum(weights.chosen.values()) == pytest.approx(1)
    assert sum(weights.rejected.values()) == pytest.approx(1)
    found = FORMS[form](policy, reference, weights)
    margin, bound = torch.zeros(4), torch.zeros(4)
    for won, weight in weights.chosen.items():
        for lost, other in weights.rejected.items():
            pair = FORMS[form](policy, reference, Weights({won: 1.0}, {lost: 1.0}))
            margin = margin + weight * other * (pair.chosen - pair.rejected)
            bound = bound + weight * other * pair.losses
    torch.testing.assert_close(found.chosen - found.rejected, margin)
    assert (found.losses <= bound + 1e-9).all()


@every_form
@given(seeds, alphas, shares, alphas)
@fast
def test_gradients_are_shared_out_by_the_weights(
    form: str, seed: int, alpha: float, shares: dict[str, float], alpha_rejected: float
) -> None:
    policy, reference = values(seed)
    policy = {name: value.requires_grad_() for name, value in policy.items()}
    weights = fusion_weights(alpha, shares, alpha_rejected)
    found = FORMS[form](policy, reference, weights)
    assert not any(reward.requires_grad for reward in found.rewards.values())
    found.losses.sum().backward()
    signed = {**weights.chosen, **{n: -w for n, w in weights.rejected.items()}}
    pulls = []
    for name, weight in signed.items():
        gradient = policy[name].grad
        assert gradient is not None
        if form == "simpo":  # a mean over the response's tokens
            gradient = gradient * -reference[name].round()
        if abs(weight) > 1e-3:
            pulls.append(gradient / weight)
        elif weight == 0:
            assert not gradient.any()
    for pull in pulls[1:]:
        torch.testing.assert_close(pull, pulls[0], rtol=1e-6, atol=1e-9)
    for name in set(policy) - set(signed):
        assert policy[name].grad is None or not policy[name].grad.any()


@given(seeds)
@fast
def test_the_ends_of_alpha_rejected(seed: int) -> None:
    """0 is WRPO; with alpha 1 as well, 1 is DPO on two source responses (DPO-off's pair)."""
    policy, reference = values(seed)
    between = FORMS["dpo"](policy, reference, fusion_weights(1.0, None, 1.0)).losses
    off = dpo_loss(policy["source_chosen"], policy["source_rejected"],
                   reference["source_chosen"], reference["source_rejected"], beta=0.3)  # fmt: skip
    torch.testing.assert_close(between, off.losses)
    assert fusion_weights(0.4, None, 0.0) == fusion_weights(0.4)
    assert "source_rejected" not in fusion_weights(0.4).rejected


@every_form
@given(seeds)
@fast
def test_a_normaliser_of_the_prompt_cancels(form: str, seed: int) -> None:
    """β·log Z(x) added to every reward; SimPO has no reference that could carry one."""
    if form == "simpo":
        return
    policy, reference = values(seed)
    weights = fusion_weights(0.3, {"source_chosen": 0.5, "source_chosen_2": 0.5}, 0.2)
    moved = {name: value + 7.5 for name, value in policy.items()}
    torch.testing.assert_close(
        FORMS[form](moved, reference, weights).losses,
        FORMS[form](policy, reference, weights).losses,
    )


def test_a_response_of_weight_zero_may_be_missing() -> None:
    policy, reference = values(0)
    whole = FORMS["dpo"](policy, reference, fusion_weights(0.0)).losses
    del policy["source_chosen"]
    torch.testing.assert_close(FORMS["dpo"](policy, reference, fusion_weights(0.0)).losses, whole)
    with pytest.raises(WRPOError, match="no log-probabilities of 'source_chosen'"):
        FORMS["dpo"](policy, reference, fusion_weights(0.1))


@pytest.mark.parametrize("bad", [{}, {"source_chosen": 0.5}, {"a": 1.5, "b": -0.5}])
def test_shares_that_are_none_are_refused(bad: dict[str, float]) -> None:
    with pytest.raises(WRPOError, match="give numbers of 0 or more that sum to 1"):
        fusion_weights(0.5, bad)


def test_other_bad_weights_and_shapes() -> None:
    with pytest.raises(WRPOError, match=r"alpha_rejected is 1\.5"):
        fusion_weights(0.5, None, 1.5)
    with pytest.raises(WRPOError, match=r"alpha is -0\.1"):
        fusion_weights(-0.1)
    policy, reference = values(0)
    policy["rejected"] = policy["rejected"].unsqueeze(1)
    with pytest.raises(WRPOError, match="must share one shape"):
        weighted_loss(policy, reference, fusion_weights(0.5), beta=0.1)
    assert weighted_reward({"a": torch.ones(2)}, {"a": 0.5, "b": 0.0}).tolist() == [0.5, 0.5]
