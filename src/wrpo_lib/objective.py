"""The objectives as pure functions: tensors in, per-example losses and detached rewards out.

Notation of the paper: policy πθ, reference πref, log-ratio lr(y) = log πθ(y|x) − log πref(y|x)
summed over response tokens, internal reward r(x, y) = β·lr(y). Responses: y_ws from the sources
(``source``), y_wt from the target (``target``), y_l (``rejected``). α is the fusion coefficient.
Every log-probability is a tensor of shape (B,), in nats; every loss returns :class:`Objective`
and raises :class:`~wrpo_lib.errors.WRPOError` for other shapes and for α outside [0, 1].
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Mapping
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


def _check_alpha(alpha: float, name: str = "alpha") -> None:
    if not 0.0 <= alpha <= 1.0:
        raise WRPOError(f"{name} is {alpha}, outside [0, 1]; choose a fusion coefficient in [0, 1]")


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
    return weighted_reward(
        {"source": source, "target": target}, {"source": alpha, "target": 1.0 - alpha}
    )


class Weights(NamedTuple):
    """Weights of the chosen and of the rejected responses, by name; each side sums to 1."""

    chosen: dict[str, float]
    rejected: dict[str, float]


class WeightedObjective(NamedTuple):
    """``losses`` (B,), differentiable; detached (B,): ``rewards`` by name and of the two sides."""

    losses: Tensor
    rewards: dict[str, Tensor]
    chosen: Tensor
    rejected: Tensor


def fusion_weights(
    alpha: float, shares: Mapping[str, float] | None = None, alpha_rejected: float = 0.0
) -> Weights:
    """WRPO's weights for K source responses and, if wanted, a dispreferred source response.

    Chosen: α·share of each source response, 1−α of ``target_chosen``; K = 1 is the paper's, more
    is ours. Rejected (Table 10 has y_ls, the paper does not give its form; this is ours): α' =
    ``alpha_rejected`` of ``source_rejected``, 1−α' of ``rejected``. Both sides sum to 1, so
    β·log Z(x) cancels for every α, α' and all shares; with equal source responses the shares do
    not matter, α' = 0 leaves WRPO, and α = α' = 1 is DPO between sources.

    :param shares: of the source responses, by name; they sum to 1.
    """
    _check_alpha(alpha)
    _check_alpha(alpha_rejected, "alpha_rejected")
    shares = {"source_chosen": 1.0} if shares is None else shares
    if not shares or min(shares.values()) < 0 or abs(sum(shares.values()) - 1.0) > 1e-6:
        raise WRPOError(
            f"the shares of the source responses are {dict(shares)}; give numbers of 0 or more "
            "that sum to 1"
        )
    chosen = {name: alpha * share for name, share in shares.items()}
    rejected = {"rejected": 1.0 - alpha_rejected}
    if alpha_rejected:
        rejected["source_rejected"] = alpha_rejected
    return Weights({**chosen, "target_chosen": 1.0 - alpha}, rejected)


def weighted_reward(rewards: Mapping[str, Tensor], weights: Mapping[str, float]) -> Tensor:
    """Σ w·r(x, y) over the responses of one side, (B,); one of weight 0 may be missing.

    :raises WRPOError: for a response that has a weight and no reward.
    """
    if lost := [name for name, weight in weights.items() if weight and name not in rewards]:
        raise WRPOError(f"no log-probabilities of {lost[0]!r}, which has a weight; compute them")
    terms = [weight * rewards[name] for name, weight in weights.items() if name in rewards]
    return functools.reduce(operator.add, terms)


def _sides(
    rewards: Mapping[str, Tensor], weights: Weights
) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    _check_shapes(*rewards.values())
    chosen, rejected = (weighted_reward(rewards, side) for side in weights)
    return chosen, rejected, {name: reward.detach() for name, reward in rewards.items()}


def _log_ratios(
    policy: Mapping[str, Tensor], reference: Mapping[str, Tensor], beta: float
) -> dict[str, Tensor]:
    return {name: internal_reward(logps, reference[name], beta) for name, logps in policy.items()}


def weighted_loss(
    policy: Mapping[str, Tensor], reference: Mapping[str, Tensor], weights: Weights, *, beta: float
) -> WeightedObjective:
    """DPO form for any number of responses: −log σ(Σ w·r(x, y_w) − Σ w·r(x, y_l))."""
    chosen, rejected, rewards = _sides(_log_ratios(policy, reference, beta), weights)
    losses = -F.logsigmoid(chosen - rejected)
    return WeightedObjective(losses, rewards, chosen.detach(), rejected.detach())


def weighted_ipo_loss(
    policy: Mapping[str, Tensor], reference: Mapping[str, Tensor], weights: Weights, *, tau: float
) -> WeightedObjective:
    """IPO form: (Σ w·lr(y_w) − Σ w·lr(y_l) − 1/(2τ))²; the rewards reported are τ·lr."""
    chosen, rejected, ratios = _sides(_log_ratios(policy, reference, 1.0), weights)
    losses = (chosen - rejected - 1.0 / (2.0 * tau)) ** 2
    rewards = {name: tau * ratio for name, ratio in ratios.items()}
    return WeightedObjective(losses, rewards, tau * chosen.detach(), tau * rejected.detach())


def weighted_simpo_loss(
    policy: Mapping[str, Tensor],
    lengths: Mapping[str, Tensor],
    weights: Weights,
    *,
    beta: float,
    gamma: float,
) -> WeightedObjective:
    """SimPO form, r(y) = β/|y|·log πθ(y): −log σ(Σ w·r(y_w) − Σ w·r(y_l) − γ)."""
    _check_shapes(*policy.values(), *(lengths[name] for name in policy))
    means = {name: beta * logps / lengths[name] for name, logps in policy.items()}
    chosen, rejected, rewards = _sides(means, weights)
    losses = -F.logsigmoid(chosen - rejected - gamma)
    return WeightedObjective(losses, rewards, chosen.detach(), rejected.detach())


_NAMES = ("source_chosen", "target_chosen", "rejected")


def _named(*tensors: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Policy and reference (or lengths) of y_ws, y_wt, y_l by name."""
    _check_shapes(*tensors)
    first, second = tensors[:3], tensors[3:]
    return dict(zip(_NAMES, first, strict=True)), dict(zip(_NAMES, second, strict=True))


def _objective(found: WeightedObjective) -> Objective:
    source, target, rejected = (found.rewards[name] for name in _NAMES)
    return Objective(found.losses, Rewards(source, target, found.chosen, rejected))


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
    policy, reference = _named(policy_source, policy_target, policy_rejected,
                               ref_source, ref_target, ref_rejected)  # fmt: skip
    return _objective(weighted_loss(policy, reference, fusion_weights(alpha), beta=beta))


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
    policy, reference = _named(policy_source, policy_target, policy_rejected,
                               ref_source, ref_target, ref_rejected)  # fmt: skip
    return _objective(weighted_ipo_loss(policy, reference, fusion_weights(alpha), tau=tau))


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
    policy, lengths = _named(policy_source, policy_target, policy_rejected,
                             source_length, target_length, rejected_length)  # fmt: skip
    weights = fusion_weights(alpha)
    return _objective(weighted_simpo_loss(policy, lengths, weights, beta=beta, gamma=gamma))


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
