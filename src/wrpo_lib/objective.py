"""The objectives as pure functions: tensors in, per-example losses and detached rewards out.

Notation of the paper: policy πθ, reference πref, log-ratio lr(y) = log πθ(y|x) − log πref(y|x)
summed over response tokens, internal reward r(x, y) = β·lr(y). Responses: y_ws from the sources
(``source``), y_wt from the target (``target``), y_l (``rejected``). α is the fusion coefficient.
Every log-probability is a tensor of shape (B,), in nats; every loss returns :class:`Objective`
and raises :class:`~wrpo_lib.errors.WRPOError` for other shapes and for α outside [0, 1].
"""

from __future__ import annotations

from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor

from wrpo_lib.errors import WRPOError

SCHEDULES = ("linear", "constant", "quadratic")


class Rewards(NamedTuple):
    """Detached rewards of the three responses and of the fused pair, each (B,)."""

    source: Tensor
    target: Tensor
    fused: Tensor
    rejected: Tensor


class Objective(NamedTuple):
    """``losses``: (B,), differentiable; ``rewards``: detached."""

    losses: Tensor
    rewards: Rewards


def _check_shapes(*tensors: Tensor) -> None:
    """All (B,): a (B, 1) among them would broadcast and compare unrelated examples."""
    shapes = [tuple(t.shape) for t in tensors]
    if len(shapes[0]) != 1 or len(set(shapes)) > 1:
        listed = ", ".join(map(str, shapes))
        raise WRPOError(
            f"log-probabilities and lengths must share one shape (B,), got {listed} in the order "
            "of the arguments; squeeze or align them"
        )


def _check_alpha(alpha: float) -> None:
    if not 0.0 <= alpha <= 1.0:
        raise WRPOError(f"alpha is {alpha}, outside [0, 1]; choose a fusion coefficient in [0, 1]")


def internal_reward(policy_logps: Tensor, ref_logps: Tensor, beta: float) -> Tensor:
    """r(x, y) = β·[log πθ(y|x) − log πref(y|x)], (B,): the reward up to β·log Z(x).

    A higher β keeps the policy closer to the reference. Carries the gradient of ``policy_logps``.
    """
    _check_shapes(policy_logps, ref_logps)
    return beta * (policy_logps - ref_logps)


def fused_reward(source: Tensor, target: Tensor, alpha: float) -> Tensor:
    """α·r(x, y_ws) + (1−α)·r(x, y_wt), (B,).

    The weights sum to 1, so β·log Z(x) cancels against the rejected reward for every α.
    """
    _check_alpha(alpha)
    _check_shapes(source, target)
    return alpha * source + (1.0 - alpha) * target


def _objective(
    losses: Tensor, source: Tensor, target: Tensor, fused: Tensor, rejected: Tensor
) -> Objective:
    return Objective(losses, Rewards(*(t.detach() for t in (source, target, fused, rejected))))


def wrpo_loss(
    policy_source: Tensor,
    policy_target: Tensor,
    policy_rejected: Tensor,
    ref_source: Tensor,
    ref_target: Tensor,
    ref_rejected: Tensor,
    *,
    alpha: float,
    beta: float,
) -> Objective:
    """WRPO in its DPO form: −log σ(α·r(x, y_ws) + (1−α)·r(x, y_wt) − r(x, y_l)).

    The paper's objective; gradient −β·σ(−u)·[α∇log π(y_ws) + (1−α)∇log π(y_wt) − ∇log π(y_l)]
    with u the margin. α = 0 is DPO on (y_wt, y_l), α = 1 is DPO on (y_ws, y_l).
    """
    _check_shapes(
        policy_source, policy_target, policy_rejected, ref_source, ref_target, ref_rejected
    )
    source = internal_reward(policy_source, ref_source, beta)  # (B,)
    target = internal_reward(policy_target, ref_target, beta)  # (B,)
    rejected = internal_reward(policy_rejected, ref_rejected, beta)  # (B,)
    fused = fused_reward(source, target, alpha)  # (B,)
    return _objective(-F.logsigmoid(fused - rejected), source, target, fused, rejected)


def wrpo_ipo_loss(
    policy_source: Tensor,
    policy_target: Tensor,
    policy_rejected: Tensor,
    ref_source: Tensor,
    ref_target: Tensor,
    ref_rejected: Tensor,
    *,
    alpha: float,
    tau: float,
) -> Objective:
    """WRPO in its IPO form: (α·lr(y_ws) + (1−α)·lr(y_wt) − lr(y_l) − 1/(2τ))².

    Summed log-ratios as in the paper; TRL's ``ipo`` divides them by the response length instead,
    so its values and its best τ differ. The rewards reported are τ·lr: τ has the role of β, and a
    higher τ keeps the policy closer to the reference.
    """
    _check_shapes(
        policy_source, policy_target, policy_rejected, ref_source, ref_target, ref_rejected
    )
    source = internal_reward(policy_source, ref_source, 1.0)  # (B,)
    target = internal_reward(policy_target, ref_target, 1.0)  # (B,)
    rejected = internal_reward(policy_rejected, ref_rejected, 1.0)  # (B,)
    fused = fused_reward(source, target, alpha)  # (B,)
    losses = (fused - rejected - 1.0 / (2.0 * tau)) ** 2
    return _objective(losses, tau * source, tau * target, tau * fused, tau * rejected)


def wrpo_simpo_loss(
    policy_source: Tensor,
    policy_target: Tensor,
    policy_rejected: Tensor,
    source_length: Tensor,
    target_length: Tensor,
    rejected_length: Tensor,
    *,
    alpha: float,
    beta: float,
    gamma: float,
) -> Objective:
    """WRPO in its SimPO form, without a reference.

    −log σ(α·β/|y_ws|·log πθ(y_ws) + (1−α)·β/|y_wt|·log πθ(y_wt) − β/|y_l|·log πθ(y_l) − γ);
    lengths (B,) in response tokens, end token included, each at least 1. A higher γ asks for a
    wider margin. Table 6 has γ = 0 here and γ = 1 for SimPO itself.
    """
    _check_shapes(
        policy_source, policy_target, policy_rejected, source_length, target_length, rejected_length
    )
    source = beta * policy_source / source_length  # (B,)
    target = beta * policy_target / target_length  # (B,)
    rejected = beta * policy_rejected / rejected_length  # (B,)
    fused = fused_reward(source, target, alpha)  # (B,)
    return _objective(-F.logsigmoid(fused - rejected - gamma), source, target, fused, rejected)


def dpo_loss(
    policy_chosen: Tensor,
    policy_rejected: Tensor,
    ref_chosen: Tensor,
    ref_rejected: Tensor,
    *,
    beta: float,
) -> Objective:
    """DPO: −log σ(r(x, y_w) − r(x, y_l)); WRPO with one chosen response."""
    return wrpo_loss(policy_chosen, policy_chosen, policy_rejected,
                     ref_chosen, ref_chosen, ref_rejected, alpha=0.0, beta=beta)  # fmt: skip


def ipo_loss(
    policy_chosen: Tensor,
    policy_rejected: Tensor,
    ref_chosen: Tensor,
    ref_rejected: Tensor,
    *,
    tau: float,
) -> Objective:
    """IPO: (lr(y_w) − lr(y_l) − 1/(2τ))², summed log-ratios as in the paper."""
    return wrpo_ipo_loss(policy_chosen, policy_chosen, policy_rejected,
                         ref_chosen, ref_chosen, ref_rejected, alpha=0.0, tau=tau)  # fmt: skip


def simpo_loss(
    policy_chosen: Tensor,
    policy_rejected: Tensor,
    chosen_length: Tensor,
    rejected_length: Tensor,
    *,
    beta: float,
    gamma: float,
) -> Objective:
    """SimPO: −log σ(β/|y_w|·log πθ(y_w) − β/|y_l|·log πθ(y_l) − γ), no reference."""
    return wrpo_simpo_loss(policy_chosen, policy_chosen, policy_rejected,
                           chosen_length, chosen_length, rejected_length,
                           alpha=0.0, beta=beta, gamma=gamma)  # fmt: skip


def alpha_at(schedule: str, step: int, n_steps: int, alpha_max: float) -> float:
    """The fusion coefficient α(t) before update t = ``step`` of N = ``n_steps``.

    - ``linear`` (the paper, official code): α_max·t/N, so the first update has α = 0 and the last
      α_max·(N−1)/N;
    - ``constant``: α_max;
    - ``quadratic`` (ours, the convex rise drawn in the inset of Figure 2): α_max·(t/N)².

    Steps past N keep α_max; N = 0 (nothing to train) gives the value at the start.
    """
    _check_alpha(alpha_max)
    if schedule not in SCHEDULES:
        raise WRPOError(f"unknown alpha schedule {schedule!r}; choose {', '.join(SCHEDULES)}")
    if schedule == "constant":
        return alpha_max
    share = min(max(step, 0) / n_steps, 1.0) if n_steps > 0 else 0.0
    return alpha_max * (share if schedule == "linear" else share**2)
