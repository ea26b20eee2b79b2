"""Choosing by reward: which response of each prompt is y_ws, y_wt and y_l (paper section 3.2).

For a prompt x: y_ws is the response with the highest reward among all responses of all sources,
y_wt the best and y_l the worst of the target's own samples. Ties are resolved by a rule that does
not depend on the order of rows or files (the paper is silent; ours).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from wrpo_lib.errors import WRPOError

if TYPE_CHECKING:
    import pandas as pd

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
        if self.rank < 1:
            raise WRPOError(f"rank {self.rank} must be 1 or more; raise it")
        if self.needs_target and not self.target:
            raise WRPOError(f"pairing {self.pairs} needs the target's name; give --target MODEL")

    @property
    def needs_target(self) -> bool:
        """Whether y_wt or y_l is part of what is written."""
        return self.pairs in ("quadruples", "dpo-on", "dpo-hybrid")

    @property
    def roles(self) -> tuple[str, str]:
        """The preferred and the dispreferred role."""
        if self.pairs == "quadruples" and self.rejected_from == "source":
            return "source_chosen", "source_rejected"
        return PAIRS[self.pairs]

    @property
    def written(self) -> list[str]:
        """The roles whose texts a row holds."""
        if self.pairs != "quadruples":
            return [name for name in self.roles if name]
        more = ["source_rejected"] if self.dispreferred else []
        return list(dict.fromkeys(["source_chosen", "target_chosen", self.roles[1], *more]))


def best(responses: pd.DataFrame, rank: int = 1, lowest: bool = False) -> pd.DataFrame:
    """The response with the highest reward of each prompt, by prompt_id; ties: ``TIE_RULE``.

    ``rank`` 2 takes the second best and so on; prompts with fewer responses are left out.
    """
    by = ["prompt_id", "reward", "model", "sample"]
    ranked = responses.sort_values(by, ascending=[True, lowest, True, True])
    return ranked.groupby("prompt_id", observed=True).nth(rank - 1).set_index("prompt_id")


def worst(responses: pd.DataFrame) -> pd.DataFrame:
    """The response with the lowest reward of each prompt, by prompt_id; ties: ``TIE_RULE``."""
    return best(responses, lowest=True)


def choose(frame: pd.DataFrame, pairing: Pairing) -> pd.DataFrame:
    """The position in ``frame`` of every needed role, by prompt_id; NaN where there is none."""
    import pandas as pd

    models = sorted(frame["model"].unique())
    own_names = [pairing.target] if pairing.needs_target else []
    names = pairing.sources or [name for name in models if name != pairing.target]
    for name in (*names, *own_names):
        if name not in models:
            raise WRPOError(f"no response of {name!r} in the files; they have {', '.join(models)}")
    frame = frame.assign(position=np.arange(len(frame)))
    usable = frame[(frame["length"] > 0) & ~(pairing.drop_truncated & frame["truncated"])]
    source, own = (usable[usable["model"].isin(group)] for group in (names, own_names))
    chosen = {"source_chosen": best(source, pairing.rank)}
    if pairing.needs_target:
        chosen |= {"target_chosen": best(own), "rejected": worst(own)}
    if "source_rejected" in pairing.written:
        chosen["source_rejected"] = worst(source)
    if pairing.pairs == "within-source":
        winner = chosen["source_chosen"]["model"].astype(str)
        same = source[source["prompt_id"].map(winner).astype(str) == source["model"]]
        chosen |= {"within_chosen": best(same), "within_rejected": worst(same)}
    return pd.DataFrame(
        {name: found["position"].rename(index=str) for name, found in chosen.items()}
    )


def left_out(
    roles: pd.DataFrame, frame: pd.DataFrame, pairing: Pairing, excluded: Iterable[str] = ()
) -> np.ndarray:
    """Why each prompt of ``roles`` is left out: the first reason, empty if it is kept."""
    own = roles.columns.isin(["target_chosen", "rejected"])
    reasons = {
        "excluded": roles.index.isin(list(excluded)),
        "missing_source": roles.loc[:, ~own].isna().any(axis=1),
        "missing_target": roles.loc[:, own].isna().any(axis=1),
    }
    preferred, lost = pairing.roles
    if lost:
        at = roles[[preferred, lost]].fillna(0).to_numpy(int)  # 0 where a reason is found already
        reward, length = (frame[name].to_numpy()[at] for name in ("reward", "length"))
        gap = reward[:, 0] - reward[:, 1]
        limit = np.inf if pairing.max_length_ratio is None else pairing.max_length_ratio
        reasons |= {
            "tied": gap <= 0,
            "small_gap": gap < pairing.min_gap,
            "large_gap": gap > (np.inf if pairing.max_gap is None else pairing.max_gap),
            "length_ratio": length.max(1) > limit * np.maximum(length.min(1), 1),
        }
    return np.select(list(reasons.values()), list(reasons), default="")
