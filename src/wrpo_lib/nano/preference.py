"""Preference training of nano policies: which response plays which role, the loss, the dynamics."""

import hashlib
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from wrpo_lib import objective
from wrpo_lib.nano.batch import PAD, Params, fit, norms, shared_logps
from wrpo_lib.nano.fusion import Model, Pool
from wrpo_lib.nano.world import World


def sft_form(policy_source: Tensor, *others: Tensor, alpha: float) -> objective.Objective:
    """−log π(y_ws|x) per token, for the control that goes on with SFT; rewards are log π."""
    target, rejected, length, *_ = others
    rewards = map(Tensor.detach, (policy_source, target, policy_source, rejected))
    return objective.Objective(-policy_source / length, objective.Rewards(*rewards))


FORMS: dict[str, Any] = {**objective.FORMS, "sft": (sft_form, ())}
"""A form of the objective and its fields; α = 0 is the pairwise form on (y_wt, y_l)."""

WS, WT, L, LS = range(4)
"""Places of y_ws, y_wt, y_l and, if there is one, the dispreferred source response y_ls."""

POINTS, PROBE, SHARE_ROWS = 9, 64, 16
"""Points of the dynamics, before the first step to after the last; quadruples they are of (the
gradient share of y_ws takes the first of these)."""


@dataclass(frozen=True)
class Arm:
    """One preference run. Fields of the loss are those of :mod:`wrpo_lib.objective`.

    ``own``: the model whose samples, five or ten, give y_wt and y_l. ``random_sources``: how many
    sources, drawn in each world, in place of the listed ones. ``take``: which response is y_ws:
    ``best``, ``second``, ``wrong`` (the best of those that are not right), or ``spare`` (the best
    of five further samples of ``own``). ``rejected``: y_l is ``own``'s worst or the ``source``'s.
    ``mix``: in place of a weighted reward, y_ws is y_wt with probability α(t), and α is 0.
    """

    id: str
    start: str = "target_sft"
    own: str = "target_sft"
    own_samples: int = 5
    sources: list[int] = field(default_factory=lambda: [1, 2, 3, 4, 5, 6])
    random_sources: int = 0
    take: str = "best"
    rejected: str = "own"
    sigma: float | None = None  # s.d. of the reward's noise; the recipe's if None
    form: str = "dpo"
    alpha: float = 0.0
    schedule: str = "linear"
    alpha_rejected: float = 0.0
    mix: bool = False
    settings: dict[str, float] = field(default_factory=dict)  # learning_rate, beta, tau, gamma

    def alpha_at(self, step: int, steps: int) -> float:
        """The weight of y_ws before update ``step``."""
        return objective.alpha_at(self.schedule, step, steps, self.alpha)

    @property
    def roles(self) -> list[int]:
        """The roles with a weight in the loss at some step."""
        always = self.alpha == 1 and self.schedule == "constant"
        used = [self.alpha > 0 and not self.mix, not always, True, self.alpha_rejected > 0]
        return [role for role, is_used in enumerate(used) if is_used]

    def loss(self, logps: Tensor, other: Tensor, step: int, steps: int) -> objective.Objective:
        """The objective of rows (S, B, roles) before update ``step``, flat: (S·B,); ``other``: the
        reference's log π, or lengths (SimPO, SFT)."""
        function, names = FORMS[self.form]
        tensors = [x[..., r].flatten() for x in (logps, other) for r in (WS, WT, L)]
        options: dict[str, Any] = {name: self.settings[name] for name in names}
        if self.alpha_rejected:
            options["policy_dispreferred"] = logps[..., LS].flatten()
            options["ref_dispreferred"] = other[..., LS].flatten()
            given = self.schedule, step, steps, self.alpha_rejected
            options["alpha_rejected"] = objective.alpha_at(*given)
        alpha = 0.0 if self.mix else self.alpha_at(step, steps)
        return function(*tensors, alpha=alpha, **options)


def quadruples(
    worlds: list[World], pool: Pool, arm: Arm, sigma: float
) -> tuple[Tensor, np.ndarray]:
    """Rows (S, N, 4, T) of y_ws, y_wt, y_l, y_ls, and which of them (S, N) are kept: those whose
    preferred and dispreferred response differ."""
    sources = []
    for world in worlds:  # fewer random sources are among the more
        order = world.rng(13).permutation(arm.sources).tolist()
        sources.append([f"source_{k}" for k in order[: arm.random_sources] or arm.sources])
    own, spare = [arm.own], [f"{arm.own}_spare"]
    own += spare if arm.own_samples == 10 else []
    if arm.take == "wrong":
        wrong = replace(pool, quality=np.where(pool.quality == 1, -9.0, pool.quality))
        source = wrong.best(sources, sigma)
    else:
        rank = 2 if arm.take == "second" else 1
        source = pool.best([spare] if arm.take == "spare" else sources, sigma, rank)
    worst_source = pool.best(sources, sigma, lowest=True)
    worst = worst_source if arm.rejected == "source" else pool.best([own], sigma, lowest=True)
    slots = [source, pool.best([own], sigma), worst, worst_source]
    rows = torch.stack([pool.rows(slot) for slot in slots], dim=2)
    preferred = rows[:, :, WS if arm.rejected == "source" else WT]
    return rows, (preferred != rows[:, :, L]).any(-1).numpy()


def drawn(worlds: list[World], rows: Tensor, kept: np.ndarray, n: int, purpose: int) -> Tensor:
    """``n`` kept rows of each world (S, n, 4, T) in an order that is the same for every arm; where
    they are too few, they repeat."""
    found = []
    for world, of_world, keep in zip(worlds, rows, kept, strict=True):
        order = world.rng(10, purpose).permutation(len(keep))
        found.append(of_world[np.resize(order[keep[order]], n)])
    return torch.stack(found)


class Run:
    """One arm in S worlds: quadruples, reference, training, dynamics.

    ``known``: log-probabilities of references, which arms on the same rows share.
    """

    def __init__(
        self,
        worlds: list[World],
        arm: Arm,
        start: Model,
        pools: dict[str, Pool],
        how: Any,
        known: dict[tuple[str, bytes], Tensor] | None = None,
    ) -> None:
        self.worlds, self.arm, self.start = worlds, arm, start
        self.known = {} if known is None else known
        self.steps, self.batch = how["steps"], how["batch"]
        sigma = worlds[0].recipe["reward"]["sigma"] if arm.sigma is None else arm.sigma
        rows, kept = quadruples(worlds, pools["preference"], arm, sigma)
        self.kept = kept.sum(1)
        self.rows = drawn(worlds, rows, kept, self.steps * self.batch, 0)
        heldout = drawn(worlds, *quadruples(worlds, pools["heldout"], arm, sigma), PROBE, 1)
        of_loss = slice(L + 1 + (arm.alpha_rejected > 0))
        self.probes = {
            "train": self.rows[:, :PROBE, of_loss],
            "heldout": heldout[:, :, of_loss],
        }
        if arm.mix:
            at = np.repeat([arm.alpha_at(k, self.steps) for k in range(self.steps)], self.batch)
            swap = torch.from_numpy(np.stack([w.rng(11).random(len(at)) < at for w in worlds]))
            chosen = torch.where(swap[..., None], self.rows[:, :, WS], self.rows[:, :, WT])
            self.rows = self.rows.index_copy(2, torch.tensor([WT]), chosen[:, :, None])
        self.rows = self.rows[:, :, arm.roles]  # what has no weight is not computed
        self.other = {name: self.second(rows) for name, rows in self.probes.items()}
        self.reference = self.second(self.rows)
        self.dynamics: list[dict[str, Any]] = []

    def logps(self, params: Params, rows: Tensor) -> Tensor:
        """log π (S, B, roles) with gradient."""
        return shared_logps(params, rows, self.start.prompt, self.start.shape.heads)

    def second(self, rows: Tensor) -> Tensor:
        """What the loss takes beside log π (S, B, roles)."""
        if self.arm.form in ("simpo", "sft"):
            return (rows[..., self.start.prompt :] != PAD).sum(-1).float()
        key = self.arm.start, hashlib.blake2b(rows.numpy().tobytes()).digest()
        if key not in self.known:
            with torch.no_grad():
                parts = [self.logps(self.start.params, part) for part in rows.split(128, dim=1)]
            self.known[key] = torch.cat(parts, dim=1)
        return self.known[key]

    def loss(self, params: Params, batch: Tensor, step: int) -> Tensor:
        """The arm's loss of each world (S,) at a step."""
        found, roles = self.logps(params, batch), self.arm.roles
        other = self.reference[:, step * self.batch : (step + 1) * self.batch]
        # what has no weight is read from another role
        place = [roles.index(role) if role in roles else 0 for role in (WS, WT, L, LS)]
        result = self.arm.loss(found[..., place], other[..., place], step, self.steps)
        return result.losses.view(found.shape[:2]).mean(1)

    def train(self) -> Model:
        """The trained members; ``losses`` (steps, S) and ``dynamics`` are kept."""
        batches = iter(self.rows.split(self.batch, dim=1))
        spec = self.arm.settings | {"steps": self.steps}
        params, self.losses = fit(self.start.params, batches, self.loss, spec, self.log)
        return replace(self.start, params=params)

    def log(self, params: Params, step: int) -> None:
        """Add a point of the dynamics, if it is one's turn."""
        if step not in np.linspace(0, self.steps, POINTS).round():
            return
        alpha = self.arm.alpha_at(step, self.steps)
        share = self.source_share(params, step)
        for split, rows in self.probes.items():
            with torch.no_grad():
                logps = self.logps(params, rows)
                result = self.arm.loss(logps, self.other[split], step, self.steps)
            s, b = rows.shape[:2]
            ws, wt, fused, low = (reward.view(s, b) for reward in result.rewards)
            columns = {
                "reward_ws": ws,
                "reward_wt": wt,
                "reward_l": low,
                "margin": fused - low,
                "accuracy": (ws > low).float(),
                "accuracy_wt": (wt > low).float(),
                "loss": result.losses.view(s, b),
            }
            for k, world in enumerate(self.worlds):
                row = {"arm": self.arm.id, "seed": world.seed, "step": step, "split": split}
                row |= {name: float(value[k].mean()) for name, value in columns.items()}
                of_source = float(share[k]) if split == "train" else np.nan
                self.dynamics.append(row | {"alpha": alpha, "source_share": of_source})

    def source_share(self, params: Params, step: int) -> Tensor:
        """The share (S,) of y_ws in the gradients' norms of the two preferred responses, each of
        what the response adds to the gradient of the loss, its weight included."""
        alpha = self.arm.alpha_at(step, self.steps)
        if self.arm.mix or not 0 < alpha < 1:
            return torch.full((len(self.worlds),), float("nan") if self.arm.mix else alpha)
        rows, other = (x[:, :SHARE_ROWS] for x in (self.probes["train"], self.other["train"]))
        tensors = list(params.values())
        logps = self.logps(params, rows)
        losses = self.arm.loss(logps, other, step, self.steps).losses
        (weights,) = torch.autograd.grad(losses.sum(), logps, retain_graph=True)
        parts = [(weights[..., role] * logps[..., role]).sum() for role in (WS, WT)]
        ws, wt = (norms(torch.autograd.grad(part, tensors, retain_graph=True)) for part in parts)
        return ws / (ws + wt)
