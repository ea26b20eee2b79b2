"""Every identity the paper's objectives obey, and the errors that would break them silently."""

import math
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.autograd import gradcheck

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
assert_close = partial(torch.testing.assert_close, rtol=1e-7, atol=1e-9)


def logps(seed: int, batch: int = 5) -> tuple[Tensor, ...]:
    """Policy then reference log-probabilities of y_ws, y_wt, y_l, float64, (B,) each."""
    generator = torch.Generator().manual_seed(seed)
    reference = -100 * torch.rand(3, batch, generator=generator, dtype=torch.float64) - 1
    policy = reference + 4 * torch.randn(3, batch, generator=generator, dtype=torch.float64)
    return (*policy, *reference)


def lengths(seed: int, batch: int = 5) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(seed + 1)
    return tuple(torch.randint(1, 60, (3, batch), generator=generator).double())


def forms(seed: int) -> dict[str, Any]:
    """Each form with its settings: WRPO's loss, the pairwise one, what both take beside πθ."""
    reference = logps(seed)[3:]
    simpo = {"beta": 2.0, "gamma": 0.7}
    return {
        "dpo": (partial(wrpo_loss, beta=0.1), partial(dpo_loss, beta=0.1), reference),
        "ipo": (partial(wrpo_ipo_loss, tau=0.05), partial(ipo_loss, tau=0.05), reference),
        "simpo": (partial(wrpo_simpo_loss, **simpo), partial(simpo_loss, **simpo), lengths(seed)),
    }


def margin(objective: Objective) -> Tensor:
    return objective.rewards.fused - objective.rewards.rejected


@given(seeds, alphas, betas)
@fast
def test_wrpo_mixes_hybrid_and_on_policy(seed, alpha, beta):
    """Its margin is their convex mix; its loss is at most the mix of their losses."""
    ws, wt, yl, ref_ws, ref_wt, ref_yl = values = logps(seed)
    hybrid = dpo_loss(ws, yl, ref_ws, ref_yl, beta=beta)
    on = dpo_loss(wt, yl, ref_wt, ref_yl, beta=beta)
    found = wrpo_loss(*values, alpha=alpha, beta=beta)
    assert_close(margin(found), alpha * margin(hybrid) + (1 - alpha) * margin(on))
    assert (found.losses <= alpha * hybrid.losses + (1 - alpha) * on.losses + 1e-9).all()


@given(seeds, alphas, betas, st.floats(-50, 50))
@fast
def test_the_partition_function_cancels(seed, alpha, beta, log_z):
    """β·log Z(x) added to every response's reward (a shift of its log-ratio) changes no loss."""
    ws, wt, yl, *reference = logps(seed)
    shifted = (ws + log_z, wt + log_z, yl + log_z)
    assert_close(
        wrpo_loss(*shifted, *reference, alpha=alpha, beta=beta).losses,
        wrpo_loss(ws, wt, yl, *reference, alpha=alpha, beta=beta).losses,
    )


@given(seeds, alphas, betas)
@fast
def test_gradient_has_weights_alpha_one_minus_alpha_minus_one(seed, alpha, beta):
    values = logps(seed)
    policy = [p.clone().requires_grad_() for p in values[:3]]
    result = wrpo_loss(*policy, *values[3:], alpha=alpha, beta=beta)
    found = torch.autograd.grad(result.losses.sum(), policy)
    strength = -beta * torch.sigmoid(-margin(result))
    for gradient, weight in zip(found, (alpha, 1 - alpha, -1.0), strict=True):
        assert_close(gradient, strength * weight)


@given(seeds, alphas, alphas)
@fast
def test_the_dispreferred_response_takes_its_share_of_the_rejected_side(seed, alpha, share):
    values, (ls, _, _, ref_ls, _, _) = logps(seed), logps(seed + 1)
    extra = {"policy_dispreferred": ls, "ref_dispreferred": ref_ls, "alpha_rejected": share}
    plain = wrpo_loss(*values, alpha=alpha, beta=0.5).rewards
    mixed = wrpo_loss(*values, alpha=alpha, beta=0.5, **extra)
    rejected = share * 0.5 * (ls - ref_ls) + (1 - share) * plain.rejected
    assert_close(mixed.rewards.rejected, rejected)
    assert_close(mixed.losses, -F.logsigmoid(plain.fused - rejected))


@pytest.mark.parametrize("form", ["dpo", "ipo", "simpo"])
def test_gradients_flow_through_losses_and_not_through_rewards(form):
    loss, _, others = forms(11)[form]
    policy = tuple(p.clone().requires_grad_() for p in logps(11)[:3])
    assert gradcheck(lambda *p: loss(*p, *others, alpha=0.3).losses, policy)
    assert not any(reward.requires_grad for reward in loss(*policy, *others, alpha=0.3).rewards)


@given(seeds, alphas)
@fast
def test_closed_forms_and_the_ends_of_alpha(seed, alpha):
    """Each loss from the paper's tables; alpha 0 is on-policy, (y_wt, y_l), alpha 1 hybrid."""
    ws, wt, yl, ref_ws, ref_wt, ref_yl = logps(seed)
    n_ws, n_wt, n_yl = lengths(seed)
    lr = alpha * (ws - ref_ws) + (1 - alpha) * (wt - ref_wt) - (yl - ref_yl)
    average = alpha * 2 / n_ws * ws + (1 - alpha) * 2 / n_wt * wt - 2 / n_yl * yl
    expected = {
        "dpo": -torch.log(torch.sigmoid(0.1 * lr)),
        "ipo": (lr - 1 / (2 * 0.05)) ** 2,
        "simpo": -torch.log(torch.sigmoid(average - 0.7)),
    }
    for form, (loss, pairwise, others) in forms(seed).items():
        found = loss(ws, wt, yl, *others, alpha=alpha).losses
        assert_close(found, expected[form], rtol=1e-6, atol=1e-6)
        for end, chosen, other in ((0.0, wt, others[1]), (1.0, ws, others[0])):
            found = loss(ws, wt, yl, *others, alpha=end).losses
            assert_close(found, pairwise(chosen, yl, other, others[2]).losses)


@given(seeds, alphas, betas)
@fast
def test_starts_at_log_two_with_rewards_zero(seed, alpha, beta):
    reference = logps(seed)[3:]
    result = wrpo_loss(*reference, *reference, alpha=alpha, beta=beta)
    assert_close(result.losses, torch.full_like(result.losses, math.log(2)), rtol=0, atol=1e-12)
    assert all((reward == 0).all() for reward in result.rewards)
    ipo = wrpo_ipo_loss(*reference, *reference, alpha=alpha, tau=0.1)
    assert_close(ipo.losses, torch.full_like(ipo.losses, 25.0))


@pytest.mark.parametrize("position", range(6))
@pytest.mark.parametrize("form", ["dpo", "ipo", "simpo"])
def test_other_shapes_are_refused(position, form):
    """The official code compares a (B,) with a (B, 1) tensor, so each row with every other."""
    for shape in ((5, 1), (), (4,)):
        values, loss = list(logps(1)), forms(1)[form][0]
        for place in (position, (position + 3) % 6):  # then policy and reference wrong alike
            values[place] = torch.zeros(shape)
            with pytest.raises(WRPOError, match=r"share one shape \(B,\)"):
                loss(*values, alpha=0.5)


@pytest.mark.parametrize("alpha", [-0.01, 1.01, math.nan])
@pytest.mark.parametrize("name", ["alpha", "alpha_rejected"])
def test_a_weight_outside_its_range_or_without_its_response_is_refused(name, alpha):
    with pytest.raises(WRPOError, match="needs both log-probabilities of the dispreferred"):
        wrpo_loss(*logps(0), alpha=0.5, beta=1.0, alpha_rejected=0.1)
    with pytest.raises(WRPOError, match=r"outside \[0, 1\]"):
        wrpo_loss(*logps(1), **{"alpha": 0.5, name: alpha}, beta=0.1)
    with pytest.raises(WRPOError, match=r"outside \[0, 1\]"):
        alpha_at("linear", 0, 10, alpha)


@given(st.integers(1, 500), alphas, st.data())
@fast
def test_schedule_equations(n_steps, alpha_max, data):
    step = data.draw(st.integers(0, n_steps))
    found = {name: alpha_at(name, step, n_steps, alpha_max) for name in SCHEDULES}
    assert found["constant"] == alpha_max
    assert found["linear"] == pytest.approx(alpha_max * step / n_steps)
    assert found["quadratic"] == pytest.approx(alpha_max * (step / n_steps) ** 2)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_schedules_hold_at_the_edges(schedule):
    start = 0.3 if schedule == "constant" else 0.0
    assert alpha_at(schedule, 0, 0, 0.3) == start  # the official code divides by zero here
    assert alpha_at(schedule, 5, 0, 0.3) == start
    assert alpha_at(schedule, 12, 10, 0.3) == 0.3  # it overshoots here
    assert alpha_at(schedule, -1, 10, 0.3) == start
