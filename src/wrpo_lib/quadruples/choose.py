"""Choosing by reward: which response of each prompt becomes y_ws, y_wt and y_l.

Numbers in, positions out; no text is read here. Ties are resolved by a stated rule that does not
depend on the order of rows or files: among equal rewards the model whose name comes first in the
alphabet, then the lowest sample number (the paper is silent; ours).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from wrpo_lib.errors import WRPOError

if TYPE_CHECKING:
    from wrpo_lib.quadruples.responses import ResponseTable

TIE_RULE = "equal rewards: model name in alphabetical order, then the lowest sample number"
PAIRS: dict[str, tuple[str, str]] = {
    "quadruples": ("target_chosen", "rejected"),
    "dpo-on": ("target_chosen", "rejected"),
    "dpo-hybrid": ("source_chosen", "rejected"),
    "dpo-off": ("source_chosen", "source_rejected"),
    "within-source": ("within_chosen", "within_rejected"),
    "sft": ("source_chosen", ""),
}
"""What is written -> the preferred and the dispreferred role, which the gap options compare."""


@dataclass(frozen=True)
class Pairing:
    """What to pair and what to leave out.

    ``target``: the model whose samples give y_wt and y_l (``sft``, ``dpo-off`` and
    ``within-source`` need none); ``sources``: the models that may give y_ws, every other one if
    None; ``rank``: 1 for the best source response, 2 for the second best and so on (Table 9);
    ``top_k``: also the best responses of the next ``top_k - 1`` sources, each of another model;
    ``dispreferred``: also the worst source response (Table 10).

    A prompt is left out when its preferred and dispreferred response differ in reward by less than
    ``min_gap`` or more than ``max_gap`` (FuseChat-3.0 uses 0.01 and 0.1 with ArmoRM), when the
    longer has more than ``max_length_ratio`` times the characters of the shorter, or when both are
    the same text (unless ``keep_identical``). Equal rewards are always left out. With
    ``drop_truncated`` a response that hit the token limit is never chosen; an empty one never is.
    """

    target: str | None = None
    pairs: str = "quadruples"
    sources: tuple[str, ...] | None = None
    rank: int = 1
    top_k: int = 1
    dispreferred: bool = False
    rejected_from: str = "target"
    min_gap: float = 0.0
    max_gap: float | None = None
    max_length_ratio: float | None = None
    keep_identical: bool = False
    drop_truncated: bool = False

    def __post_init__(self) -> None:
        if self.pairs not in PAIRS:
            raise WRPOError(f"cannot pair {self.pairs!r}; choose one of {', '.join(PAIRS)}")
        if self.rejected_from not in ("target", "source"):
            raise WRPOError(f"rejected_from is {self.rejected_from!r}; choose 'target' or 'source'")
        if self.rank < 1 or self.top_k < 1:
            raise WRPOError(
                f"rank {self.rank} and top_k {self.top_k} must be 1 or more; raise them"
            )
        if self.rank > 1 and self.top_k > 1:
            raise WRPOError("rank and top_k cannot both be above 1; choose one of them")
        if self.needs_target and not self.target:
            raise WRPOError(f"pairing {self.pairs} needs the target's name; give --target MODEL")

    @property
    def needs_target(self) -> bool:
        """Whether y_wt or y_l is part of what is written."""
        return self.pairs in ("quadruples", "dpo-on", "dpo-hybrid")

    @property
    def roles(self) -> tuple[str, str]:
        """The preferred and the dispreferred role."""
        preferred, lost = PAIRS[self.pairs]
        if self.pairs == "quadruples" and self.rejected_from == "source":
            return "source_chosen", "source_rejected"
        return preferred, lost

    def as_dict(self) -> dict[str, Any]:
        """The options by name."""
        return asdict(self)


def first_of_each(
    table: ResponseTable, usable: np.ndarray, worst: bool = False, rank: int = 1
) -> np.ndarray:
    """The position of the ``rank``-th best (or worst) usable row of each prompt, -1 if none.

    Shape (number of prompts,), in the order of ``table.prompts``.
    """
    order = _ranked(table, np.flatnonzero(usable), worst)
    codes, starts, counts = np.unique(table.prompt[order], return_index=True, return_counts=True)
    found = np.full(len(table.prompts), -1)
    enough = counts >= rank
    found[codes[enough]] = order[starts[enough] + rank - 1]
    return found


def _ranked(table: ResponseTable, rows: np.ndarray, worst: bool = False) -> np.ndarray:
    """``rows`` by prompt, best (or worst) first, ties by :data:`TIE_RULE`."""
    reward = table.reward[rows] if worst else -table.reward[rows]
    order = np.lexsort((table.sample[rows], table.model[rows], reward, table.prompt[rows]))
    return rows[order]


def best_of_next_models(table: ResponseTable, usable: np.ndarray, top_k: int) -> np.ndarray:
    """Positions (number of prompts, top_k) of the best response of the best, second best ... model.

    -1 where fewer models answered.
    """
    order = _ranked(table, np.flatnonzero(usable))
    pair = table.prompt[order].astype(np.int64) * len(table.models) + table.model[order]
    _, leading = np.unique(pair, return_index=True)  # the best row of each (prompt, model)
    order = order[np.sort(leading)]
    codes, starts, counts = np.unique(table.prompt[order], return_index=True, return_counts=True)
    found = np.full((len(table.prompts), top_k), -1)
    for k in range(top_k):
        enough = counts > k
        found[codes[enough], k] = order[starts[enough] + k]
    return found


def is_source(table: ResponseTable, pairing: Pairing) -> np.ndarray:
    """Which rows may give y_ws; an unknown name is an error."""
    target = {pairing.target} if pairing.target else set()
    names = set(table.models) - target if pairing.sources is None else set(pairing.sources)
    asked = names | (target if pairing.needs_target else set())
    for name in sorted(asked - set(table.models)):
        raise WRPOError(
            f"no response of {name!r} in the files; they have {', '.join(table.models)}"
        )
    chosen = np.array([name in names for name in table.models])
    return chosen[table.model]


def choose(table: ResponseTable, pairing: Pairing) -> dict[str, np.ndarray]:
    """The position of every role for each prompt of ``table.prompts``, -1 where there is none.

    Roles: ``source_chosen``, ``target_chosen``, ``rejected``; as asked for ``source_rejected``,
    ``within_chosen`` and ``within_rejected``, and ``source_chosen_2`` ... for further sources.
    """
    usable = (table.length > 0) & ~(pairing.drop_truncated & table.truncated)
    source = is_source(table, pairing) & usable
    roles = {"source_chosen": first_of_each(table, source, rank=pairing.rank)}
    if pairing.target in table.models:
        own = (table.model == table.models.index(pairing.target)) & usable
        roles["target_chosen"] = first_of_each(table, own)
        roles["rejected"] = first_of_each(table, own, worst=True)
    if pairing.roles[1] == "source_rejected" or pairing.dispreferred:
        roles["source_rejected"] = first_of_each(table, source, worst=True)
    if pairing.pairs == "within-source":
        model = np.where(roles["source_chosen"] >= 0, table.model[roles["source_chosen"]], -1)
        same = source & (table.model == model[table.prompt])
        roles["within_chosen"] = first_of_each(table, same)
        roles["within_rejected"] = first_of_each(table, same, worst=True)
    if pairing.top_k > 1:
        ranked = best_of_next_models(table, source, pairing.top_k)
        roles |= {f"source_chosen_{k + 1}": ranked[:, k] for k in range(1, pairing.top_k)}
    return roles


def reasons(
    table: ResponseTable, pairing: Pairing, roles: dict[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """Why prompts are left out, by reason: masks over ``table.prompts``, the first reason only."""
    preferred, lost = pairing.roles
    needed = [name for name in roles if name != "source_chosen"]
    found = {"missing_source": roles["source_chosen"] < 0}
    found["missing_target"] = np.zeros(len(table.prompts), bool)
    for name in needed:
        kind = "missing_target" if name in ("target_chosen", "rejected") else "missing_source"
        if kind == "missing_source" or pairing.needs_target:
            found[kind] = found[kind] | (roles[name] < 0)
    if lost:
        won, low = table.reward[roles[preferred]], table.reward[roles[lost]]
        gap, sizes = won - low, np.stack([table.length[roles[r]] for r in (preferred, lost)])
        found["tied"] = gap <= 0
        found["small_gap"] = gap < pairing.min_gap
        found["large_gap"] = gap > (np.inf if pairing.max_gap is None else pairing.max_gap)
        limit = np.inf if pairing.max_length_ratio is None else pairing.max_length_ratio
        found["length_ratio"] = sizes.max(0) > limit * np.maximum(sizes.min(0), 1)
    seen = np.zeros(len(table.prompts), bool)
    for name, mask in found.items():
        found[name] = mask & ~seen
        seen |= mask
    return found
