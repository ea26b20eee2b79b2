"""The objectives as pure functions: tensors in, per-example losses and detached rewards out.

Policy πθ and reference πref (``ref``) by summed log-probabilities log π(y|x) in nats; internal
reward r(x, y) = β·log πθ(y|x)/πref(y|x). Responses: y_ws from the sources (``source``), y_wt and
y_l from the target (``target``, ``rejected``). α is the fusion coefficient, the weight of y_ws.
Tensors are (B,); other shapes and an α outside [0, 1] raise :class:`~wrpo_lib.errors.WRPOError`.
"""

from typing import Any, NamedTuple

import torch.nn.functional as F
from torch import Tensor

from wrpo_lib.errors import WRPOError

SCHEDULES = ("linear", "constant", "quadratic")


class Rewards(NamedTuple):
    """Detached rewards (B,); of one chosen response the first three are the same."""

    source: Tensor
    target: Tensor
    fused: Tensor
    rejected: Tensor


class Objective(NamedTuple):
    """``losses``: (B,), differentiable; ``rewards``: detached."""

    losses: Tensor
    rewards: Rewards


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
    policy_dispreferred: Tensor | None = None,
    ref_dispreferred: Tensor | None = None,
    alpha_rejected: float = 0.0,
) -> Objective:
    """WRPO, DPO form: −log σ(α·r(x, y_ws) + (1−α)·r(x, y_wt) − r(x, y_l)).

    α = 0 is DPO on (y_wt, y_l), α = 1 is DPO on (y_ws, y_l). A higher ``beta`` keeps the policy
    closer to the reference. A dispreferred source response y_ls joins the rejected side with the
    weight ``alpha_rejected`` (Table 10 reports it without its form; this one is ours).
    """
    policies = (policy_source, policy_target, policy_rejected)
    _check(alpha, *policies, ref_source, ref_target, ref_rejected)
    _check(alpha_rejected)
    if alpha_rejected and (policy_dispreferred is None or ref_dispreferred is None):
        raise WRPOError("alpha_rejected needs both log-probabilities of the dispreferred response")
    # r(x, y) = β·[log πθ(y|x) − log πref(y|x)]
    r_ws = beta * (policy_source - ref_source)
    r_wt = beta * (policy_target - ref_target)
    r_l = beta * (policy_rejected - ref_rejected)
    if policy_dispreferred is not None and ref_dispreferred is not None:
        _check(alpha, policy_rejected, policy_dispreferred, ref_dispreferred)
        r_ls = beta * (policy_dispreferred - ref_dispreferred)
        r_l = alpha_rejected * r_ls + (1 - alpha_rejected) * r_l
    fused = alpha * r_ws + (1 - alpha) * r_wt  # the fused reward
    losses = -F.logsigmoid(fused - r_l)
    return _objective(losses, r_ws, r_wt, fused, r_l)


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
    """WRPO, IPO form: (α·lr(y_ws) + (1−α)·lr(y_wt) − lr(y_l) − 1/(2τ))², lr = log πθ/πref.

    Summed log-ratios as in the paper; TRL's ``ipo`` divides them by the response length, so its
    values and its best τ differ. The rewards reported are τ·lr: τ has the role of β.
    """
    policies = (policy_source, policy_target, policy_rejected)
    _check(alpha, *policies, ref_source, ref_target, ref_rejected)
    # lr(y) = log πθ(y|x) − log πref(y|x)
    lr_ws = policy_source - ref_source
    lr_wt = policy_target - ref_target
    lr_l = policy_rejected - ref_rejected
    fused = alpha * lr_ws + (1 - alpha) * lr_wt  # the fused log-ratio
    losses = (fused - lr_l - 1 / (2 * tau)) ** 2  # (h − 1/(2τ))²
    return _objective(losses, tau * lr_ws, tau * lr_wt, tau * fused, tau * lr_l)


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
    """WRPO, SimPO form: −log σ(α·r(y_ws) + (1−α)·r(y_wt) − r(y_l) − γ), r(y) = β/|y|·log πθ(y|x).

    No reference. Lengths in tokens, end token included. A higher ``gamma`` asks for a wider margin.
    """
    policies = (policy_source, policy_target, policy_rejected)
    _check(alpha, *policies, source_length, target_length, rejected_length)
    # r(y) = β/|y|·log πθ(y|x)
    r_ws = beta * policy_source / source_length
    r_wt = beta * policy_target / target_length
    r_l = beta * policy_rejected / rejected_length
    fused = alpha * r_ws + (1 - alpha) * r_wt  # the fused reward
    losses = -F.logsigmoid(fused - r_l - gamma)
    return _objective(losses, r_ws, r_wt, fused, r_l)


def dpo_loss(
    chosen: Tensor, rejected: Tensor, ref_chosen: Tensor, ref_rejected: Tensor, *, beta: float
) -> Objective:
    """DPO: −log σ(r(x, y_w) − r(x, y_l))."""
    _check(0.0, chosen, rejected, ref_chosen, ref_rejected)
    # r(x, y) = β·[log πθ(y|x) − log πref(y|x)]
    r_w = beta * (chosen - ref_chosen)
    r_l = beta * (rejected - ref_rejected)
    losses = -F.logsigmoid(r_w - r_l)
    return _objective(losses, r_w, r_w, r_w, r_l)


def ipo_loss(
    chosen: Tensor, rejected: Tensor, ref_chosen: Tensor, ref_rejected: Tensor, *, tau: float
) -> Objective:
    """IPO: (lr(y_w) − lr(y_l) − 1/(2τ))², summed log-ratios as in the paper."""
    _check(0.0, chosen, rejected, ref_chosen, ref_rejected)
    # lr(y) = log πθ(y|x) − log πref(y|x)
    lr_w = chosen - ref_chosen
    lr_l = rejected - ref_rejected
    losses = (lr_w - lr_l - 1 / (2 * tau)) ** 2  # (h − 1/(2τ))²
    return _objective(losses, tau * lr_w, tau * lr_w, tau * lr_w, tau * lr_l)


def simpo_loss(
    chosen: Tensor,
    rejected: Tensor,
    n_chosen: Tensor,
    n_rejected: Tensor,
    *,
    beta: float,
    gamma: float,
) -> Objective:
    """SimPO: −log σ(β/|y_w|·log πθ(y_w|x) − β/|y_l|·log πθ(y_l|x) − γ), no reference."""
    _check(0.0, chosen, rejected, n_chosen, n_rejected)
    # r(y) = β/|y|·log πθ(y|x)
    r_w = beta * chosen / n_chosen
    r_l = beta * rejected / n_rejected
    losses = -F.logsigmoid(r_w - r_l - gamma)
    return _objective(losses, r_w, r_w, r_w, r_l)


FORMS: dict[str, tuple[Any, tuple[str, ...]]] = {
    "dpo": (wrpo_loss, ("beta",)),
    "ipo": (wrpo_ipo_loss, ("tau",)),
    "simpo": (wrpo_simpo_loss, ("beta", "gamma")),
}
"""WRPO's loss by form, with its hyperparameters; at α = 0 or 1 it is the pairwise loss."""


def alpha_at(schedule: str, step: int, n_steps: int, alpha_max: float) -> float:
    """The fusion coefficient α(t) before update t = ``step`` of N = ``n_steps``.

    ``linear`` (the paper): α_max·t/N; ``constant``: α_max; ``quadratic`` (ours, the convex rise
    drawn in the inset of Figure 2): α_max·(t/N)². After N it is constant.
    """
    _check(alpha_max)
    if schedule not in SCHEDULES:
        raise WRPOError(f"unknown alpha schedule {schedule!r}; choose {', '.join(SCHEDULES)}")
    if schedule == "constant":
        return alpha_max
    share = min(max(step, 0) / n_steps, 1.0) if n_steps > 0 else 0.0
    return alpha_max * (share if schedule == "linear" else share**2)


def _check(alpha: float, *tensors: Tensor) -> None:
    """All (B,): a (B, 1) among them would broadcast and compare unrelated examples."""
    if not 0.0 <= alpha <= 1.0:
        raise WRPOError(f"alpha is {alpha}, outside [0, 1]; choose a fusion coefficient in [0, 1]")
    shapes = {tuple(t.shape) for t in tensors}
    if len(shapes) > 1 or any(len(shape) != 1 for shape in shapes):
        what = f"must share one shape (B,), got {', '.join(map(str, sorted(shapes)))}; align them"
        raise WRPOError(f"log-probabilities and lengths {what}")


def _objective(losses: Tensor, *rewards: Tensor) -> Objective:
    return Objective(losses, Rewards(*(reward.detach() for reward in rewards)))
