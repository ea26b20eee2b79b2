"""Every identity the paper's objectives obey, and the errors that would break them silently."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.autograd import gradcheck
from transformers import get_cosine_schedule_with_warmup

from wrpo_lib.errors import WRPOError
from wrpo_lib.objective import (
    SCHEDULES,
    Objective,
    alpha_at,
    dpo_loss,
    ipo_loss,
    simpo_loss,
    wrpo_ipo_loss,
    wrpo_loss,
    wrpo_simpo_loss,
)

alphas = st.floats(0.0, 1.0)
betas = st.floats(0.005, 2.0)
seeds = st.integers(0, 2**31 - 1)
fast = settings(max_examples=40, deadline=None)


def logps(seed: int, batch: int = 5) -> tuple[Tensor, ...]:
    """Policy then reference log-probabilities of y_ws, y_wt, y_l, float64, (B,) each."""
    generator = torch.Generator().manual_seed(seed)
    reference = -100 * torch.rand(3, batch, generator=generator, dtype=torch.float64) - 1
    policy = reference + 4 * torch.randn(3, batch, generator=generator, dtype=torch.float64)
    return (*policy, *reference)


def lengths(seed: int, batch: int = 5) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(seed + 1)
    return tuple(torch.randint(1, 60, (3, batch), generator=generator).double())


def hybrid_and_on(values: tuple[Tensor, ...], beta: float) -> tuple[Objective, Objective]:
    ws, wt, yl, ref_ws, ref_wt, ref_yl = values
    hybrid = dpo_loss(ws, yl, ref_ws, ref_yl, beta=beta)
    return hybrid, dpo_loss(wt, yl, ref_wt, ref_yl, beta=beta)


@given(seeds, alphas, betas)
@fast
def test_margin_is_the_convex_mix_of_hybrid_and_on_policy(
    seed: int, alpha: float, beta: float
) -> None:
    values = logps(seed)
    hybrid, on = (o.rewards.fused - o.rewards.rejected for o in hybrid_and_on(values, beta))
    rewards = wrpo_loss(*values, alpha=alpha, beta=beta).rewards
    torch.testing.assert_close(
        rewards.fused - rewards.rejected, alpha * hybrid + (1 - alpha) * on, rtol=0, atol=1e-9
    )


@given(seeds, alphas, betas)
@fast
def test_loss_is_bounded_by_the_convex_mix_of_losses(seed: int, alpha: float, beta: float) -> None:
    values = logps(seed)
    hybrid, on = (o.losses for o in hybrid_and_on(values, beta))
    losses = wrpo_loss(*values, alpha=alpha, beta=beta).losses
    assert (losses <= alpha * hybrid + (1 - alpha) * on + 1e-9).all()


@given(seeds, alphas, betas, st.floats(-50, 50))
@fast
def test_the_partition_function_cancels(seed: int, alpha: float, beta: float, log_z: float) -> None:
    """β·log Z(x) added to every response's reward (a shift of its log-ratio) changes no loss."""
    ws, wt, yl, *reference = logps(seed)
    shifted = (ws + log_z, wt + log_z, yl + log_z)
    torch.testing.assert_close(
        wrpo_loss(*shifted, *reference, alpha=alpha, beta=beta).losses,
        wrpo_loss(ws, wt, yl, *reference, alpha=alpha, beta=beta).losses,
    )


@given(seeds, alphas, betas)
@fast
def test_gradient_has_weights_alpha_one_minus_alpha_minus_one(
    seed: int, alpha: float, beta: float
) -> None:
    values = logps(seed)
    policy = [p.clone().requires_grad_() for p in values[:3]]
    result = wrpo_loss(*policy, *values[3:], alpha=alpha, beta=beta)
    found = torch.autograd.grad(result.losses.sum(), policy)
    margin = result.rewards.fused - result.rewards.rejected
    strength = -beta * torch.sigmoid(-margin)
    for gradient, weight in zip(found, (alpha, 1 - alpha, -1.0), strict=True):
        torch.testing.assert_close(gradient, strength * weight)


@given(seeds, alphas, alphas)
@fast
def test_the_dispreferred_response_takes_its_share_of_the_rejected_side(
    seed: int, alpha: float, share: float
) -> None:
    values, (ls, _, _, ref_ls, _, _) = logps(seed), logps(seed + 1)
    extra = {"policy_dispreferred": ls, "ref_dispreferred": ref_ls, "alpha_rejected": share}
    plain = wrpo_loss(*values, alpha=alpha, beta=0.5).rewards
    mixed = wrpo_loss(*values, alpha=alpha, beta=0.5, **extra)
    rejected = share * 0.5 * (ls - ref_ls) + (1 - share) * plain.rejected
    torch.testing.assert_close(mixed.rewards.rejected, rejected)
    torch.testing.assert_close(mixed.losses, -F.logsigmoid(plain.fused - rejected))


@pytest.mark.parametrize("form", ["dpo", "ipo", "simpo"])
def test_gradients_flow_through_losses_and_not_through_rewards(form: str) -> None:
    values, tokens = logps(11, batch=3), lengths(11, batch=3)
    policy = tuple(p.clone().requires_grad_() for p in values[:3])
    loss = {
        "dpo": lambda *p: wrpo_loss(*p, *values[3:], alpha=0.3, beta=0.2),
        "ipo": lambda *p: wrpo_ipo_loss(*p, *values[3:], alpha=0.3, tau=0.5),
        "simpo": lambda *p: wrpo_simpo_loss(*p, *tokens, alpha=0.3, beta=2.0, gamma=0.5),
    }[form]
    assert gradcheck(lambda *p: loss(*p).losses, policy)
    assert not any(reward.requires_grad for reward in loss(*policy).rewards)


@given(seeds, alphas)
@fast
def test_closed_forms(seed: int, alpha: float) -> None:
    """Each loss written out once more, straight from the paper's tables."""
    ws, wt, yl, ref_ws, ref_wt, ref_yl = values = logps(seed)
    n_ws, n_wt, n_yl = n = lengths(seed)
    lr = [ws - ref_ws, wt - ref_wt, yl - ref_yl]
    margin = alpha * lr[0] + (1 - alpha) * lr[1] - lr[2]
    dpo = -torch.log(torch.sigmoid(0.1 * margin))
    ipo = (margin - 1 / (2 * 0.05)) ** 2
    average = alpha * 2 / n_ws * ws + (1 - alpha) * 2 / n_wt * wt - 2 / n_yl * yl
    simpo = -torch.log(torch.sigmoid(average - 0.7))
    close = torch.testing.assert_close
    close(wrpo_loss(*values, alpha=alpha, beta=0.1).losses, dpo)
    close(wrpo_ipo_loss(*values, alpha=alpha, tau=0.05).losses, ipo)
    close(
        wrpo_simpo_loss(*values[:3], *n, alpha=alpha, beta=2.0, gamma=0.7).losses,
        simpo,
        rtol=1e-6,
        atol=1e-6,
    )


@given(seeds, st.sampled_from([0.0, 1.0]))
@fast
def test_the_ends_of_alpha_are_pairwise_methods(seed: int, alpha: float) -> None:
    """alpha 0: the pair (y_wt, y_l), on-policy; alpha 1: the pair (y_ws, y_l), hybrid."""
    ws, wt, yl, ref_ws, ref_wt, ref_yl = values = logps(seed)
    n_ws, n_wt, n_yl = n = lengths(seed)
    chosen, ref, n_w = (ws, ref_ws, n_ws) if alpha else (wt, ref_wt, n_wt)
    close = torch.testing.assert_close
    close(
        wrpo_loss(*values, alpha=alpha, beta=0.1).losses,
        dpo_loss(chosen, yl, ref, ref_yl, beta=0.1).losses,
    )
    close(
        wrpo_ipo_loss(*values, alpha=alpha, tau=0.1).losses,
        ipo_loss(chosen, yl, ref, ref_yl, tau=0.1).losses,
    )
    close(
        wrpo_simpo_loss(*values[:3], *n, alpha=alpha, beta=5.0, gamma=1.0).losses,
        simpo_loss(chosen, yl, n_w, n_yl, beta=5.0, gamma=1.0).losses,
    )


@given(seeds, alphas, betas)
@fast
def test_starts_at_log_two_with_rewards_zero(seed: int, alpha: float, beta: float) -> None:
    reference = logps(seed)[3:]
    result = wrpo_loss(*reference, *reference, alpha=alpha, beta=beta)
    torch.testing.assert_close(
        result.losses, torch.full_like(result.losses, math.log(2)), rtol=0, atol=1e-12
    )
    assert all((reward == 0).all() for reward in result.rewards)
    ipo = wrpo_ipo_loss(*reference, *reference, alpha=alpha, tau=0.1)
    torch.testing.assert_close(ipo.losses, torch.full_like(ipo.losses, 25.0))


def test_simpo_knows_no_reference_but_knows_length() -> None:
    """The same log-probability spread over more tokens is a better response to SimPO."""
    same = torch.full((2,), -20.0)
    short, long = torch.full((2,), 4.0), torch.full((2,), 40.0)
    rewards = simpo_loss(same, same, long, short, beta=2.0, gamma=0.0).rewards
    torch.testing.assert_close(rewards.fused, torch.full((2,), -1.0))
    torch.testing.assert_close(rewards.rejected, torch.full((2,), -10.0))


# --- shapes ---------------------------------------------------------------------------------


@pytest.mark.parametrize("position", range(6))
@pytest.mark.parametrize("shape", [(5, 1), (), (4,)])
@pytest.mark.parametrize(
    ("loss", "strength"),
    [
        (wrpo_loss, {"beta": 0.1}),
        (wrpo_ipo_loss, {"tau": 0.1}),
        (wrpo_simpo_loss, {"beta": 0.1, "gamma": 0.0}),
    ],
)
def test_other_shapes_are_refused(
    position: int, shape: tuple[int, ...], loss: Any, strength: dict[str, float]
) -> None:
    """The official code compares a (B,) with a (B, 1) tensor, so each row with every other."""
    values = list(logps(1))
    values[position] = torch.zeros(shape)
    with pytest.raises(WRPOError, match=r"share one shape \(B,\)"):
        loss(*values, alpha=0.5, **strength)
    values[(position + 3) % 6] = torch.zeros(shape)  # policy and reference wrong in the same way
    with pytest.raises(WRPOError, match=r"share one shape \(B,\)"):
        loss(*values, alpha=0.5, **strength)


@pytest.mark.parametrize("alpha", [-0.01, 1.01, math.nan, math.inf])
def test_alpha_outside_its_range_is_refused(alpha: float) -> None:
    values = logps(1)
    with pytest.raises(WRPOError, match=r"outside \[0, 1\]"):
        wrpo_loss(*values, alpha=alpha, beta=0.1)
    with pytest.raises(WRPOError, match=r"outside \[0, 1\]"):
        wrpo_loss(*values, alpha=0.5, beta=0.1, alpha_rejected=alpha)
    with pytest.raises(WRPOError, match=r"outside \[0, 1\]"):
        alpha_at("linear", 0, 10, alpha)


# --- schedules ------------------------------------------------------------------------------


@given(st.integers(1, 500), alphas, st.data())
@fast
def test_schedule_equations(n_steps: int, alpha_max: float, data: st.DataObject) -> None:
    step = data.draw(st.integers(0, n_steps))
    assert alpha_at("constant", step, n_steps, alpha_max) == alpha_max
    linear = alpha_at("linear", step, n_steps, alpha_max)
    assert linear == pytest.approx(alpha_max * step / n_steps)
    quadratic = alpha_at("quadratic", step, n_steps, alpha_max)
    assert quadratic == pytest.approx(alpha_max * (step / n_steps) ** 2)
    assert 0 <= quadratic <= linear <= alpha_max


def test_linear_schedule_begins_at_zero_and_ends_one_step_short() -> None:
    values = [alpha_at("linear", t, 311, 0.1) for t in range(311)]
    assert values[0] == 0.0
    assert values[-1] == pytest.approx(0.1 * 310 / 311)
    assert values == sorted(values)


def test_mean_weight_of_the_sources() -> None:
    """With alpha_max 0.1: 5.0 % over the 311 steps, 3.4 % when weighted by the learning rate."""
    optimiser = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = get_cosine_schedule_with_warmup(optimiser, math.ceil(0.1 * 311), 311)
    rate, values = torch.zeros(311), torch.zeros(311)
    for step in range(311):
        rate[step], values[step] = scheduler.get_last_lr()[0], alpha_at("linear", step, 311, 0.1)
        optimiser.step()
        scheduler.step()
    weighted = (values * rate).sum() / rate.sum()
    assert values.mean().item() == pytest.approx(0.050, abs=3e-4)
    assert weighted.item() == pytest.approx(0.034, abs=5e-4)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_schedules_hold_at_the_edges(schedule: str) -> None:
    start = 0.3 if schedule == "constant" else 0.0
    assert alpha_at(schedule, 0, 0, 0.3) == start  # the official code divides by zero here
    assert alpha_at(schedule, 5, 0, 0.3) == start
    assert alpha_at(schedule, 12, 10, 0.3) == 0.3  # it overshoots here
    assert alpha_at(schedule, -1, 10, 0.3) == start
